"""What is counted under the reference's names, and that it never grows beyond its bound."""

from __future__ import annotations

import pytest

from ratelimit_service.adapters.memory_store import MemoryStore
from ratelimit_service.adapters.statistics import Statistics, sanitised
from ratelimit_service.core.decide import decide, plan
from ratelimit_service.core.model import (
    Code,
    Count,
    Decision,
    Descriptor,
    DescriptorSet,
    Entry,
    LeftOut,
    Limit,
    Override,
    Rules,
    Status,
)
from ratelimit_service.core.reading import Reading
from ratelimit_service.core.tree import configured_limits
from ratelimit_service.core.window import Unit
from tests.support.limits import rules

RULES = """
domain: d
descriptors:
- {key: one, rate_limit: {unit: year, requests_per_unit: 1}}
- {key: free, rate_limit: {unlimited: true, replaces: [{name: gone}]}}
- {key: gone, rate_limit: {unit: year, requests_per_unit: 1, name: gone}}
- {key: detailed, detailed_metric: true, rate_limit: {unit: year, requests_per_unit: 100}}
"""
PREFIX = "ratelimit.service.rate_limit"


class Counting:
    """Statistics of a service over a memory store, and what it dropped."""

    def __init__(self, *, names_at_most: int = 100) -> None:
        self.dropped: dict[str, int] = {}
        self.statistics = Statistics(
            near_limit_ratio=0.8, names_at_most=names_at_most, dropped=self._drop
        )
        self.rules: Rules = rules(RULES)
        self._store = MemoryStore(counters_at_most=10_000)

    def _drop(self, what: str, count: int) -> None:
        self.dropped[what] = self.dropped.get(what, 0) + count

    def ask(self, *entries: tuple[str, str], hits: int | None = None, **fields: object) -> None:
        descriptors = tuple(
            Descriptor((Entry(*entry),), hits_addend=hits, **fields)  # type: ignore[arg-type]
            for entry in entries
        )
        self.statistics.record(decide(DescriptorSet("d", descriptors), self.rules, self._store, 9))

    def counters(self) -> dict[str, int]:
        """Of limits, those that are not zero, without the prefix."""
        found = self.statistics.reading().counters.items()
        return {
            name.removeprefix(f"{PREFIX}."): value
            for name, value in found
            if value and name.startswith(PREFIX)
        }


@pytest.fixture
def counting() -> Counting:
    return Counting()


def test_an_unlimited_rule_has_statistics_and_what_it_replaces_has_none(counting: Counting):
    counting.ask(("free", "x"), ("gone", "x"), hits=3)
    assert counting.counters() == {"d.free.total_hits": 3, "d.free.within_limit": 3}


def test_hits_given_back_are_counted_apart(counting: Counting):
    counting.ask(("one", "x"), ("free", "x"), hits=2, is_negative_hits=True)
    assert counting.counters() == {"d.one.total_negative_hits": 2, "d.free.total_negative_hits": 2}


def test_looking_counts_nothing(counting: Counting):
    counting.ask(("one", "x"), ("free", "x"), hits=0)
    assert counting.counters() == {}


def test_hits_that_met_the_over_limit_cache_are_over_with_it(counting: Counting):
    limit = Limit("d.one", 1, Unit.YEAR, shadow_mode=True)
    remembered = Count("d.one", 3, LeftOut(9, is_over=True, is_remembered=True))
    counting.statistics.record(Decision(Code.OK, (Status(limit=limit, counted=remembered),)))
    assert counting.counters() == {
        "d.one.total_hits": 3,
        "d.one.over_limit": 3,
        "d.one.over_limit_with_local_cache": 3,
        "d.one.shadow_mode": 3,
    }


def test_hits_whose_counter_is_out_of_reach_were_asked_for_and_no_more(counting: Counting):
    descriptors = DescriptorSet("d", (Descriptor((Entry("one", "x"),), hits_addend=2),))
    planned = plan(descriptors, counting.rules, now=9)
    counting.statistics.record_uncounted(planned.matches, planned.increments)
    assert counting.counters() == {"d.one.total_hits": 2}


def test_names_made_from_requests_are_bounded_and_the_busy_and_the_configured_stay():
    counting = Counting(names_at_most=50)
    counting.statistics.keep(configured_limits(counting.rules.domains.values()))
    counting.ask(("one", "x"))
    for number in range(1000):
        counting.ask(("detailed", f"{number}"))
        counting.ask(("any", f"{number}"), override=Override(5, int(Unit.YEAR)))
        counting.ask(("detailed", "busy"))
        counting.statistics.add_unknown_domain(f"unknown{number}", descriptors=1)
    assert counting.statistics.name_count <= 4 + 50 + 50
    found = counting.counters()
    assert found["d.one.total_hits"] == 1
    assert found["d.detailed_busy.total_hits"] == 1000
    assert "d.detailed_999.total_hits" in found
    assert "d.detailed_0.total_hits" not in found
    assert counting.dropped["names"] > 2800


def test_what_leaves_is_handed_on_first():
    counting = Counting(names_at_most=2)
    counting.statistics.is_taken = True
    for number in range(10):
        counting.ask(("detailed", f"{number}"))
    taken = dict(counting.statistics.changes())
    assert [taken[f"{PREFIX}.d.detailed_{number}.total_hits"] for number in range(10)] == [1] * 10


def test_long_names_are_cut_and_counted_together(counting: Counting):
    for end in "ab":
        counting.ask(("detailed", "x" * 5000 + end))
    ((name, hits),) = [item for item in counting.counters().items() if "total_hits" in item[0]]
    assert hits == 2
    assert len(name) < 1100


def test_changes_are_given_once_and_only_where_something_grew(counting: Counting):
    counting.ask(("one", "x"))
    counting.statistics.add("config_load_success")
    counting.statistics.observe_call("/package.Service/Call", 0.0019)
    first = dict(counting.statistics.changes())
    assert first == {
        f"{PREFIX}.d.one.total_hits": 1,
        f"{PREFIX}.d.one.within_limit": 1,
        f"{PREFIX}.d.one.near_limit": 1,
        "ratelimit.service.config_load_success": 1,
        "ratelimit_server.Call.total_requests": 1,
    }
    assert list(counting.statistics.timings()) == [("ratelimit_server.Call.response_time", 1, 1)]
    counting.ask(("one", "x"), hits=2)
    assert dict(counting.statistics.changes()) == {
        f"{PREFIX}.d.one.total_hits": 2,
        f"{PREFIX}.d.one.over_limit": 2,
    }
    assert list(counting.statistics.timings()) == []


def test_what_is_counted_while_changes_are_taken_is_given_the_next_time(counting: Counting):
    """A flush waits for the network between two changes, and requests go on."""
    sums: dict[str, int] = {}
    counting.ask(("one", "x"))
    for _ in range(3):
        for name, more in counting.statistics.changes():
            sums[name] = sums.get(name, 0) + more
            counting.ask(("one", "x"), hits=len(sums) % 4)
    for name, more in counting.statistics.changes():
        sums[name] = sums.get(name, 0) + more
    found = counting.statistics.reading().counters
    assert sums == {name: value for name, value in found.items() if value}


def test_what_another_part_counts_is_shown_under_the_references_names(counting: Counting):
    pool = {"cx_active": 2, "cx_total": 5}
    counting.statistics.watch("ratelimit.redis_pool", lambda: pool, gauges=["cx_active"])
    assert list(counting.statistics.gauges()) == [("ratelimit.redis_pool.cx_active", 2)]
    assert dict(counting.statistics.changes()) == {"ratelimit.redis_pool.cx_total": 5}
    pool.update(cx_active=1, cx_total=7)
    assert dict(counting.statistics.changes()) == {"ratelimit.redis_pool.cx_total": 2}
    reading = counting.statistics.reading()
    assert reading.gauges == {"ratelimit.redis_pool.cx_active": 1}
    assert reading.counters["ratelimit.redis_pool.cx_total"] == 7


def test_who_takes_a_dead_ones_place_goes_on_from_its_counters_and_sends_only_its_own(
    counting: Counting,
):
    before = Reading({f"{PREFIX}.d.one.total_hits": 40}, {"gone": 1}, {"call": {0: 2}})
    counting.statistics.inherit(before)
    counting.ask(("one", "x"))
    reading = counting.statistics.reading()
    assert reading.counters[f"{PREFIX}.d.one.total_hits"] == 41
    assert (reading.gauges, reading.timings) == ({}, {"call": {0: 2}})
    assert dict(counting.statistics.changes())[f"{PREFIX}.d.one.total_hits"] == 1


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("d.a_1.2.3.4.b:c|d.1.2.3", "d.a_1_2_3_4.b_c_d.1.2.3"),
        ("1.2.3.4567", "1_2_3_4567"),
        ("1234.5.6.7", "1234_5_6_7"),
        ("1.2.3.4.5", "1_2_3_4.5"),
        ("a\nb\0c", "a_b_c"),
    ],
)
def test_names_are_made_fit_for_statistics(name: str, shown: str):
    """As the reference's pattern does it; line ends are replaced by us alone."""
    assert sanitised(name) == shown
