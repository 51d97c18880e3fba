"""A store before which counters known to be over their limit are remembered.

The reference's local cache: a request that is denied by what is remembered never reaches the store
for that counter. Its other counters are then looked at, not added to, when the request's mode
leaves hits out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from ratelimit_service.core.counter import is_over
from ratelimit_service.core.model import Effect, Increment, LeftOut, Mode, Outcome
from ratelimit_service.core.over_limit_cache import OverLimitCache


class Awaited(Protocol):
    """A store that has to be awaited."""

    def add(
        self, increments: Sequence[Increment], *, mode: Mode, now: int
    ) -> Awaitable[list[Outcome]]: ...


class RememberingStore:
    """`store` behind `cache`."""

    def __init__(self, store: Awaited, cache: OverLimitCache) -> None:
        self._store = store
        self._cache = cache

    async def add(self, increments: Sequence[Increment], *, mode: Mode, now: int) -> list[Outcome]:
        """What came of each increment. Raises `Unavailable` as the store does."""
        known = [self._remembered(increment, now) for increment in increments]
        if not any(known) or not _decides(increments, known, mode):
            return self._noted(increments, await self._store.add(increments, mode=mode, now=now))
        others = [one for one, left in zip(increments, known, strict=True) if left is None]
        asked = [_asked(other, mode) for other in others]
        found: list[Outcome] = []
        if asked:
            counts = await self._store.add(asked, mode=Mode.ALWAYS, now=now)
            found = self._noted(asked, counts)
        outcomes = iter(map(_looked_at, others, asked, found, [mode] * len(found)))
        return [left if left is not None else next(outcomes) for left in known]

    def _remembered(self, increment: Increment, now: int) -> LeftOut | None:
        if increment.hits < 0:
            self._cache.drop(increment.key)
            return None
        count = self._cache.count_of(increment, now=now)
        return None if count is None else LeftOut(count, is_over=True, is_remembered=True)

    def _noted(self, increments: Sequence[Increment], outcomes: Sequence[Outcome]) -> list[Outcome]:
        """`outcomes`, those over their limit remembered."""
        for increment, outcome in zip(increments, outcomes, strict=True):
            if not isinstance(outcome, LeftOut) and is_over(increment, outcome):
                self._cache.keep(increment, outcome)
        return list(outcomes)


def _decides(increments: Sequence[Increment], known: Sequence[LeftOut | None], mode: Mode) -> bool:
    """Whether what is known settles how the other counters are treated."""
    return mode is not Mode.ALL_OR_NONE or any(
        left is not None and increment.effect is Effect.DENIES
        for increment, left in zip(increments, known, strict=True)
    )


def _asked(increment: Increment, mode: Mode) -> Increment:
    """What is still asked of the store when the request is known to be over its limit."""
    if mode is Mode.ALWAYS or (mode is Mode.STOPS_WHEN_OVER and increment.hits < 0):
        return increment
    return increment._replace(hits=0)


def _looked_at(increment: Increment, asked: Increment, outcome: Outcome, mode: Mode) -> Outcome:
    """What the counter says about the hits of `increment`, where they were not asked for."""
    if asked.hits == increment.hits or isinstance(outcome, LeftOut):
        return outcome
    after = outcome if mode is Mode.STOPS_WHEN_OVER else outcome + increment.hits
    return LeftOut(outcome, is_over(increment, after))
