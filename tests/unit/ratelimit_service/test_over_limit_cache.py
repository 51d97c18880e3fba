"""What is remembered about counters that are over their limit, and when it is not asked."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ratelimit_service.adapters.remembering_store import RememberingStore
from ratelimit_service.core.model import Effect, Increment, LeftOut, Mode, Outcome
from ratelimit_service.core.over_limit_cache import ENTRY_BYTES, OverLimitCache
from ratelimit_service.core.window import Unit, Window
from tests.support.limits import DictionaryCounters

WINDOW = Window.of(Unit.MINUTE, now=0)
REMEMBERED = LeftOut(3, is_over=True, is_remembered=True)


def hits(
    count: int, key: str = "a", *, at_most: int = 2, effect: Effect = Effect.DENIES
) -> Increment:
    return Increment(key, count, WINDOW, at_most, effect)


class Counters:
    """Counters that are awaited, and what was asked of them."""

    def __init__(self) -> None:
        self.inner = DictionaryCounters()
        self.asked: list[list[tuple[str, int]]] = []

    async def add(self, increments: Sequence[Increment], *, mode: Mode, now: int) -> list[Outcome]:
        self.asked.append([(increment.key, increment.hits) for increment in increments])
        return list(self.inner.add(increments, mode=mode, now=now))


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def store(counters: Counters) -> RememberingStore:
    return RememberingStore(counters, OverLimitCache(bytes_at_most=10_000))


async def test_a_counter_seen_over_its_limit_is_not_asked_for_again_in_its_window(
    store: RememberingStore, counters: Counters
):
    assert await store.add([hits(3)], mode=Mode.ALWAYS, now=0) == [3]
    assert await store.add([hits(1)], mode=Mode.ALWAYS, now=59) == [REMEMBERED]
    assert counters.asked == [[("a", 3)]]
    assert await store.add([hits(1)], mode=Mode.ALWAYS, now=60) == [4]


async def test_a_limit_raised_meanwhile_is_obeyed_at_once(store: RememberingStore):
    await store.add([hits(3)], mode=Mode.ALWAYS, now=0)
    assert await store.add([hits(1, at_most=9)], mode=Mode.ALWAYS, now=0) == [4]


async def test_hits_given_back_are_counted_and_what_was_remembered_forgotten(
    store: RememberingStore,
):
    await store.add([hits(3)], mode=Mode.ALWAYS, now=0)
    assert await store.add([hits(-2)], mode=Mode.ALWAYS, now=0) == [1]
    assert await store.add([hits(1)], mode=Mode.ALWAYS, now=0) == [2]


@pytest.mark.parametrize(
    ("mode", "other", "asked"),
    [
        (Mode.ALWAYS, 1, ("b", 1)),
        (Mode.STOPS_WHEN_OVER, LeftOut(0, is_over=False), ("b", 0)),
        (Mode.ALL_OR_NONE, LeftOut(0, is_over=False), ("b", 0)),
    ],
)
async def test_the_other_counters_of_the_request_are_counted_or_looked_at_as_the_mode_says(
    store: RememberingStore,
    counters: Counters,
    mode: Mode,
    other: Outcome,
    asked: tuple[str, int],
):
    await store.add([hits(3)], mode=Mode.ALWAYS, now=0)
    assert await store.add([hits(1), hits(1, "b")], mode=mode, now=0) == [REMEMBERED, other]
    assert counters.asked[-1] == [asked]


async def test_a_counter_that_denies_nothing_by_itself_is_asked_for_all_the_same(
    store: RememberingStore, counters: Counters
):
    """Whether a quota denies depends on the others, so an atomic request is judged whole."""
    quota = hits(1, effect=Effect.QUOTA)
    await store.add([hits(3)], mode=Mode.ALWAYS, now=0)
    both = [quota, hits(1, "b", effect=Effect.QUOTA)]
    assert await store.add(both, mode=Mode.ALL_OR_NONE, now=0) == [4, 1]
    assert counters.asked[-1] == [("a", 1), ("b", 1)]


def test_its_memory_has_a_bound_and_the_oldest_goes_first():
    cache = OverLimitCache(bytes_at_most=2 * ENTRY_BYTES + 2)
    for key in "abc":
        cache.keep(hits(1, key), 9)
    assert [cache.count_of(hits(1, key), now=0) for key in "abc"] == [None, 9, 9]
    for large in ("x" * 500, "\N{PILE OF POO}" * (ENTRY_BYTES // 2)):
        cache.keep(hits(1, large), 9)
    figures = cache.figures()
    assert (figures.entry_count, figures.evacuate_count) == (2, 1)
    assert (figures.hit_count, figures.miss_count, figures.lookup_count) == (2, 1, 3)
