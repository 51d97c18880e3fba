"""Which limit a descriptor meets, against an oracle that knows no trees."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwarden.core.faults import InvalidInput
from ratelimit_service.core.keys import counted_values
from ratelimit_service.core.lookup import find_limit
from ratelimit_service.core.model import Override
from ratelimit_service.core.window import Unit
from tests.support.limit_files import ENTRIES, levels, naive
from tests.support.limits import descriptor, rules


@given(configured=levels(2), entries=st.lists(ENTRIES, max_size=4))
def test_lookup_agrees_with_a_naive_search(
    configured: list[dict[str, Any]], entries: list[tuple[str, str]]
):
    compiled = rules(json.dumps({"domain": "domain", "descriptors": configured}))
    match = find_limit("domain", descriptor(*entries), rules=compiled)
    assert (match.limit.full_key if match else None) == naive(configured, entries)


NESTED = """
domain: domain
descriptors:
- key: a
  value: x
  rate_limit: {unit: minute, requests_per_unit: 1}
  descriptors: [{key: b, rate_limit: {unit: minute, requests_per_unit: 2}}]
- key: a
  descriptors: [{key: c, rate_limit: {unit: minute, requests_per_unit: 3}}]
- key: empty
  value: whitelisted
"""


def met(*entries: tuple[str, str]) -> int | None:
    match = find_limit("domain", descriptor(*entries), rules=rules(NESTED))
    return None if match is None else match.limit.requests_per_unit


def test_the_limit_at_the_descriptors_own_depth_counts_alone():
    assert met(("a", "x")) == 1
    assert met(("a", "x"), ("b", "1")) == 2
    assert met(("a", "x"), ("b", "1"), ("deeper", "1")) is None


def test_a_value_once_taken_is_not_left_for_the_key_alone():
    """`a_x` has no child `c`; that `a` has one does not help."""
    assert met(("a", "other"), ("c", "1")) == 3
    assert met(("a", "x"), ("c", "1")) is None


def test_nothing_matches_without_a_rule_an_entry_or_a_domain():
    assert met(("empty", "whitelisted")) is None
    assert met(("unknown", "x")) is None
    assert met() is None
    assert find_limit("other", descriptor(("a", "x")), rules=rules(NESTED)) is None


def test_an_override_counts_without_asking_the_configuration():
    overridden = descriptor(("any", "1"), ("more", ""), override=Override(7, Unit.HOUR))
    match = find_limit("domain", overridden, rules=rules(NESTED))
    assert match is not None
    assert (match.limit.requests_per_unit, match.limit.unit) == (7, Unit.HOUR)
    assert match.statistics_key == "domain.any_1.more"


@pytest.mark.parametrize("unit", [0, 8, -1])
def test_an_override_without_a_unit_is_refused_and_not_a_crash(unit: int):
    overridden = descriptor(("a", "x"), override=Override(7, unit))
    with pytest.raises(InvalidInput, match="no known unit"):
        find_limit("domain", overridden, rules=rules(NESTED))
    assert find_limit("unknown", overridden, rules=rules(NESTED)) is None


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        ("", "domain.a_x*.b"),
        ("value_to_metric: true", "domain.a_xyz.b"),
        ("value_to_metric: true, share_threshold: true", "domain.a_x*.b"),
    ],
)
def test_statistics_show_the_value_where_a_level_asks_for_it(flags: str, shown: str):
    text = f"""
domain: domain
descriptors:
- {{key: a, value: "x*", {flags or "shadow_mode: false"}, descriptors: [
    {{key: b, rate_limit: {{unit: minute}}}}]}}
"""
    match = find_limit("domain", descriptor(("a", "xyz"), ("b", "1")), rules=rules(text))
    assert match is not None
    assert match.statistics_key == shown


def test_detailed_statistics_show_every_value_but_a_shared_one():
    text = """
domain: domain
descriptors:
- {key: a, value: "x*", share_threshold: true, descriptors: [
    {key: b, detailed_metric: true, rate_limit: {unit: minute}}]}
"""
    match = find_limit("domain", descriptor(("a", "xyz"), ("b", "1")), rules=rules(text))
    assert match is not None
    assert match.statistics_key == "domain.a_x*.b_1"


@pytest.mark.parametrize(
    ("written", "entry", "shown", "counted"),
    [
        ("{key: a, detailed_metric: true", ("a", ""), "domain.a_", ""),
        ("{key: a, detailed_metric: true", ("a", "x"), "domain.a_x", "x"),
        ("{key: a, value_to_metric: true", ("a", ""), "domain.a", ""),
        ("{key: a, value: x, value_to_metric: true", ("a", "x"), "domain.a_x", "x"),
        ("{key: a_", ("a", ""), "domain.a", ""),
        ('{key: "a*"', ("ab", "x"), "domain.ab_a*", "x"),
        ('{key: "a*", share_threshold: true', ("ab", "x"), "domain.ab_a*", "a*"),
        ('{key: a, value: "b*"', ("a", "bc"), "domain.a_b*", "bc"),
        ('{key: a, value: "b*"', ("a_b", "c"), "domain.a_b_a_b*", "c"),
        ('{key: a, value: "b*", share_threshold: true', ("a_b", "c"), "domain.a_b_a_b*", "a_b*"),
        ('{key: a, value: "b*", share_threshold: true', ("a", "b*"), "domain.a_b*", "b*"),
    ],
)
def test_names_and_counters_of_odd_entries_are_the_references(
    written: str, entry: tuple[str, str], shown: str, counted: str
):
    """Its `GetLimit` makes both from the entry's key and what is configured for the two together;
    a rolling change on one Redis needs them equal.
    """
    text = f"{{domain: domain, descriptors: [{written}, rate_limit: {{unit: minute}}}}]}}"
    asked = descriptor(entry)
    match = find_limit("domain", asked, rules=rules(text))
    assert match is not None
    assert match.statistics_key == shown
    assert list(counted_values(asked, match.shared_values)) == [(entry[0], counted)]


def test_detailed_statistics_show_an_empty_value_as_the_reference_does():
    """`key_`, but `key` where some level shares its wildcard's counter."""
    text = """
domain: domain
descriptors:
- {key: a, descriptors: [{key: b, detailed_metric: true, rate_limit: {unit: minute}}]}
- {key: c, value: "x*", share_threshold: true, descriptors: [
    {key: b, detailed_metric: true, rate_limit: {unit: minute}}]}
"""
    found = [
        find_limit("domain", descriptor(entry, ("b", "")), rules=rules(text))
        for entry in (("a", ""), ("c", "x1"))
    ]
    assert [match and match.statistics_key for match in found] == [
        "domain.a_.b_",
        "domain.c_x*.b",
    ]


def test_a_wildcard_in_the_key_stands_for_key_and_value():
    text = """
domain: domain
descriptors:
- {key: "pa*", share_threshold: true, rate_limit: {unit: minute}}
"""
    match = find_limit("domain", descriptor(("path", "x")), rules=rules(text))
    assert match is not None
    assert match.statistics_key == "domain.path_pa*"
    assert match.shared_values == ((0, "pa*"),)
