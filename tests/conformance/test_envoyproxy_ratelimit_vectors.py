"""The reference's own vectors: wildcards, counter keys, near-limit arithmetic, quota mode."""

from __future__ import annotations

import pytest

from ratelimit_service.core.decide import decide, plan
from ratelimit_service.core.model import Code, Limit, Options
from ratelimit_service.core.near_limit import near_threshold, tally
from ratelimit_service.core.wildcard import is_match, split_pattern
from ratelimit_service.core.window import Unit
from tests.support.limits import DictionaryCounters, descriptor, request, rules

REFERENCE_KEYS = Options(key_format="envoyproxy")


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("foo*", "foo1", True),
        ("foo*", "foo", True),
        ("bar*b", "barab", True),
        ("bar*b", "bar123b", True),
        ("bar*b", "barb", True),
        ("bar*b", "bara", False),
        ("bar*b", "xbarb", False),
        ("foo*bar*baz", "foo123bar456baz", True),
        ("foo*bar*baz", "foobarbaz", True),
        ("foo*bar*baz", "foo123baz", False),
        ("foo*bar*baz", "bar456baz", False),
        ("a*a", "a", False),
        ("*", "", True),
        ("a*/_*z", "a/_/_z", True),
        ("Foo*", "foo1", False),
    ],
)
def test_wildcards(pattern: str, text: str, matches: bool):
    assert is_match(split_pattern(pattern), text) is matches


def test_an_exact_value_beats_a_wildcard_which_beats_the_key_alone():
    configured = rules("""
domain: domain
descriptors:
- {key: k, rate_limit: {unit: minute, requests_per_unit: 1}}
- {key: k, value: "test*", rate_limit: {unit: minute, requests_per_unit: 2}}
- {key: k, value: "te*", rate_limit: {unit: minute, requests_per_unit: 3}}
- {key: k, value: test1, rate_limit: {unit: minute, requests_per_unit: 4}}
""")

    def met(value: str) -> int:
        planned = plan(request(descriptor(("k", value))), configured, now=0)
        return planned.matches[0].limit.requests_per_unit

    assert [met("test1"), met("test12"), met("tea"), met("other"), met("")] == [4, 2, 3, 1, 1]


@pytest.mark.parametrize(
    ("unit", "now", "entries", "prefix", "key"),
    [
        ("second", 1234, [("key", "value")], "", "domain_key_value_1234"),
        (
            "minute",
            1234,
            [("key2", "value2"), ("subkey2", "subvalue2")],
            "",
            "domain_key2_value2_subkey2_subvalue2_1200",
        ),
        ("hour", 1_000_000, [("key3", "value3")], "", "domain_key3_value3_997200"),
        ("day", 1_000_000, [("key3", "value3")], "", "domain_key3_value3_950400"),
        ("second", 1234, [("key", "value")], "prefix:", "prefix:domain_key_value_1234"),
        ("second", 1234, [("k", "")], "", "domain_k__1234"),
    ],
)
def test_counter_keys(unit: str, now: int, entries: list[tuple[str, str]], prefix: str, key: str):
    nested = f"rate_limit: {{unit: {unit}, requests_per_unit: 1}}"
    for name, _ in reversed(entries):
        nested = f"descriptors: [{{key: {name}, {nested}}}]"
    options = Options(key_format="envoyproxy", key_prefix=prefix)
    configured = rules(f"{{domain: domain, {nested}}}", options=options)
    planned = plan(request(descriptor(*entries)), configured, now=now)
    assert [increment.key for increment in planned.increments] == [key]


def test_a_shared_wildcard_counts_under_its_pattern():
    configured = rules(
        """
domain: domain
descriptors:
- key: files
  value: "files/*"
  share_threshold: true
  rate_limit: {unit: second, requests_per_unit: 1}
  descriptors: [{key: user, rate_limit: {unit: second, requests_per_unit: 1}}]
""",
        options=REFERENCE_KEYS,
    )
    shallow = descriptor(("files", "files/a.pdf"))
    deep = descriptor(("files", "files/b.pdf"), ("user", "rita"))
    planned = plan(request(shallow, deep), configured, now=1234)
    assert [increment.key for increment in planned.increments] == [
        "domain_files_files/*_1234",
        "domain_files_files/*_user_rita_1234",
    ]


@pytest.mark.parametrize(
    ("limit", "hits", "after", "over", "near", "within"),
    [
        (20, 3, 22, 2, 1, 0),
        (20, 7, 22, 2, 4, 0),
        (20, 3, 19, 0, 3, 3),
        (8, 2, 7, 0, 1, 2),
        (20, 1, 16, 0, 0, 1),
        (20, 3, 25, 3, 0, 0),
        (0, 1, 1, 1, 0, 0),
    ],
)
def test_near_limit_arithmetic(
    limit: int, hits: int, after: int, over: int, near: int, within: int
):
    rule = Limit("d.k", limit, Unit.SECOND)
    found = tally(rule, hits=hits, outcome=after, at_most=limit, near_limit_ratio=0.8)
    assert (found.over_limit, found.near_limit, found.within_limit) == (over, near, within)
    assert found.total_hits == hits


def test_the_near_threshold_is_computed_in_32_bit_floats():
    """0.8 as a 32-bit float is a little more than 0.8; the product is rounded to 32 bits again."""
    limits = (20, 10, 8, 5, 15)
    assert [near_threshold(limit, 0.8) for limit in limits] == [16, 8, 6, 4, 12]


def test_shadowed_hits_are_tallied_over_and_shadowed():
    rule = Limit("d.k", 20, Unit.SECOND, shadow_mode=True)
    crossing = tally(rule, hits=7, outcome=22, at_most=20, near_limit_ratio=0.8)
    beyond = tally(rule, hits=7, outcome=30, at_most=20, near_limit_ratio=0.8)
    assert (crossing.shadow_mode, beyond.shadow_mode) == (2, 7)


def test_hits_given_back_are_tallied_apart():
    found = tally(
        Limit("d.k", 20, Unit.SECOND), hits=-3, outcome=5, at_most=20, near_limit_ratio=0.8
    )
    assert (found.total_negative_hits, found.total_hits, found.within_limit) == (3, 0, 0)


QUOTAS = """
domain: domain
descriptors:
- {key: quota1, quota_mode: true, rate_limit: {unit: minute, requests_per_unit: 1}}
- {key: quota2, quota_mode: true, rate_limit: {unit: minute, requests_per_unit: 1}}
- {key: normal1, rate_limit: {unit: minute, requests_per_unit: 1}}
- {key: normal2, rate_limit: {unit: minute, requests_per_unit: 1}}
"""


@pytest.mark.parametrize(
    ("over", "within", "quota_mode", "code"),
    [
        (["quota1"], ["normal1"], False, Code.OVER_LIMIT),
        (["quota1"], ["quota2"], False, Code.OK),
        (["quota1", "quota2"], [], False, Code.OVER_LIMIT),
        (["quota1", "quota2"], ["normal1"], False, Code.OVER_LIMIT),
        (["normal1"], ["quota1"], False, Code.OVER_LIMIT),
        (["normal1"], ["normal2"], True, Code.OK),
        (["normal1", "normal2"], [], True, Code.OVER_LIMIT),
        (["normal1"], ["unknown"], True, Code.OK),
        ([], ["unknown"], True, Code.OK),
        ([], ["quota1", "normal1"], False, Code.OK),
    ],
)
def test_quotas(over: list[str], within: list[str], quota_mode: bool, code: Code):
    configured = rules(QUOTAS, options=Options(quota_mode=quota_mode))
    descriptors = [descriptor((key, "x"), hits_addend=2) for key in over]
    descriptors += [descriptor((key, "x"), hits_addend=1) for key in within]
    decision = decide(request(*descriptors), configured, counters=DictionaryCounters(), now=0)
    assert decision.code is code
    assert [status.code for status in decision.statuses] == [Code.OVER_LIMIT] * len(over) + [
        Code.OK
    ] * len(within)
