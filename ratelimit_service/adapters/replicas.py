"""How many processes share the counters, and what time it is at Redis.

Each process says at an interval that it lives, in one sorted set in Redis scored by Redis' own
time; whoever said so lately is counted. The last count known serves when Redis is away: the local
approximation divides each limit by it. The same answer tells Redis' time, which the windows of all
replicas follow: they differ by half a round trip at most, not by what the machines' clocks differ.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from meshwarden.adapters.logs import logger
from meshwarden.adapters.redis_client import LIBRARY_ERRORS
from meshwarden.adapters.redis_topology import Redis, Script, ScriptCall

INTERVAL_SECONDS = 1.0
LIVES_SECONDS = 5
ROUND_TRIP_AT_MOST_SECONDS = 0.1
"""An answer that took longer tells too little about the time."""
SKEW_TOLD_SECONDS = 1.0

SCRIPT = Script(f"""
local time = redis.call('TIME')
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', time[1] - {LIVES_SECONDS})
redis.call('ZADD', KEYS[1], time[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], {10 * LIVES_SECONDS})
return {{redis.call('ZCARD', KEYS[1]), time[1], time[2]}}
""")


class Replicas:
    """`name` is this process's own; `key` is the same for all who share the counters.

    `clock` gives seconds since the epoch, `monotonic` seconds of a clock that only goes forward.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        name: str,
        key: str,
        count: int,
        time_limit_seconds: float,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._redis = redis
        self._call = ScriptCall((key,), (name,))
        self._time_limit_seconds = time_limit_seconds
        self._clock = clock
        self._monotonic = monotonic
        self._is_skew_told = False
        self._is_failure_told = False
        self._counts = deque([count], maxlen=round(LIVES_SECONDS / INTERVAL_SECONDS))
        self.offset_seconds = 0.0
        """What to add to our clock to have Redis'."""

    @property
    def count(self) -> int:
        """The most that were counted lately, so that a Redis just come back, to which not all have
        spoken yet, gives nobody too large a share; at first what the settings say.
        """
        return max(self._counts)

    async def run(self, pause: Callable[[float], Awaitable[None]]) -> None:
        """Beat for ever; a beat that fails changes nothing."""
        while True:
            await self.beat()
            await pause(INTERVAL_SECONDS)

    async def beat(self) -> None:
        """Say once that we live, and note what Redis answers."""
        began = self._monotonic()
        try:
            async with asyncio.timeout(self._time_limit_seconds):
                (answer,) = await self._redis.call_script(SCRIPT, [self._call])
        except LIBRARY_ERRORS as error:
            answer = error
        self._tell_failure(answer)
        if isinstance(answer, BaseException):
            return
        took = self._monotonic() - began
        count, seconds, microseconds = (int(part) for part in answer)
        self._counts.append(count)
        if took <= ROUND_TRIP_AT_MOST_SECONDS:
            there = seconds + microseconds / 1e6
            self.offset_seconds = there - (self._clock() - took / 2)
            self._tell_skew()

    def now(self) -> float:
        """Seconds since the epoch, by Redis' clock as far as it is known."""
        return self._clock() + self.offset_seconds

    def _tell_failure(self, answer: object) -> None:
        has_failed = isinstance(answer, BaseException)
        if has_failed and not self._is_failure_told:
            reason = str(answer) or type(answer).__name__
            logger().warning("replicas_not_counted", last_count=self.count, reason=reason)
        self._is_failure_told = has_failed

    def _tell_skew(self) -> None:
        is_skewed = abs(self.offset_seconds) > SKEW_TOLD_SECONDS
        if is_skewed and not self._is_skew_told:
            logger().warning("clock_differs_from_redis", seconds=round(self.offset_seconds, 3))
        self._is_skew_told = is_skewed
