"""What is answered to a request: statuses, overall code, headers, dynamic metadata."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwarden.core.faults import Unavailable
from ratelimit_service.core.decide import HITS_AT_MOST, decide, judge_uncounted, plan
from ratelimit_service.core.model import (
    UNLIMITED_REMAINING,
    Code,
    Decision,
    Descriptor,
    HeaderNames,
    Options,
    Override,
    UnanswerableRequest,
)
from ratelimit_service.core.window import Unit
from tests.support.limits import DictionaryCounters, descriptor, request, rules

RULES = """
domain: domain
descriptors:
- {key: two, rate_limit: {unit: minute, requests_per_unit: 2, name: pair}}
- {key: ten, rate_limit: {unit: hour, requests_per_unit: 10}}
- {key: none, rate_limit: {unit: second}}
- {key: free, rate_limit: {unlimited: true, name: gift, replaces: [{name: pair}]}}
- {key: shadow, shadow_mode: true, rate_limit: {unit: minute, requests_per_unit: 1}}
- {key: special, rate_limit: {unit: minute, requests_per_unit: 5, replaces: [{name: pair}]}}
"""
TWO, TEN, NONE = descriptor(("two", "")), descriptor(("ten", "x")), descriptor(("none", "x"))


class Asked:
    """Requests to one configuration, counted together."""

    def __init__(self, text: str = RULES, options: Options | None = None) -> None:
        self.rules = rules(text, options=options)
        self.counters = DictionaryCounters()

    def __call__(self, *descriptors: Descriptor, hits_addend: int = 0, now: int = 90) -> Decision:
        asked = request(*descriptors, hits_addend=hits_addend)
        return decide(asked, self.rules, counters=self.counters, now=now)


def remaining(decision: Decision) -> list[tuple[str, int]]:
    return [(status.code.name, status.limit_remaining) for status in decision.statuses]


def test_a_limit_admits_its_number_and_no_more():
    ask = Asked()
    answers = [ask(TWO) for _ in range(4)]
    assert [answer.code.name for answer in answers] == ["OK", "OK", "OVER_LIMIT", "OVER_LIMIT"]
    assert [remaining(answer)[0][1] for answer in answers] == [1, 0, 0, 0]


def test_a_new_window_begins_at_its_edge():
    ask = Asked()
    assert ask(TWO, hits_addend=2, now=119).statuses[0].reset_seconds == 1
    assert ask(TWO, now=119).code is Code.OVER_LIMIT
    fresh = ask(TWO, now=120)
    assert (fresh.code, fresh.statuses[0].reset_seconds) == (Code.OK, 60)


def test_what_has_no_limit_is_ok_and_says_no_more():
    status = Asked()(descriptor(("unknown", "x"))).statuses[0]
    assert (status.code, status.limit, status.limit_remaining) == (Code.OK, None, 0)


def test_unlimited_is_ok_without_counting():
    ask = Asked()
    answer = ask(descriptor(("free", "x")))
    assert remaining(answer) == [("OK", UNLIMITED_REMAINING)]
    assert answer.statuses[0].limit is None
    assert not ask.counters.values


def test_no_requests_per_unit_refuses_everything():
    assert Asked()(NONE).code is Code.OVER_LIMIT


def test_a_shadowed_limit_counts_and_says_ok():
    ask = Asked()
    ask(descriptor(("shadow", "x")))
    answer = ask(descriptor(("shadow", "x")))
    assert answer.code is Code.OK
    assert remaining(answer) == [("OK", 0)]
    assert answer.statuses[0].is_over


@pytest.mark.parametrize("replacing", ["special", "free"])
def test_a_replaced_limit_is_neither_counted_nor_judged(replacing: str):
    ask = Asked()
    answer = ask(TWO, descriptor((replacing, "x")), hits_addend=3)
    assert answer.statuses[0].limit is None
    assert answer.code is Code.OK
    assert not any("two" in key for key in ask.counters.values)
    assert ask(TWO).statuses[0].limit_remaining == 1


def test_every_descriptor_is_counted_even_when_another_is_over():
    ask = Asked()
    assert remaining(ask(NONE, TEN)) == [("OVER_LIMIT", 0), ("OK", 9)]
    assert remaining(ask(TEN, NONE)) == [("OK", 8), ("OVER_LIMIT", 0)]


def test_a_request_too_big_for_what_is_left_uses_the_window_up():
    ask = Asked()
    assert ask(TEN, hits_addend=11).code is Code.OVER_LIMIT
    assert ask(TEN).code is Code.OVER_LIMIT


@pytest.mark.parametrize(
    ("own", "of_request", "counted"),
    [(None, 0, 1), (None, 3, 3), (0, 3, 0), (2, 3, 2), (2**64 - 1, 0, HITS_AT_MOST)],
)
def test_hits_are_the_descriptors_own_or_the_requests(
    own: int | None, of_request: int, counted: int
):
    asked = request(descriptor(("ten", "x"), hits_addend=own), hits_addend=of_request)
    assert plan(asked, rules(RULES), now=0).increments[0].hits == counted


def test_looking_at_the_limit_is_ok_and_counts_nothing():
    ask = Asked()
    ask(TWO, hits_addend=2)
    look = descriptor(("two", ""), hits_addend=0)
    assert remaining(ask(look)) == [("OK", 0)]
    assert remaining(ask(look)) == [("OK", 0)]


def test_hits_given_back_are_ok_and_never_below_nothing():
    ask = Asked()
    back = descriptor(("two", ""), hits_addend=2, is_negative_hits=True)
    ask(TWO, hits_addend=7)
    assert remaining(ask(back)) == [("OK", 0)]
    for _ in range(4):
        last = ask(back)
    assert remaining(last) == [("OK", 2)]
    assert remaining(ask(TWO)) == [("OK", 1)]


@given(hits=st.lists(st.integers(0, 4), max_size=12))
def test_no_more_than_the_limit_is_ever_admitted(hits: list[int]):
    """The law: hits of admitted requests in one window never add up to more than the limit."""
    ask = Asked()
    admitted = 0
    for count in hits:
        if ask(descriptor(("ten", "x"), hits_addend=count)).code is Code.OK:
            admitted += count
    assert admitted <= 10


def test_what_the_reference_cannot_answer_is_told_in_its_words():
    compiled = rules(RULES)
    with pytest.raises(UnanswerableRequest, match=r"^rate limit domain must not be empty$"):
        plan(request(TWO, domain=""), compiled, now=0)
    with pytest.raises(
        UnanswerableRequest, match=r"^rate limit descriptor list must not be empty$"
    ):
        plan(request(), compiled, now=0)
    with pytest.raises(Unavailable, match=r"^no rate limit configuration loaded$"):
        plan(request(TWO), None, now=0)


def test_the_service_wide_shadow_mode_changes_the_overall_answer_alone():
    ask = Asked(options=Options(shadow_mode=True))
    answer = ask(NONE)
    assert (answer.code, answer.is_shadowed) == (Code.OK, True)
    assert remaining(answer) == [("OVER_LIMIT", 0)]
    assert not ask(TEN).is_shadowed


def headers(ask: Asked, *descriptors: Descriptor) -> list[str]:
    return [value for _, value in ask(*descriptors).headers]


def test_headers_show_the_tightest_limit():
    ask = Asked(options=Options(header_names=HeaderNames()))
    assert headers(ask, TEN, TWO, descriptor(("unknown", ""))) == ["2", "1", "30"]
    assert headers(ask, descriptor(("unknown", "")), descriptor(("free", ""))) == []


def test_headers_show_the_last_limit_that_is_over():
    ask = Asked(options=Options(header_names=HeaderNames()))
    other = descriptor(("x", ""), override=Override(0, Unit.MINUTE))
    assert headers(ask, NONE, other, TWO) == ["0", "0", "30"]
    assert headers(ask, other, NONE, TWO) == ["0", "0", "1"]


def test_headers_have_the_names_that_were_configured():
    ask = Asked(options=Options(header_names=HeaderNames("l", "r", "s")))
    assert [name for name, _ in ask(TEN).headers] == ["l", "r", "s"]
    assert not Asked()(TEN).headers


METADATA = """
domain: domain
descriptors:
- key: a
  metadata: {who: first, deep: {x: 1, list: [1]}}
  rate_limit: {unit: day, requests_per_unit: 1}
- key: b
  metadata: {who: second, deep: {x: 2, z: 2}}
  rate_limit: {unit: day, requests_per_unit: 9}
"""


def test_dynamic_metadata_tells_what_was_asked_and_what_was_configured():
    ask = Asked(METADATA, Options(has_dynamic_metadata=True))
    overridden = descriptor(("path", ""), override=Override(3, Unit.MINUTE), hits_addend=2)
    answer = ask(descriptor(("a", "1")), descriptor(("b", "2")), overridden, hits_addend=1)
    assert answer.metadata == {
        "domain": "domain",
        "quotaModeEnabled": False,
        "hitsAddend": 1,
        "descriptors": [
            {"entries": ["a=1"]},
            {"entries": ["b=2"]},
            {
                "entries": ["path="],
                "limit": "requests_per_unit:3 unit:MINUTE",
                "hitsAddend": 2,
            },
        ],
        "metadata": {"who": "first", "deep": {"x": 1, "list": [1], "z": 2}},
    }


@pytest.mark.parametrize("flag", ["detailed_metric", "value_to_metric", "share_threshold"])
def test_metadata_is_kept_where_statistics_or_counters_depend_on_the_request(flag: str):
    """The reference loses it there: it makes the limit anew for each request."""
    text = METADATA.replace("- key: a\n", f'- key: a\n  value: "x*"\n  {flag}: true\n')
    answer = Asked(text, Options(has_dynamic_metadata=True))(descriptor(("a", "xyz")))
    assert answer.metadata is not None
    assert answer.metadata["metadata"]["who"] == "first"


def test_merging_metadata_leaves_the_configuration_as_it_was():
    ask = Asked(METADATA, Options(has_dynamic_metadata=True))
    before = copy.deepcopy(ask.rules.domains["domain"].children["a"].match)
    ask(descriptor(("a", "1")), descriptor(("b", "2")))
    assert ask.rules.domains["domain"].children["a"].match == before


def test_metadata_of_a_limit_that_is_over_is_left_out():
    ask = Asked(METADATA, Options(has_dynamic_metadata=True))
    ask(descriptor(("a", "1")))
    over = ask(descriptor(("a", "1")), descriptor(("unknown", "2"))).metadata
    assert over is not None
    assert "metadata" not in over


def test_dynamic_metadata_tells_which_quotas_are_used_up():
    text = """
domain: domain
descriptors:
- {key: a, quota_mode: true, rate_limit: {unit: day, requests_per_unit: 1}}
- {key: b, rate_limit: {unit: day, requests_per_unit: 1}}
"""
    ask = Asked(text, Options(has_dynamic_metadata=True))
    both = descriptor(("b", "1")), descriptor(("a", "1"))
    within, over = ask(*both).metadata, ask(*both).metadata
    assert within is not None
    assert over is not None
    assert within["quotaModeEnabled"] is True
    assert "quotaModeViolations" not in within
    assert over["quotaModeViolations"] == [1]


def test_without_counters_every_limit_is_over_or_none():
    planned = plan(request(TEN, descriptor(("unknown", ""))), rules(RULES), now=0)
    denied = judge_uncounted(planned, is_over=True, now=0)
    allowed = judge_uncounted(planned, is_over=False, now=0)
    assert remaining(denied) == [("OVER_LIMIT", 0), ("OK", 0)]
    assert (denied.code, allowed.code) == (Code.OVER_LIMIT, Code.OK)
    assert remaining(allowed) == [("OK", 10), ("OK", 0)]
