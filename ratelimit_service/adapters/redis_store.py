"""Counters in Redis: exact over any number of processes, one round trip, bounded in time.

    add -> the line of the node that holds the counters (redis_line) -> one script call
    add, counters of several nodes or slots -> their lines at once; judged ones are read first

A caller waits at most the time limit of the Redis that is asked, connecting included; what was sent
and not answered in time may have been counted, so a slow Redis can cost hits but never admits too
many. Known weaknesses: a request that `stops_when_over_limit` judges over several servers or slots
is read, then counted, in two round trips with others in between; what a failed-over master had not
yet sent to its replica is forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from meshwarden.adapters.redis_client import LIBRARY_ERRORS, translated
from meshwarden.adapters.redis_topology import Redis
from meshwarden.core.breaker import Breaker
from ratelimit_service.adapters.redis_line import Line
from ratelimit_service.core.counter import left_out
from ratelimit_service.core.model import Increment, Mode, Outcome
from ratelimit_service.core.window import Unit


class Breaking(NamedTuple):
    """When a node is left alone, and for how long."""

    failures_at_most: int
    pause_seconds: float


class RedisStore:
    """Counts as `core.counter` says; `jitter` gives seconds to add to a counter's life.

    With `per_second` the counters of one second stand there, all others in `redis`.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        breaking: Breaking,
        jitter: Callable[[], int],
        monotonic: Callable[[], float],
        per_second: Redis | None = None,
    ) -> None:
        self._redis = redis
        self._per_second = per_second
        self._breaking = breaking
        self._jitter = jitter
        self._monotonic = monotonic
        self._lines: dict[tuple[bool, str], Line] = {}

    @property
    def waiting_count(self) -> int:
        """Requests that are in line for the next call."""
        return sum(line.waiting_count for line in self._lines.values())

    @property
    def open_breaker_count(self) -> int:
        """Nodes that are not asked for the moment, save one call after each pause."""
        nodes = self._nodes()
        return sum(line.is_open for name, line in self._lines.items() if name in nodes)

    def add(
        self, increments: Sequence[Increment], *, mode: Mode = Mode.ALWAYS, now: int
    ) -> Awaitable[list[Outcome]]:
        """What will come of each increment; Redis expires by itself, without `now`.

        Raises `Unavailable`, at once or awaited, when Redis doesn't answer in time, or refuses.
        """
        del now
        parts = self._parts(increments)
        if len(parts) != 1:
            return self._added_in_parts(increments, parts, mode)
        ((is_per_second, group),) = parts
        line = self._line(is_per_second, group)
        line.admit()
        return line.enter(group, increments, mode)

    async def _added_in_parts(
        self,
        increments: Sequence[Increment],
        parts: dict[tuple[bool, int], list[int]],
        mode: Mode,
    ) -> list[Outcome]:
        seconds = max(
            (self._at(is_per_second).time_limit_seconds for is_per_second, _ in parts), default=0
        )
        try:
            async with asyncio.timeout(seconds):
                if mode is not Mode.ALWAYS:
                    return await self._read_then_added(increments, mode)
                return list(await self._added(increments, parts))
        except TimeoutError as error:
            raise translated(error, time_limit_seconds=seconds) from None

    async def ping(self) -> None:
        """Return when every Redis answers. Raises `Unavailable` when one doesn't in time."""
        for redis in self._all():
            seconds = redis.time_limit_seconds
            try:
                async with asyncio.timeout(seconds):
                    await redis.ping()
            except LIBRARY_ERRORS as error:
                raise translated(error, time_limit_seconds=seconds) from error

    async def close(self) -> None:
        """Close the connections; who still waits is told that Redis is unavailable."""
        for line in self._lines.values():
            await line.close()
        for redis in self._all():
            await redis.close()

    def _all(self) -> list[Redis]:
        return [redis for redis in (self._redis, self._per_second) if redis is not None]

    def _parts(self, increments: Sequence[Increment]) -> dict[tuple[bool, int], list[int]]:
        """Where the counters are: (per-second Redis or not, group of keys) to their positions."""
        parts: dict[tuple[bool, int], list[int]] = {}
        for position, increment in enumerate(increments):
            is_per_second = self._per_second is not None and increment.window.unit is Unit.SECOND
            group = self._at(is_per_second).group_of(increment.key)
            parts.setdefault((is_per_second, group), []).append(position)
        return parts

    def _at(self, is_per_second: bool) -> Redis:
        per_second = self._per_second
        return per_second if is_per_second and per_second is not None else self._redis

    def _line(self, is_per_second: bool, group: int) -> Line:
        """The line of the node that holds `group` now."""
        redis = self._at(is_per_second)
        node = redis.node_of(group)
        line = self._lines.get((is_per_second, node))
        if line is None:
            self._forget_lines()
            line = self._lines[(is_per_second, node)] = Line(
                redis,
                node,
                time_limit_seconds=redis.time_limit_seconds,
                jitter=self._jitter,
                breaker=Breaker(
                    failures_at_most=self._breaking.failures_at_most,
                    pause_seconds=self._breaking.pause_seconds,
                ),
                monotonic=self._monotonic,
            )
        return line

    def _forget_lines(self) -> None:
        """Those of nodes that hold no counters any more; who waits in them is still answered."""
        nodes = self._nodes()
        self._lines = {name: line for name, line in self._lines.items() if name in nodes}

    def _nodes(self) -> set[tuple[bool, str]]:
        """The nodes that hold counters now, each with whether it is of the per-second Redis."""
        found = {(False, node) for node in self._redis.nodes()}
        if self._per_second is not None:
            found |= {(True, node) for node in self._per_second.nodes()}
        return found

    async def _added(
        self, increments: Sequence[Increment], parts: dict[tuple[bool, int], list[int]]
    ) -> list[int]:
        """Counted part by part, all at once. One part's fault is the request's."""
        lines = {part: self._line(*part) for part in parts}
        for line in set(lines.values()):
            line.admit()
        waiting = [
            (positions, lines[part].enter(part[1], [increments[p] for p in positions], Mode.ALWAYS))
            for part, positions in parts.items()
        ]
        found: list[int] = [0] * len(increments)
        answers = await asyncio.gather(*(answer for _, answer in waiting))
        for (positions, _), counts in zip(waiting, answers, strict=True):
            for position, count in zip(positions, counts, strict=True):
                # Nothing is left out in the mode ALWAYS.
                found[position] = count if isinstance(count, int) else count.stands_at
        return found

    async def _read_then_added(self, increments: Sequence[Increment], mode: Mode) -> list[Outcome]:
        looks = [increment._replace(hits=0) for increment in increments]
        counts = await self._added(looks, self._parts(looks))
        known = {look.key: count for look, count in zip(looks, counts, strict=True)}
        left = left_out(increments, mode=mode, read=lambda increment: known[increment.key])
        own = [increment for increment, one in zip(increments, left, strict=True) if one is None]
        added = iter(await self._added(own, self._parts(own)))
        return [next(added) if one is None else one for one in left]
