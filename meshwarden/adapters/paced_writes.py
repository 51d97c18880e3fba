"""Writes to the API server that wait for their turn: some at once, no faster than allowed, each
failure tried again later.

What waits is replaced as a whole (`wanted`), so there is never more of it than there is to be
written, and nothing old is written. A write that fails for its own sake waits alone; where the API
server is away, or asks for patience, all wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass

from meshwarden.adapters.kubernetes_client import ApiFailure
from meshwarden.adapters.logs import logger
from meshwarden.adapters.telemetry import Tally
from meshwarden.core.backoff import Backoff
from meshwarden.core.pace import Pace

WRITES_AT_ONCE = 5
LOOK_SECONDS = 0.25
"""How often it is looked whether a wait is over or we may write again."""

_GONE, _CONFLICT, _FORBIDDEN, _TOO_MANY, _FAULTY = 404, 409, 403, 429, 500

Write = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Allowance:
    """Writes `per_second`, and `burst` after a time without; the wait after failures in a row."""

    per_second: float = 10
    burst: int = 50
    retry: Backoff = Backoff(initial_seconds=0.5, at_most_seconds=30)  # noqa: RUF009 it is frozen


class PacedWrites:
    """`run` does what is `wanted`, in its order, while `may_write()`; `counted` counts each try as
    `written`, `conflict` or `failed`.
    """

    def __init__(
        self,
        allowance: Allowance,
        *,
        may_write: Callable[[], bool],
        counted: Tally,
        clock: Callable[[], float],
        chance: Callable[[], float],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._may_write = may_write
        self._counted = counted
        self._clock = clock
        self._chance = chance
        self._pause = pause
        self._retry = allowance.retry
        self._pace = Pace(per_second=allowance.per_second, burst=allowance.burst)
        self._wanted: dict[Hashable, Write] = {}
        self._failures: dict[Hashable, tuple[int, float]] = {}
        self._server_failures = 0
        self._resumes_at = float("-inf")
        self._failure = ""
        self._busy: set[Hashable] = set()
        self._look = asyncio.Event()

    @property
    def waiting(self) -> int:
        return len(self._wanted)

    def want(self, writes: Mapping[Hashable, Write]) -> None:
        """From now on do these, and nothing else that waited; equal keys are the same write."""
        self._wanted = dict(writes)
        self._failures = {key: how for key, how in self._failures.items() if key in writes}
        self._look.set()

    async def run(self) -> None:
        """Write for ever; what is under way when this is cancelled is cancelled too."""
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                now = self._clock()
                key = self._next(now) if len(running) < WRITES_AT_ONCE else None
                if key is None or not self._may_write():
                    await self._wait()
                elif not self._pace.is_taken(now=now):
                    await self._pause(self._pace.wait_seconds(now=now))
                else:
                    self._busy.add(key)
                    task = asyncio.create_task(self._tried(key, self._wanted[key]))
                    running.add(task)
                    task.add_done_callback(running.discard)
        finally:
            for task in list(running):
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            self._busy.clear()

    def _next(self, now: float) -> Hashable | None:
        """The first that may be tried now."""
        if now < self._resumes_at:
            return None
        for key in self._wanted:
            if key not in self._busy and self._failures.get(key, (0, now))[1] <= now:
                return key
        return None

    async def _wait(self) -> None:
        self._look.clear()
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self._look.wait()
        except TimeoutError:
            return

    async def _tried(self, key: Hashable, write: Write) -> None:
        try:
            await write()
        except ApiFailure as failure:
            self._fail(key, failure)
        else:
            self._counted.add("written")
            self._wanted.pop(key, None)
            self._failures.pop(key, None)
            self._server_failures = 0
            if self._failure:
                logger().info("statuses_written_again")
                self._failure = ""
        finally:
            self._busy.discard(key)
            self._look.set()

    def _fail(self, key: Hashable, failure: ApiFailure) -> None:
        if failure.status in (_CONFLICT, _GONE):
            # Ordinary: somebody was faster. The watch tells what is there now.
            self._counted.add("conflict")
        else:
            self._counted.add("failed")
            self._log(key, failure)
        count = self._failures.get(key, (0, 0.0))[0] + 1
        wait = self._retry.seconds(count, chance=self._chance())
        self._failures[key] = (count, self._clock() + wait)
        if not failure.status or failure.status == _TOO_MANY or failure.status >= _FAULTY:
            self._server_failures += 1
            wait = self._retry.seconds(self._server_failures, chance=self._chance())
            self._resumes_at = self._clock() + wait

    def _log(self, key: Hashable, failure: ApiFailure) -> None:
        """The first of a row, and each that differs from the one before."""
        what = str(failure)
        if failure.status == _FORBIDDEN:
            what += " (grant patch of /status of our kinds to the ServiceAccount)"
        if what != self._failure:
            logger().warning("status_not_written", object=str(key), reason=what)
        self._failure = what
