"""What every counter store promises, as tests to be inherited: a class that derives from `Contract`
and has a fixture `store` shows it for that store.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratelimit_service.adapters.limiter import Store
from ratelimit_service.core.counter import COUNT_AT_MOST
from ratelimit_service.core.decide import HITS_AT_MOST
from ratelimit_service.core.model import Effect, Increment, LeftOut, Mode, Outcome
from ratelimit_service.core.window import Unit, Window
from tests.support.limits import DictionaryCounters

NOW = 1_000_000
WINDOW = Window.of(Unit.HOUR, now=NOW)


def hits(
    count: int,
    key: str = "a",
    window: Window = WINDOW,
    *,
    at_most: int = 10,
    effect: Effect = Effect.DENIES,
) -> Increment:
    """An increment as the stores take it. Keys stand in one slot of a Redis Cluster."""
    return Increment("{tag}" + key, count, window, at_most, effect)


class AnyStore:
    """A store of any kind, always awaited; `prefix` sets apart the keys of one history."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.prefix = ""

    async def add(self, *increments: Increment, mode: Mode = Mode.ALWAYS) -> list[Outcome]:
        apart = [one._replace(key=f"{self.prefix}{one.key}") for one in increments]
        outcomes = self.store.add(apart, mode=mode, now=NOW)
        return await outcomes if inspect.isawaitable(outcomes) else list(outcomes)


INCREMENTS = st.builds(
    lambda key, count, at_most, effect: hits(count, key, at_most=at_most, effect=effect),
    st.sampled_from("abc"),
    st.one_of(st.integers(-3, 4), st.sampled_from([-HITS_AT_MOST, HITS_AT_MOST])),
    st.integers(0, 6),
    st.sampled_from(Effect),
)
HISTORIES = st.lists(
    st.tuples(st.sampled_from(Mode), st.lists(INCREMENTS, min_size=1, max_size=5)), max_size=12
)


class Contract:
    """The promises."""

    number = 0

    async def test_a_counter_begins_at_its_first_hits_and_grows(self, store: AnyStore):
        assert await store.add(hits(1)) == [1]
        assert await store.add(hits(4)) == [5]

    async def test_counters_of_one_request_are_counted_in_order_each_on_its_own(
        self, store: AnyStore
    ):
        assert await store.add(hits(1, "a"), hits(2, "b"), hits(3, "a")) == [1, 2, 4]

    async def test_no_hits_look_without_counting(self, store: AnyStore):
        assert await store.add(hits(0)) == [0]
        await store.add(hits(2))
        assert await store.add(hits(0), hits(0)) == [2, 2]

    async def test_negative_hits_give_back_down_to_zero_and_create_nothing(self, store: AnyStore):
        assert await store.add(hits(-5)) == [0]
        await store.add(hits(3))
        assert await store.add(hits(-2)) == [1]
        assert await store.add(hits(-2)) == [0]
        assert await store.add(hits(1)) == [1]

    async def test_huge_hits_saturate_and_do_not_overflow(self, store: AnyStore):
        for _ in range(2**52 // HITS_AT_MOST + 2):
            last = await store.add(hits(HITS_AT_MOST))
        assert last == [COUNT_AT_MOST]
        assert await store.add(hits(1), hits(-1)) == [COUNT_AT_MOST, COUNT_AT_MOST - 1]

    async def test_windows_of_one_key_prefix_do_not_meet(self, store: AnyStore):
        later = Window.of(Unit.HOUR, now=WINDOW.end)
        assert await store.add(hits(1, "a@1"), hits(1, "a@2", later)) == [1, 1]

    async def test_a_thousand_at_once_get_a_thousand_different_counts(self, store: AnyStore):
        """Whoever gets 1 is the one whom a limit of 1 admits: there is exactly one."""
        outcomes = await asyncio.gather(*(store.add(hits(1)) for _ in range(1000)))
        counts = [count for (count,) in outcomes if isinstance(count, int)]
        assert sorted(counts) == list(range(1, 1001))

    async def test_of_a_thousand_atomic_requests_at_once_as_many_as_are_admitted_are_counted(
        self, store: AnyStore
    ):
        """The second limit denies all but three, and those denied consume nothing of the first."""
        both = (hits(1, "wide", at_most=100), hits(1, "narrow", at_most=3))
        outcomes = await asyncio.gather(
            *(store.add(*both, mode=Mode.ALL_OR_NONE) for _ in range(1000))
        )
        assert sum(not isinstance(wide, LeftOut) for wide, _ in outcomes) == 3
        assert await store.add(hits(0, "wide"), hits(0, "narrow")) == [3, 3]

    async def test_where_one_limit_is_over_the_others_counters_stay(self, store: AnyStore):
        await store.add(hits(2, "full", at_most=2))
        both = (hits(1, "full", at_most=2), hits(1, "other", at_most=5))
        assert await store.add(*both, mode=Mode.STOPS_WHEN_OVER) == [3, LeftOut(0, is_over=False)]
        assert await store.add(hits(0, "full"), hits(0, "other")) == [3, 0]

    async def test_hits_left_out_are_judged_by_what_the_same_request_counted_before(
        self, store: AnyStore
    ):
        """As the reference does where one counter stands in a request several times."""
        await store.add(hits(1, at_most=2))
        thrice = (hits(2, at_most=2), hits(1, at_most=2), hits(1, at_most=2))
        left = LeftOut(3, is_over=True)
        assert await store.add(*thrice, mode=Mode.STOPS_WHEN_OVER) == [3, left, left]

    @settings(
        max_examples=60,
        deadline=None,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.differing_executors,
        ],
    )
    @given(history=HISTORIES)
    async def test_any_history_is_counted_by_the_law(
        self, history: Sequence[tuple[Mode, Sequence[Increment]]], store: AnyStore
    ):
        """Memory, and the Lua script, agree with `core.counter` on every history."""
        Contract.number += 1
        store.prefix = f"{Contract.number}:"
        oracle = DictionaryCounters()
        for mode, increments in history:
            expected = oracle.add(increments, mode=mode, now=NOW)
            assert await store.add(*increments, mode=mode) == expected
