"""The line of requests that wait for one node of Redis.

    admit, enter -> waits in line -> the sender takes all who wait -> one round trip -> each its own

Requests that arrive while a call is under way wait for the next one and share it, so a busy service
makes few calls and one connection is enough. A breaker leaves a node alone that failed several
times in a row, so that its callers needn't wait for the time limit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from redis import exceptions

from meshwarden.adapters.logs import logger
from meshwarden.adapters.redis_client import LIBRARY_ERRORS, translated
from meshwarden.adapters.redis_topology import Redis, Script, ScriptCall
from meshwarden.core.breaker import Breaker
from meshwarden.core.faults import Unavailable
from ratelimit_service.adapters.redis_script import SCRIPT
from ratelimit_service.core.model import Increment, LeftOut, Mode, Outcome

COUNTERS_PER_CALL = 1000
WAITING_AT_MOST = 10_000
CLOCK_STEP_SECONDS = 0.001
"""Of uvloop's clock, by which a timer may be early."""

_SCRIPT = Script(SCRIPT)
_CLOSED = Unavailable("redis: the store is closed")


class _Waiting(NamedTuple):
    """What one request counts in one group of keys."""

    group: int
    mode: Mode
    increments: Sequence[Increment]
    answer: asyncio.Future[list[Outcome]]
    deadline: float


class Line:
    """`jitter` gives seconds to add to a counter's life; `monotonic` is for the breaker."""

    def __init__(
        self,
        redis: Redis,
        node: str,
        *,
        time_limit_seconds: float,
        jitter: Callable[[], int],
        breaker: Breaker,
        monotonic: Callable[[], float],
    ) -> None:
        self._redis = redis
        self._node = node
        self._time_limit_seconds = time_limit_seconds
        self._jitter = jitter
        self._breaker = breaker
        self._monotonic = monotonic
        self._waiting: deque[_Waiting] = deque()
        self._unanswered: deque[_Waiting] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._sender: asyncio.Task[None] | None = None
        self._last_failure = ""
        self._is_closed = False

    @property
    def waiting_count(self) -> int:
        """Requests that are in line for the next call."""
        return len(self._waiting)

    @property
    def is_open(self) -> bool:
        """Whether the breaker is open: requests are refused at once."""
        return self._breaker.is_open

    def admit(self) -> None:
        """Return where a request may enter, however many groups of keys it counts in here: it is
        asked for once, since an open breaker lets one request through.

        Raises `Unavailable` when the line is full or the breaker is open.
        """
        if self._is_closed:
            raise Unavailable(_CLOSED.problems)
        if len(self._waiting) >= WAITING_AT_MOST:
            raise Unavailable(f"redis: more than {WAITING_AT_MOST} requests wait for it")
        if not self._breaker.permits(self._monotonic()):
            raise Unavailable(f"redis: not asked for the moment: {self._last_failure}")

    def enter(
        self, group: int, increments: Sequence[Increment], mode: Mode
    ) -> asyncio.Future[list[Outcome]]:
        """What will come of `increments`, whose keys are all of `group`; after `admit`. It raises
        `Unavailable` after the time limit.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Outcome]] = loop.create_future()
        deadline = loop.time() + self._time_limit_seconds
        waiting = _Waiting(group, mode, increments, answer, deadline)
        self._waiting.append(waiting)
        self._unanswered.append(waiting)
        if self._timer is None:
            self._timer = loop.call_at(deadline, self._expire)
        if self._sender is None:
            self._sender = loop.create_task(self._send())
        return answer

    def _expire(self) -> None:
        """Fail who has waited too long. One timer serves all: who came first is first to be late,
        and a timer for each request costs more than its share of a call.
        """
        loop = asyncio.get_running_loop()
        due = loop.time() + CLOCK_STEP_SECONDS
        while self._unanswered and self._unanswered[0].deadline <= due:
            late = translated(TimeoutError(), time_limit_seconds=self._time_limit_seconds)
            _fail([self._unanswered.popleft()], late)
        self._forget_answered()
        self._timer = None
        if self._unanswered:
            self._timer = loop.call_at(self._unanswered[0].deadline, self._expire)

    def _forget_answered(self) -> None:
        while self._unanswered and self._unanswered[0].answer.done():
            self._unanswered.popleft()

    async def close(self) -> None:
        """Who still waits is told that Redis is unavailable, and so is who comes later."""
        self._is_closed = True
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)
        _fail(self._waiting, _CLOSED)
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()

    async def _send(self) -> None:
        """Call Redis for all who wait, until nobody does."""
        try:
            batch = self._next_batch()
            while batch:
                batch = await self._sent(batch) or self._next_batch()
        finally:
            self._sender = None

    async def _sent(self, batch: list[list[_Waiting]]) -> list[list[_Waiting]]:
        """Call for `batch`, in which each part is one call; gives what is to be sent once more.

        While a Cluster moves a slot it refuses a call of several of its keys (TRYAGAIN), and
        executes nothing of it: each request of such a part goes by itself then.
        """
        try:
            answers = await self._redis.call_script(_SCRIPT, [self._call(part) for part in batch])
        except LIBRARY_ERRORS as error:
            answers = [error] * len(batch)
        except asyncio.CancelledError:
            for part in batch:
                _fail(part, _CLOSED)
            raise
        again: list[list[_Waiting]] = []
        answered = []
        for part, answer in zip(batch, answers, strict=True):
            if isinstance(answer, exceptions.TryAgainError) and len(part) > 1:
                again += [[waiting] for waiting in part]
            else:
                answered.append((part, answer))
        self._share(answered)
        return again

    def _next_batch(self) -> list[list[_Waiting]]:
        """Those who wait, together where their keys are of one group."""
        parts: dict[int, list[_Waiting]] = {}
        count = 0
        while self._waiting and (not count or count < COUNTERS_PER_CALL):
            waiting = self._waiting.popleft()
            if not waiting.answer.done():
                parts.setdefault(waiting.group, []).append(waiting)
                count += len(waiting.increments)
        return list(parts.values())

    def _call(self, part: Sequence[_Waiting]) -> ScriptCall:
        """The script's call for `part`: a run for each mode that is judged, one for all others."""
        keys: list[str] = []
        arguments: list[str | int] = []
        run_at, run_length = -1, 0
        for waiting in part:
            is_judged = waiting.mode is not Mode.ALWAYS
            if is_judged or run_at < 0:
                run_at, run_length = len(arguments), 0
                arguments += (int(waiting.mode), 0)
            for key, hits, window, at_most, effect in waiting.increments:
                keys.append(key)
                arguments += (hits, window.seconds + self._jitter())
                if is_judged:
                    arguments += (at_most, int(effect))
            run_length += len(waiting.increments)
            arguments[run_at + 1] = run_length
            if is_judged:
                run_at = -1
        return ScriptCall(tuple(keys), tuple(arguments))

    def _share(self, answered: Sequence[tuple[Sequence[_Waiting], Any]]) -> None:
        failure: Unavailable | None = None
        for part, answer in answered:
            if not isinstance(answer, BaseException):
                _give(part, answer)
                continue
            fault = translated(answer, time_limit_seconds=self._time_limit_seconds)
            _fail(part, fault)
            # A slot that is being moved says nothing against the node, which answered.
            if not isinstance(answer, exceptions.TryAgainError):
                failure = fault
        self._forget_answered()
        self._note(failure)

    def _note(self, failure: Unavailable | None) -> None:
        """Tell the breaker, and the log when it opens or closes."""
        was_open = self._breaker.is_open
        if failure is None:
            self._breaker.succeeded()
        else:
            self._last_failure = str(failure).removeprefix("redis: ")
            self._breaker.failed(self._monotonic())
        if self._breaker.is_open and not was_open:
            logger().error("store_breaker_opened", node=self._node, reason=self._last_failure)
        elif was_open and not self._breaker.is_open:
            logger().info("store_breaker_closed", node=self._node)


def _fail(part: Iterable[_Waiting], fault: Unavailable) -> None:
    for waiting in part:
        if not waiting.answer.done():
            waiting.answer.set_exception(Unavailable(fault.problems, retryable=fault.retryable))


def _give(part: Sequence[_Waiting], answer: Sequence[Any]) -> None:
    """Give each request its part; a key that Redis refused fails its own request alone."""
    position = 0
    for waiting in part:
        own = answer[position : position + len(waiting.increments)]
        position += len(waiting.increments)
        if waiting.answer.done():
            continue
        refused = next((one for one in own if isinstance(one, (bytes, str))), None)
        if refused is None:
            waiting.answer.set_result([_outcome(one) for one in own])
        else:
            text = refused.decode("utf-8", "replace") if isinstance(refused, bytes) else refused
            waiting.answer.set_exception(Unavailable(f"redis: {text}"))


def _outcome(answer: Any) -> Outcome:
    if isinstance(answer, int):
        return answer
    count, over = answer
    return LeftOut(count, over == 1)
