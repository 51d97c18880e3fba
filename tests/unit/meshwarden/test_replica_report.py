"""What one replica tells."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from meshwarden.core.faults import Problem
from meshwarden.core.object_verdicts import ACCEPTED, REFUSED, ObjectId, ObjectVerdict
from meshwarden.core.pace import Pace
from meshwarden.core.replica_report import (
    BYTES_AT_MOST,
    MESSAGE_CHARACTERS_AT_MOST,
    ReplicaReport,
    ReportSpec,
    bounded,
    message_of,
    report_of,
)

MOMENT = "2026-01-01T00:00:00.000001Z"


def verdict(name: str, *problems: Problem, reason: str = "") -> ObjectVerdict:
    chosen = reason or (REFUSED if problems else ACCEPTED)
    return ObjectVerdict(ObjectId("AccessPolicy", "shop", name), f"u-{name}", 1, chosen, problems)


def report(*verdicts: ObjectVerdict) -> ReportSpec:
    return report_of(verdicts, service="ext-authz", replica="a", version="00ff", renewed_at=MOMENT)


def written(spec: ReportSpec) -> dict[str, object]:
    return spec.model_dump(mode="json", exclude_defaults=True)


def test_what_was_taken_is_told_without_a_word_too_much():
    told = written(report(verdict("orders"), verdict("bad", Problem("f", 1, "no", "do"))))
    whole = {"kind": "AccessPolicy", "namespace": "shop", "generation": 1}
    assert told["objects"] == [
        whole | {"name": "bad", "uid": "u-bad", "reason": "Refused", "message": "no (do)"},
        whole | {"name": "orders", "uid": "u-orders"},
    ]
    assert "omitted" not in told


def test_a_report_is_read_as_it_was_written():
    spec = report(verdict("orders"), verdict("bad", Problem("f", 1, "no")))
    document = {"apiVersion": "meshwarden.io/v1alpha1", "kind": "ReplicaReport"}
    document |= {"metadata": {"name": "a", "namespace": "m", "managedFields": []}}
    text = json.dumps(document | {"spec": written(spec)})
    assert ReplicaReport.model_validate_json(text).spec == spec


def test_a_message_is_bounded_and_holds_no_credential():
    secret = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJlLW9mLWEtdG9rZW4"
    told = message_of([Problem("f", 1, f"Bearer {secret}"), Problem("f", 2, "x" * 5000)])
    assert secret not in told
    assert len(told) == MESSAGE_CHARACTERS_AT_MOST
    assert told.endswith("x...")


def test_where_there_is_no_room_refusals_stay_and_the_rest_is_counted():
    """Whatever the messages are made of."""
    many = [verdict(f"ok-{number}") for number in range(12_000)]
    bad = [verdict(f"z-{n}", Problem("f", 1, "\U0001f600\x01" * 500)) for n in range(50)]
    spec = report(*many, *bad)
    kept = {one.name for one in spec.objects}
    assert {one.object.name for one in bad} <= kept
    assert spec.omitted == len(many) + len(bad) - len(kept) > 0
    assert len(json.dumps(written(spec))) < BYTES_AT_MOST + 1000


def test_a_report_that_is_none_is_refused():
    right = written(report(verdict("orders")))
    for wrong in ({"renewedAt": "yesterday"}, {"service": "other"}, {"more": 1}):
        with pytest.raises(ValidationError):
            ReportSpec.model_validate(right | wrong)


@settings(max_examples=10)
@given(st.permutations([verdict(name) for name in "abcd"]))
def test_the_order_of_verdicts_makes_no_difference(verdicts):
    assert report(*verdicts) == report(*sorted(verdicts, key=lambda one: one.object))


@pytest.mark.parametrize("length", [0, 999, 1000, 1001, 3000])
def test_a_bounded_text_is_short_and_short_texts_stay(length):
    text = "x" * length
    assert len(bounded(text)) <= MESSAGE_CHARACTERS_AT_MOST
    assert bounded(bounded(text)) == bounded(text)
    assert len(text) > MESSAGE_CHARACTERS_AT_MOST or bounded(text) == text


@settings(max_examples=30)
@given(st.lists(st.floats(0, 3), max_size=30), st.integers(1, 5), st.floats(0.5, 20))
def test_no_more_is_allowed_than_the_burst_and_the_rate(steps, burst, per_second):
    pace = Pace(per_second=per_second, burst=burst)
    now, taken = 0.0, 0
    for step in steps:
        now += step
        taken += pace.is_taken(now=now)
        assert taken <= burst + now * per_second + 1e-6
        wait = pace.wait_seconds(now=now)
        if wait:
            assert Pace.is_taken(pace, now=now) is False
            now += wait
            assert pace.is_taken(now=now)
            taken += 1
