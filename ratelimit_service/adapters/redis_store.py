"""Counters in Redis: exact over any number of processes, one round trip, bounded in time.

    add -> waits in line -> sender takes all who wait -> one EVALSHA -> each gets its counts

Requests that arrive while a call is under way wait for the next one and share it, so a busy service
makes few calls and one connection is enough. A caller waits at most the time limit, connecting
included; what was sent and not answered in time may have been counted, so a slow Redis can cost
hits but never admits too many. Known weaknesses: a Redis Cluster would refuse keys of several slots
in one call; windows follow this machine's clock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from redis import exceptions

from meshwarden.adapters.redis_client import LIBRARY_ERRORS, client, translated
from meshwarden.core.faults import Unavailable
from ratelimit_service.adapters.redis_script import SCRIPT, SCRIPT_DIGEST
from ratelimit_service.core.model import Increment

COUNTERS_PER_CALL = 1000
WAITING_AT_MOST = 10_000

_CLOSED = Unavailable("redis: the store is closed")


class _Waiting(NamedTuple):
    increments: Sequence[Increment]
    answer: asyncio.Future[list[int]]


class RedisStore:
    """Counts as `core.counter` says; `jitter` gives seconds to add to a counter's life.

    Raises `Misconfigured` when `url` is none.
    """

    def __init__(
        self,
        url: str,
        *,
        auth: str = "",
        time_limit_seconds: float,
        jitter: Callable[[], int],
    ) -> None:
        self._time_limit_seconds = time_limit_seconds
        self._jitter = jitter
        self._waiting: deque[_Waiting] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._redis = client(url, auth=auth)

    @property
    def waiting_count(self) -> int:
        """Requests that are in line for the next call."""
        return len(self._waiting)

    async def add(self, increments: Sequence[Increment], *, now: int) -> list[int]:
        """Each counter's value after its own increment; Redis expires by itself, without `now`.

        Raises `Unavailable` when Redis doesn't answer in time, or refuses.
        """
        del now
        if len(self._waiting) >= WAITING_AT_MOST:
            raise Unavailable(f"redis: more than {WAITING_AT_MOST} requests wait for it")
        answer: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(increments, answer))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send())
        try:
            async with asyncio.timeout(self._time_limit_seconds):
                return await answer
        except TimeoutError as error:
            raise self._fault(error) from None

    async def ping(self) -> None:
        """Return when Redis answers. Raises `Unavailable` when it doesn't in time."""
        try:
            async with asyncio.timeout(self._time_limit_seconds):
                await self._redis.execute_command("PING")
        except LIBRARY_ERRORS as error:
            raise self._fault(error) from error

    async def close(self) -> None:
        """Close the connections; who still waits is told that Redis is unavailable."""
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)
        _fail(self._waiting, _CLOSED)
        self._waiting.clear()
        await self._redis.aclose()

    async def _send(self) -> None:
        """Call Redis for all who wait, until nobody does."""
        try:
            while batch := self._next_batch():
                try:
                    async with asyncio.timeout(self._time_limit_seconds):
                        counts = await self._count(batch)
                except LIBRARY_ERRORS as error:
                    _fail(batch, self._fault(error))
                except asyncio.CancelledError:
                    _fail(batch, _CLOSED)
                    raise
                else:
                    _share(batch, counts)
        finally:
            self._sender = None

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        count = 0
        while self._waiting and (not batch or count < COUNTERS_PER_CALL):
            waiting = self._waiting.popleft()
            if not waiting.answer.done():
                batch.append(waiting)
                count += len(waiting.increments)
        return batch

    async def _count(self, batch: list[_Waiting]) -> list[Any]:
        keys: list[str] = []
        arguments: list[int] = []
        for waiting in batch:
            for increment in waiting.increments:
                keys.append(increment.key)
                arguments += (increment.hits, increment.window.seconds + self._jitter())
        command = (len(keys), *keys, *arguments)
        try:
            counts = await self._redis.execute_command("EVALSHA", SCRIPT_DIGEST, *command)
        except exceptions.NoScriptError:
            counts = await self._redis.execute_command("EVAL", SCRIPT, *command)
        return list(counts)

    def _fault(self, error: BaseException) -> Unavailable:
        return translated(error, time_limit_seconds=self._time_limit_seconds)


def _fail(batch: Iterable[_Waiting], fault: Unavailable) -> None:
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_exception(Unavailable(fault.problems, retryable=fault.retryable))


def _share(batch: Sequence[_Waiting], counts: Sequence[Any]) -> None:
    """Give each request its part; a key that Redis refused fails its own request alone."""
    position = 0
    for waiting in batch:
        own = counts[position : position + len(waiting.increments)]
        position += len(waiting.increments)
        if waiting.answer.done():
            continue
        refused = next((answer for answer in own if isinstance(answer, bytes)), None)
        if refused is None:
            waiting.answer.set_result([int(answer) for answer in own])
        else:
            text = refused.decode("utf-8", "replace")
            waiting.answer.set_exception(Unavailable(f"redis: {text}"))
