"""A request under an atomic limit counts at all its limits or, denied, at none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwarden.core.faults import InvalidInput
from meshwarden.core.snapshot import Bundle
from ratelimit_service.core.compile import compile_limits
from ratelimit_service.core.decide import decide, plan
from ratelimit_service.core.model import Code, Decision, Options
from tests.support.limits import DictionaryCounters, descriptor, request, rules

RULES = """
domain: domain
descriptors:
- {key: all, rate_limit: {unit: hour, requests_per_unit: 5, atomic: true}}
- {key: one, rate_limit: {unit: hour, requests_per_unit: 2}}
- {key: shadow, shadow_mode: true, rate_limit: {unit: hour, requests_per_unit: 0}}
- {key: gold, quota_mode: true, rate_limit: {unit: hour, requests_per_unit: 1}}
- {key: silver, quota_mode: true, rate_limit: {unit: hour, requests_per_unit: 3}}
"""
KEYS = ("all", "one", "shadow", "gold", "silver", "unknown")


class Asked:
    """Requests of one descriptor a key, counted together."""

    def __init__(self, text: str = RULES, options: Options | None = None) -> None:
        self.rules = rules(text, options=options)
        self.counters = DictionaryCounters()

    def __call__(self, *keys: str, hits: int = 1) -> Decision:
        descriptors = [descriptor((key, "x")) for key in keys]
        asked = request(*descriptors, hits_addend=hits)
        return decide(asked, self.rules, counters=self.counters, now=90)

    def counts(self) -> list[int]:
        return sorted(self.counters.values.values())


def remaining(decision: Decision) -> list[tuple[str, int]]:
    return [(status.code.name, status.limit_remaining) for status in decision.statuses]


def test_a_denied_request_consumes_nothing_and_its_statuses_tell_what_is_left():
    ask = Asked()
    assert [ask("all", "one").code.name for _ in range(2)] == ["OK", "OK"]
    assert remaining(ask("all", "one")) == [("OK", 3), ("OVER_LIMIT", 0)]
    assert remaining(ask("all", hits=4)) == [("OVER_LIMIT", 3)]
    assert ask.counts() == [2, 2]
    assert ask("all", hits=3).code is Code.OK


def test_without_an_atomic_limit_in_the_request_all_is_counted_as_ever():
    ask = Asked()
    for _ in range(3):
        ask("one", "silver")
    assert ask.counts() == [3, 3]


def test_a_limit_in_shadow_denies_nothing_so_the_request_counts_everywhere():
    ask = Asked()
    assert ask("all", "shadow").code is Code.OK
    assert ask.counts() == [1, 1]


def test_quotas_deny_when_all_of_them_are_used_up():
    ask = Asked()
    assert [ask("all", "gold", "silver").code.name for _ in range(4)] == ["OK"] * 3 + ["OVER_LIMIT"]
    assert ask.counts() == [3, 3, 3]


@given(
    shadow_mode=st.booleans(),
    quota_mode=st.booleans(),
    requests=st.lists(st.tuples(st.lists(st.sampled_from(KEYS), max_size=5), st.integers(1, 3))),
)
def test_what_is_counted_and_what_is_answered_agree(
    shadow_mode: bool, quota_mode: bool, requests: list[tuple[list[str], int]]
):
    """Over any history: counters move exactly when the answer is OK, and then all of them."""
    ask = Asked(options=Options(shadow_mode=shadow_mode, quota_mode=quota_mode))
    for keys, hits in requests:
        before = dict(ask.counters.values)
        decision = ask("all", *keys, hits=hits)
        moved = sum(ask.counters.values.values()) - sum(before.values())
        counted = 1 + len([key for key in keys if key != "unknown"])
        assert moved == (counted * hits if decision.code is Code.OK else 0)


def test_the_counters_of_a_domain_with_an_atomic_limit_share_a_hash_tag():
    """Even those of requests that it doesn't apply to: a counter has one key."""
    found = [
        increment.key
        for key in ("all", "one")
        for increment in plan(request(descriptor((key, "x"))), rules(RULES), now=0).increments
    ]
    assert [key[key.index("{") : key.index("}") + 1] for key in found] == ["{6:domain}"] * 2
    plain = RULES.replace(", atomic: true", "")
    (increment,) = plan(request(descriptor(("one", "x"))), rules(plain), now=0).increments
    assert "{" not in increment.key


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("- {key: a, atomic: true}", "config error, unknown key 'atomic'"),
        (
            "- {key: a, rate_limit: {unit: day, atomic: 1}}",
            "error loading config file: yaml: unmarshal errors:\n"
            "  line 3: cannot unmarshal !!int `1` into bool",
        ),
        (
            "- {key: a, rate_limit: {unit: day, atomic: true}}",
            "atomic is not possible: here is why",
        ),
    ],
)
def test_where_it_cannot_be_it_is_refused(line: str, words: str):
    bundle = Bundle({"a.yaml": f"domain: d\ndescriptors:\n{line}\n".encode()})
    with pytest.raises(InvalidInput) as refused:
        compile_limits(bundle, atomic_refusal="here is why")
    assert [(problem.what, problem.line) for problem in refused.value.problems] == [(words, 3)]
