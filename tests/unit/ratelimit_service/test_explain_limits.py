"""What `limits explain` says is what the service does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwarden.core.faults import InvalidInput
from ratelimit_service.core.decide import decide
from ratelimit_service.core.explain import counters, explain
from ratelimit_service.core.model import Descriptor, Options, Override
from ratelimit_service.core.window import Unit
from tests.support.limit_files import ENTRIES, levels, naive
from tests.support.limits import DictionaryCounters, descriptor, request, rules

NOW = 90
LIMITS = """
domain: domain
descriptors:
- {key: path, value: "/o*", share_threshold: true, rate_limit: {unit: minute, requests_per_unit: 9},
   descriptors: [{key: client, rate_limit: {unit: hour, requests_per_unit: 3, name: each}}]}
- {key: path, value: /orders, rate_limit: {unit: minute, requests_per_unit: 2,
   replaces: [{name: each}]}}
- {key: path, rate_limit: {unlimited: true}}
- {key: deep, descriptors: [{key: x, rate_limit: {unit: day}}]}
- {key: open}
"""


def explained(*descriptors: Descriptor, **options: Any) -> dict[str, Any]:
    return explain(request(*descriptors), rules(LIMITS), now=NOW, **options)


@given(
    configured=levels(2),
    asked=st.lists(st.lists(ENTRIES, min_size=1, max_size=4), min_size=1, max_size=3),
    hits=st.integers(0, 3),
)
def test_an_explanation_is_what_is_decided(
    configured: list[dict[str, Any]], asked: list[list[tuple[str, str]]], hits: int
):
    compiled = rules(json.dumps({"domain": "domain", "descriptors": configured}))
    wanted = request(*(descriptor(*entries) for entries in asked), hits_addend=hits)
    told = explain(wanted, compiled, now=NOW)
    decision = decide(wanted, compiled, counters=DictionaryCounters(), now=NOW)
    assert told["answer"] == decision.code.name
    for one, entries, status in zip(told["descriptors"], asked, decision.statuses, strict=True):
        met = naive(configured, entries)
        assert one.get("limit", {}).get("rule") == met
        assert (one["outcome"] == "limited") == ("counter" in one) == (met is not None)
        assert one["answer"]["code"] == status.code.name
        assert one["answer"].get("remaining", 0) == status.limit_remaining
        taken = [
            way["name"] for level in one["levels"] for way in level["tried"] if way["is_taken"]
        ]
        assert met is None or ".".join(["domain", *taken]) == met


@pytest.mark.parametrize(
    ("entries", "outcome", "words"),
    [
        ([("path", "/orders")], "limited", "ends where this limit is configured"),
        ([("path", "/orders"), ("client", "1")], "too_deep", "below domain.path_/orders, whose"),
        ([("path", "/o"), ("other", "1")], "no_match", "matches other=1 (entry 2)"),
        ([("unknown", "1"), ("x", "1")], "no_match", "matches unknown=1 (entry 1)"),
        ([("deep", "1")], "too_shallow", "no limit of its own"),
        ([("open", "1")], "not_limited", "configured without a limit"),
        ([("path", "/x")], "unlimited", "not counted"),
        ([], "no_entries", "no entries"),
    ],
)
def test_why_a_descriptor_is_limited_or_not(
    entries: list[tuple[str, str]], outcome: str, words: str
):
    told = explained(descriptor(*entries))["descriptors"][0]
    assert told["outcome"] == outcome
    assert words in told["why"]


def test_a_level_shows_what_was_tried_what_was_taken_and_what_stood_back():
    level = explained(descriptor(("path", "/orders")))["descriptors"][0]["levels"][0]
    assert [
        (way["by"], way["name"], way["matches"], way["is_taken"]) for way in level["tried"]
    ] == [
        ("value", "path_/orders", True, True),
        ("wildcard", "path_/o*", True, False),
        ("key", "path", True, False),
    ]


def test_a_limit_on_the_way_is_told_to_be_passed_over():
    levels = explained(descriptor(("path", "/o1"), ("client", "7")))["descriptors"][0]["levels"]
    assert levels[0]["passed_over"]["rule"] == "domain.path_/o*"
    assert "passed_over" not in levels[1]


def test_a_misspelt_key_or_domain_gets_a_hint():
    told = explained(descriptor(("pth", "/orders")))["descriptors"][0]
    assert told["levels"][0]["hint"] == "did you mean 'path_/orders'?"
    elsewhere = explain(request(descriptor(("path", "/")), domain="domian"), rules(LIMITS), now=NOW)
    assert elsewhere["hint"] == "did you mean 'domain'?"
    assert elsewhere["descriptors"][0]["outcome"] == "unknown_domain"


def test_a_replaced_limit_names_what_replaces_it():
    told = explained(descriptor(("path", "/o1"), ("client", "7")), descriptor(("path", "/orders")))
    assert told["descriptors"][0]["outcome"] == "replaced"
    assert told["descriptors"][0]["why"] == "'each' is replaced by domain.path_/orders: not counted"


def test_a_limit_that_the_request_brings_along_is_told_as_its_own():
    own = descriptor(("path", "/orders"), override=Override(7, Unit.HOUR))
    told = explained(own)["descriptors"][0]
    assert (told["outcome"], told["levels"]) == ("own_limit", [])
    assert (told["limit"]["requests_per_unit"], told["limit"]["unit"]) == (7, "hour")
    with pytest.raises(InvalidInput, match="no known unit"):
        explained(descriptor(("path", "/orders"), override=Override(7, 0)))


def test_a_counter_is_told_with_both_its_keys_its_window_and_its_pattern():
    told = explained(descriptor(("path", "/o1"), ("client", "7")))["descriptors"][0]
    assert told["shared"] == [{"entry": 0, "pattern": "/o*"}]
    assert told["statistics"] == "domain.path_/o*.client"
    assert told["counter"] == {
        "key": "rl:hour:0:6:domain4:path3:/o*6:client1:7",
        "keys": {
            "meshwarden": "rl:hour:0:6:domain4:path3:/o*6:client1:7",
            "envoyproxy": "domain_path_/o*_client_7_0",
        },
        "hits": 1,
        "window": {"unit": "hour", "start": 0, "end": 3600, "seconds_until_reset": 3510},
    }


@pytest.mark.parametrize("key_format", ["meshwarden", "envoyproxy"])
def test_the_answer_is_that_of_the_counters_in_use(key_format: str):
    compiled = rules(LIMITS, options=Options(key_format=key_format))
    wanted = request(descriptor(("path", "/orders")))
    (counter,) = counters(wanted, compiled, now=NOW)
    for stands, code in ((1, "OK"), (2, "OVER_LIMIT")):
        counts = {counter.increment.key: stands}
        told = explain(wanted, compiled, now=NOW, counts=counts)
        assert told["answer"] == code
        assert told["descriptors"][0]["counter"]["counts"][key_format] == stands


def test_the_same_counter_twice_in_a_request_is_counted_twice():
    twice = [descriptor(("path", "/orders"))] * 3
    told = explained(*twice)["descriptors"]
    assert [one["answer"]["code"] for one in told] == ["OK", "OK", "OVER_LIMIT"]


def test_what_would_be_left_out_leaves_its_counter_as_it_stands():
    """One of two atomic limits is used up: the other's counter would not move."""
    atomic = LIMITS.replace("requests_per_unit: 2,", "requests_per_unit: 0, atomic: true,")
    asked = request(descriptor(("path", "/orders")), descriptor(("path", "/o1")))
    told = explain(asked, rules(atomic), now=NOW)["descriptors"]
    assert [one["answer"]["remaining"] for one in told] == [0, 9]
