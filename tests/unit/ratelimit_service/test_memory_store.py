"""What memory promises besides the contract of every store: a bound, and forgetting bit by bit."""

from __future__ import annotations

import pytest

from meshwarden.core.faults import Unavailable
from ratelimit_service.adapters.memory_store import SWEPT_PER_CALL, MemoryStore
from ratelimit_service.core.model import Increment
from ratelimit_service.core.window import Unit, Window


def hits(key: str, now: int, count: int = 1, unit: Unit = Unit.SECOND) -> Increment:
    window = Window.of(unit, now=now)
    return Increment(f"{key}@{window.start}", count, window, 10)


def test_a_full_store_refuses_new_counters_and_keeps_the_running_ones_exact():
    store = MemoryStore(counters_at_most=2)
    store.add([hits("a", 0), hits("b", 0)], now=0)
    with pytest.raises(Unavailable, match="full: 2 counters"):
        store.add([hits("a", 0), hits("c", 0)], now=0)
    assert store.add([hits("a", 0), hits("b", 0, 0), hits("d", 0, 0)], now=0) == [2, 1, 0]


def test_a_refused_request_counts_nothing():
    store = MemoryStore(counters_at_most=1)
    with pytest.raises(Unavailable):
        store.add([hits("a", 0), hits("b", 0)], now=0)
    assert store.add([hits("a", 0, 0)], now=0) == [0]


def test_a_window_that_is_over_makes_room():
    store = MemoryStore(counters_at_most=2)
    store.add([hits("a", 0), hits("b", 0)], now=0)
    assert store.add([hits("a", 1), hits("b", 1)], now=1) == [1, 1]


def test_old_counters_are_forgotten_a_few_a_call():
    store = MemoryStore(counters_at_most=10_000)
    for number in range(100):
        store.add([hits(str(number), 0)], now=0)
    store.add([hits("x", 5)], now=5)
    assert store.counter_count == 101 - SWEPT_PER_CALL
    for _ in range(100 // SWEPT_PER_CALL + 1):
        store.add([hits("x", 5)], now=5)
    assert store.counter_count == 1


def test_a_longer_window_outlives_a_shorter_one():
    store = MemoryStore(counters_at_most=100)
    store.add([hits("day", 0, unit=Unit.DAY), hits("second", 0)], now=0)
    assert store.add([hits("day", 50, unit=Unit.DAY), hits("second", 50)], now=50) == [2, 1]
