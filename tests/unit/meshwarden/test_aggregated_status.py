"""What all replicas together say of an object."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from meshwarden.core.aggregated_status import (
    NO_ROOM,
    ObservedObject,
    SeenReport,
    StatusChange,
    aggregate,
)
from meshwarden.core.object_verdicts import ACCEPTED, ObjectId
from meshwarden.core.replica_report import REASONS, ReportedObject, ReportSpec

NOW = 1000.0
DEAD_AFTER = 30.0
EARLY, LATE = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
ID = ObjectId("AccessPolicy", "shop", "orders")
ORDERS = ObservedObject(ID, "u1", 3)

entries = st.builds(
    ReportedObject,
    kind=st.just(ID.kind),
    namespace=st.just(ID.namespace),
    name=st.just(ID.name),
    uid=st.sampled_from(["u1", "u1", "u1", "u0"]),
    generation=st.sampled_from([2, 3, 3, 3]),
    reason=st.sampled_from(REASONS),
    message=st.sampled_from(["", "one", "two"]),
)
LAW = settings(max_examples=25)
reports = st.lists(
    st.builds(
        lambda name, told, age, omitted: seen(name, told, age=age, omitted=omitted),
        st.sampled_from("abcdef"),
        st.lists(entries, max_size=1),
        st.sampled_from([0.0, DEAD_AFTER, DEAD_AFTER + 0.1]),
        st.sampled_from([0, 0, 2]),
    ),
    max_size=4,
    unique_by=lambda report: report.name,
)


def entry(reason: str = ACCEPTED, message: str = "", **more: Any) -> ReportedObject:
    whole = {"uid": "u1", "generation": 3, "reason": reason, "message": message} | more
    return ReportedObject(kind=ID.kind, namespace=ID.namespace, name=ID.name, **whole)


def seen(
    name: str, told: list[ReportedObject], *, age: float = 0.0, omitted: int = 0
) -> SeenReport:
    spec = ReportSpec(
        service="ext-authz",
        replica=name,
        version="0",
        renewedAt="2026-01-01T00:00:00.000000Z",
        objects=tuple(told),
        omitted=omitted,
    )
    return SeenReport(name, spec, NOW - age)


def changed(
    found: list[SeenReport], observed: ObservedObject = ORDERS, *, moment: str = EARLY
) -> StatusChange | None:
    return aggregate(found, [observed], NOW, moment=moment, dead_after=DEAD_AFTER).get(ID)


def written(observed: ObservedObject, change: StatusChange | None) -> ObservedObject:
    return observed if change is None else replace(observed, status=change.status)


def condition(found: list[SeenReport], observed: ObservedObject = ORDERS) -> dict[str, Any]:
    status = written(observed, changed(found, observed)).status
    return next(each for each in status["conditions"] if each["type"] == "Accepted")


def told(found: list[SeenReport]) -> tuple[str, str, str]:
    one = condition(found)
    return one["status"], one["reason"], one["message"]


def is_live(report: SeenReport) -> bool:
    return not report.is_dead(NOW, dead_after=DEAD_AFTER)


def is_about(one: ReportedObject) -> bool:
    return (one.uid, one.generation) == (ORDERS.uid, ORDERS.generation)


def test_an_object_is_accepted_when_every_live_replica_took_it():
    found = [seen("a", [entry()]), seen("b", [entry()])]
    assert told(found)[:2] == ("True", "Accepted")
    change = changed(found)
    assert change is not None
    assert change.status["replicas"] == {"accepted": 2, "known": 2}
    assert change.status["observedGeneration"] == 3


def test_one_replica_that_refuses_is_enough_and_is_heard_before_others_told():
    found = [seen("a", []), seen("b", [entry("Conflict", "older")]), seen("c", [entry()])]
    assert told(found) == ("False", "Conflict", "older")


def test_what_a_replica_said_of_another_generation_or_uid_is_not_about_this_object():
    assert told([seen("a", [entry("Refused", "old", generation=2)])])[:2] == ("Unknown", "Pending")
    assert told([seen("a", [entry(uid="u0")])])[:2] == ("Unknown", "Pending")


def test_a_dead_replicas_refusal_does_not_count():
    found = [seen("a", [entry("Refused", "x")], age=DEAD_AFTER + 0.1), seen("b", [entry()])]
    assert told(found)[:2] == ("True", "Accepted")
    assert told(found[:1])[:2] == ("Unknown", "Pending")


def test_an_object_that_a_report_had_no_room_for_stays_pending_and_says_so():
    assert told([seen("a", [], omitted=1)]) == ("Unknown", "Pending", NO_ROOM)


def test_other_controllers_conditions_stay_and_unreadable_ones_go():
    other = {"type": "Synced", "status": "True"}
    given_ = replace(ORDERS, status={"conditions": [other, {"type": "Accepted"}, None]})
    change = changed([seen("a", [entry()])], given_)
    assert change is not None
    assert [each["type"] for each in change.status["conditions"]] == ["Synced", "Accepted"]
    assert change.status["conditions"][0] == other


def test_only_a_number_of_replicas_that_changes_is_no_news():
    before = written(ORDERS, changed([seen("a", [entry()])]))
    change = changed([seen("a", [entry()]), seen("b", [entry()])], before, moment=LATE)
    assert change is not None
    assert not change.is_news
    assert change.status["conditions"] == before.status["conditions"]


@LAW
@given(reports, st.randoms())
def test_the_order_of_reports_makes_no_difference(found, random):
    shuffled = list(found)
    random.shuffle(shuffled)
    assert changed(found) == changed(shuffled)


@LAW
@given(reports, reports)
def test_a_status_that_was_written_needs_no_further_write(before, found):
    old = written(ORDERS, changed(before))
    new = written(old, changed(found, old, moment=LATE))
    assert changed(found, new, moment="2027-01-01T00:00:00Z") is None


@LAW
@given(reports, reports)
def test_the_transition_time_changes_with_the_status_and_only_then(before, found):
    old = written(ORDERS, changed(before))
    new = written(old, changed(found, old, moment=LATE))
    was, now = old.status["conditions"][0], new.status["conditions"][0]
    assert (was["status"] != now["status"]) == (now["lastTransitionTime"] == LATE)


@LAW
@given(reports)
def test_dead_reports_and_other_generations_change_nothing(found):
    """They can be left out."""
    heard = [
        replace(
            report,
            spec=report.spec.model_copy(
                update={"objects": tuple(filter(is_about, report.spec.objects))}
            ),
        )
        for report in found
        if is_live(report)
    ]
    assert changed(found) == changed(heard)


@LAW
@given(reports)
def test_true_means_all_and_false_means_at_least_one(found):
    """Of the live replicas, about this generation."""
    live = [report for report in found if is_live(report)]
    about = [[one.reason for one in report.spec.objects if is_about(one)] for report in live]
    says = told(found)[0]
    assert (says == "True") == (bool(live) and all(each == [ACCEPTED] for each in about))
    assert (says == "False") == any(set(each) - {ACCEPTED} for each in about)


@LAW
@given(reports, reports)
def test_a_reason_stays_while_a_live_replica_still_says_so(before, found):
    """However many others say something else."""
    old = written(ORDERS, changed(before))
    was = old.status["conditions"][0]
    kept = seen("z", [entry(was["reason"], was["message"])] if was["status"] == "False" else [])
    now = condition([*found, kept], old)
    if was["status"] == "False":
        assert (now["reason"], now["message"]) == (was["reason"], was["message"])
