"""Which limit answered, in dynamic metadata and in a header; the answer is equal without them."""

from __future__ import annotations

from typing import Any

import pytest

from ratelimit_service.core.decide import decide
from ratelimit_service.core.model import Decision, Descriptor, HeaderNames, Options, Override
from ratelimit_service.core.window import Unit
from tests.support.limits import DictionaryCounters, descriptor, request, rules

LIMITS = """
domain: shop
descriptors:
- {key: one, rate_limit: {unit: minute, requests_per_unit: 1, name: single}}
- {key: ten, value: "x*", rate_limit: {unit: hour, requests_per_unit: 10}}
- {key: shadow, shadow_mode: true, rate_limit: {unit: minute}}
- {key: quota, quota_mode: true, rate_limit: {unit: minute}}
- {key: free, rate_limit: {unlimited: true}}
- {key: "caf\\u00e9\\n: %", rate_limit: {unit: minute}}
"""
ONE, TEN = descriptor(("one", "secret")), descriptor(("ten", "xyz"))
METADATA = Options(has_rule_metadata=True)


def decided(*descriptors: Descriptor, options: Options, times: int = 1) -> Decision:
    """The last of `times` answers."""
    compiled, counters = rules(LIMITS, options=options), DictionaryCounters()
    for _ in range(times):
        last = decide(request(*descriptors, domain="shop"), compiled, counters, 90)
    return last


def metadata(*descriptors: Descriptor, options: Options = METADATA, times: int = 1) -> Any:
    found = decided(*descriptors, options=options, times=times).metadata
    assert found is not None
    return found["meshwarden"]


def test_metadata_tells_the_limit_that_decided_and_every_descriptors_answer():
    told = metadata(TEN, ONE, descriptor(("unknown", "x")), descriptor(("free", "x")), times=2)
    over = {
        "rule": "shop.one",
        "name": "single",
        "code": "OVER_LIMIT",
        "limit": 1,
        "unit": "minute",
        "remaining": 0,
        "reset_seconds": 30,
        "hits": 1,
    }
    assert {key: told[key] for key in over} == over
    assert told["overall_code"] == "OVER_LIMIT"
    assert told["descriptors"][0]["rule"] == "shop.ten_x*"
    assert told["descriptors"][0]["remaining"] == 8
    assert told["descriptors"][1:] == [over, {"code": "OK"}, {"code": "OK", "unlimited": True}]


def test_within_the_limits_the_tightest_decides_and_without_one_none():
    assert metadata(TEN, ONE)["rule"] == "shop.one"
    none = metadata(descriptor(("unknown", "x")))
    assert none == {"overall_code": "OK", "descriptors": [{"code": "OK"}]}


def test_a_quota_that_is_over_takes_no_place_of_a_limit_that_is():
    assert metadata(ONE, descriptor(("quota", "x")), times=2)["rule"] == "shop.one"


def test_a_shadowed_limit_and_a_quota_are_told_as_what_they_are():
    shadowed, quota = metadata(descriptor(("shadow", "x")), descriptor(("quota", "x")), ONE)[
        "descriptors"
    ][:2]
    assert (shadowed["code"], shadowed["shadow_mode"], shadowed["is_shadowed"]) == (
        "OK",
        True,
        True,
    )
    assert (quota["code"], quota["quota_mode"]) == ("OVER_LIMIT", True)


def test_the_answer_is_equal_but_for_what_was_asked_for():
    plain = decided(ONE, TEN, options=Options(), times=2)
    told = decided(ONE, TEN, options=METADATA, times=2)
    assert plain.metadata is None
    assert told._replace(metadata=None) == plain
    both = Options(has_dynamic_metadata=True, has_rule_metadata=True)
    beside = decided(ONE, TEN, options=both).metadata
    reference = decided(ONE, TEN, options=Options(has_dynamic_metadata=True)).metadata
    assert beside is not None
    assert {key: beside[key] for key in beside if key != "meshwarden"} == reference


def test_no_value_of_the_client_is_told():
    own = descriptor(("api_key", "k-123"), ("path", "/me"), override=Override(5, Unit.MINUTE))
    told = decided(own, ONE, options=Options(has_rule_metadata=True, rule_header="x-rule"))
    assert told.metadata is not None
    assert told.metadata["meshwarden"]["descriptors"][0]["rule"] == "shop.api_key.path"
    for secret in ("k-123", "/me", "secret"):
        assert secret not in str(told.metadata) + str(told.headers)


def test_a_header_names_the_limit_that_decided_beside_the_references():
    options = Options(header_names=HeaderNames(), rule_header="x-rule")
    assert decided(TEN, ONE, options=options).headers == (
        ("RateLimit-Limit", "1"),
        ("RateLimit-Remaining", "0"),
        ("RateLimit-Reset", "30"),
        ("x-rule", "shop.one"),
    )
    alone = Options(rule_header="x-rule")
    assert decided(TEN, options=alone).headers == (("x-rule", "shop.ten_x*"),)
    assert decided(descriptor(("unknown", "x")), options=alone).headers == ()


def test_a_header_holds_no_character_that_a_header_may_not():
    (header,) = decided(
        descriptor(("café\n: %", "x")), options=Options(rule_header="x-rule")
    ).headers
    assert header == ("x-rule", "shop.caf%C3%A9%0A:%20%25")


@pytest.mark.parametrize(
    ("unit", "told"),
    [(0, ""), (1, " unit:SECOND"), (6, " unit:YEAR"), (7, " unit:7"), (99, " unit:99")],
)
def test_a_limit_without_a_unit_in_an_unknown_domain_is_told_and_no_crash(unit: int, told: str):
    """Nothing is counted there, so nothing is refused; the metadata repeats what was asked."""
    asked = request(descriptor(("a", "x"), override=Override(7, unit)), domain="unknown")
    compiled = rules(LIMITS, options=Options(has_dynamic_metadata=True))
    found = decide(asked, compiled, DictionaryCounters(), 90).metadata
    assert found is not None
    assert found["descriptors"][0]["limit"] == f"requests_per_unit:7{told}"
