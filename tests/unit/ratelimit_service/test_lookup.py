"""Which limit a descriptor meets, against an oracle that knows no trees."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwarden.core.faults import InvalidInput
from ratelimit_service.core.lookup import find_limit
from ratelimit_service.core.model import Override
from ratelimit_service.core.window import Unit
from tests.support.limits import descriptor, rules

ENTRIES = st.tuples(
    st.sampled_from(["a", "b", "a_b"]), st.sampled_from(["", "x", "b_x", "xy", "*"])
)
CONFIGURED = st.tuples(
    st.sampled_from(["a", "b", "a_b", "a*"]), st.sampled_from(["", "x", "b_x", "x*", "*y", "b*x"])
)


def levels(depth: int) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Descriptors as a file holds them, composite keys unique in each level."""

    def made(parts: tuple[tuple[str, str], bool, list[dict[str, Any]]]) -> dict[str, Any]:
        (key, value), is_limited, below = parts
        written: dict[str, Any] = {"key": key, "descriptors": below}
        if value:
            written["value"] = value
        if is_limited:
            written["rate_limit"] = {"unit": "minute", "requests_per_unit": 1}
        return written

    below = levels(depth - 1) if depth else st.just([])
    return st.lists(
        st.tuples(CONFIGURED, st.booleans(), below).map(made),
        max_size=4,
        unique_by=lambda written: composite(written["key"], written.get("value", "")),
    )


def composite(key: str, value: str) -> str:
    return f"{key}_{value}" if value else key


def naive(configured: list[dict[str, Any]], entries: Sequence[tuple[str, str]]) -> str | None:
    """The path of the limit, found by trying everything in the order of the rules."""
    path = "domain"
    for position, (key, value) in enumerate(entries):
        names = {composite(c["key"], c.get("value", "")): c for c in configured}
        chosen = f"{key}_{value}" if f"{key}_{value}" in names else None
        if chosen is None:
            for name in names:
                pattern = ".*".join(re.escape(part) for part in name.split("*"))
                if "*" in name and re.fullmatch(pattern, f"{key}_{value}", re.DOTALL):
                    chosen = name
                    break
        if chosen is None and key in names:
            chosen = key
        if chosen is None:
            return None
        path = f"{path}.{chosen}"
        if position == len(entries) - 1:
            return path if "rate_limit" in names[chosen] else None
        configured = names[chosen]["descriptors"]
    return None


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
    ("flag", "shown"), [("detailed_metric", "domain.a_"), ("value_to_metric", "domain.a")]
)
def test_an_empty_value_leaves_its_mark_in_detailed_statistics_alone(flag: str, shown: str):
    """As seen on the real one."""
    text = f"domain: domain\ndescriptors: [{{key: a, {flag}: true, rate_limit: {{unit: minute}}}}]"
    match = find_limit("domain", descriptor(("a", "")), rules=rules(text))
    assert match is not None
    assert match.statistics_key == shown
