"""Calls that go on while a test breaks Redis: what each was answered, and how long it took."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from meshwarden.adapters.redis_topology import Redis, Script, ScriptCall
from tests.support.measured import measured
from tests.support.processes import PAUSE_SECONDS, until

COUNT = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
"""Adds ARGV[1] to the counter KEYS[1]."""

LATE_SECONDS = 0.3
"""A call may end this much after its limit: the tests share two cores with a dozen servers."""

REPLICA_LAG_SECONDS = 0.5
"""What a master counted this long before its end, its replica has: on loopback some milliseconds
do, but for the machine's stalls."""


def count(key: str, hits: int = 1) -> ScriptCall:
    return ScriptCall((key,), (hits,))


class Turn(NamedTuple):
    """One round of calls, one for each key."""

    began: float
    seconds: float
    answers: dict[str, Any]

    @property
    def is_whole(self) -> bool:
        """Whether every key was counted."""
        return all(isinstance(answer, int) for answer in self.answers.values())


class Traffic:
    """Counts every key, again and again, until the block ends."""

    def __init__(self, redis: Redis, keys: Sequence[str]) -> None:
        self.turns: list[Turn] = []
        self.ends = False
        self._redis = redis
        self._keys = keys

    async def go_on(self) -> None:
        """Call until `ends`; the last round is whole, so that no call is missing in `turns`."""
        loop = asyncio.get_running_loop()
        while not self.ends:
            began = loop.time()
            answers = await self._redis.call_script(COUNT, [count(key) for key in self._keys])
            named = dict(zip(self._keys, answers, strict=True))
            self.turns.append(Turn(began, loop.time() - began, named))
            await asyncio.sleep(PAUSE_SECONDS)

    def lasts(self, seconds: float) -> bool:
        """Whether it has gone on for this long."""
        return self.turns[-1].began - self.turns[0].began >= seconds

    @property
    def longest_seconds(self) -> float:
        return max(turn.seconds for turn in self.turns)

    @property
    def failures(self) -> list[Turn]:
        return [turn for turn in self.turns if not turn.is_whole]

    async def failing(self, what: str) -> None:
        """Return when a call fails that began after now."""
        known = len(self.turns)
        await until(lambda: any(not turn.is_whole for turn in self.turns[known:]), what)

    async def recovery_seconds(self, what: str, *, since: float, limit_seconds: float = 5) -> float:
        """How long after `since` the last failing round ended, once ten in a row are whole."""

        def is_well() -> bool:
            last = self.turns[-10:]
            return len(last) == 10 and last[0].began > since and all(turn.is_whole for turn in last)

        await until(is_well, f"{what}: calls succeed again", limit_seconds=limit_seconds + 1)
        ends = [
            turn.began + turn.seconds for turn in self.failures if turn.began + turn.seconds > since
        ]
        seconds = max([since, *ends]) - since
        measured(
            f"{what}: well after {seconds:.2f} s, longest call {self.longest_seconds * 1000:.0f} ms"
        )
        assert seconds <= limit_seconds
        return seconds

    def counted(self) -> Counter[str]:
        """The hits of each key that were told to be counted."""
        return Counter(
            key
            for turn in self.turns
            for key, answer in turn.answers.items()
            if isinstance(answer, int)
        )

    def kept(self, *, before: float, after: float) -> Counter[str]:
        """Of `counted`, what a failover may not lose: what was answered `REPLICA_LAG_SECONDS`
        before it began, and what was asked when the new master was known.
        """
        return Counter(
            key
            for turn in self.turns
            for key, answer in turn.answers.items()
            if isinstance(answer, int)
            and (turn.began + turn.seconds < before - REPLICA_LAG_SECONDS or turn.began > after)
        )

    def tried(self) -> Counter[str]:
        """The hits of each key that were sent, or tried to be."""
        return Counter(key for turn in self.turns for key in turn.answers)


@asynccontextmanager
async def traffic_within(
    seconds: float, connected: Callable[..., Redis], *, keys: Sequence[str], **settings: str
) -> AsyncIterator[tuple[Redis, Traffic]]:
    """Traffic on the Redis of these settings, for the length of the block, and for a second before
    it; no call takes longer than `seconds`, its time limit.
    """
    redis = connected(time_limit_seconds=seconds, **settings)
    async with traffic(redis, keys=keys) as going:
        await until(lambda: going.lasts(2 * REPLICA_LAG_SECONDS), "traffic goes on for a while")
        yield redis, going
        assert going.longest_seconds < seconds + LATE_SECONDS


@asynccontextmanager
async def traffic(redis: Redis, *, keys: Sequence[str]) -> AsyncIterator[Traffic]:
    """Traffic for the length of the block; before it, one round that must succeed."""
    going = Traffic(redis, keys)
    task = asyncio.create_task(going.go_on())
    try:
        await until(lambda: going.turns or task.done(), "the first round")
        if task.done():
            task.result()
        yield going
        if task.done():
            task.result()
    finally:
        going.ends = True
        await asyncio.gather(task, return_exceptions=True)
