"""What all replicas together say of an object: its status, as `kubectl get` shows it.

    a live replica refuses this generation          -> False, with its reason and message
    no live replica does, but one has not told yet  -> Unknown, Pending
    every live replica took this generation         -> True

A report counts while it is renewed. When it was last renewed is taken from the reader's own clock
(when it first saw that `renewedAt`), so that clocks which differ change nothing. What a report says
of another uid or generation is not about this object. Where replicas refuse for different reasons
the one that the status has already stays as long as a replica still says so: nothing flaps.
Source: Kubernetes API conventions, "Typical status properties".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from meshwarden.core.object_verdicts import ACCEPTED, ObjectId
from meshwarden.core.replica_report import ReportedObject, ReportSpec

DEAD_AFTER_SECONDS = 30.0
"""A report that was not renewed for so long is that of a dead replica."""

CONDITION = "Accepted"
PENDING = "Pending"
TAKEN = "every replica took it"
NOBODY = "no replica reports"
WAITING = "not every replica has told yet whether it takes it"
NO_ROOM = "a replica's report has no room for it: whether it took it is not known"

Status = dict[str, Any]
_Told = dict[tuple[ObjectId, str, int], list[tuple[str, ReportedObject]]]


@dataclass(frozen=True, slots=True)
class SeenReport:
    """A report by the object's `name`; `renewed_at` is the reader's clock, in seconds, when it
    first saw the report's present `renewedAt`.
    """

    name: str
    spec: ReportSpec
    renewed_at: float

    def is_dead(self, now: float, *, dead_after: float = DEAD_AFTER_SECONDS) -> bool:
        return now - self.renewed_at > dead_after


@dataclass(frozen=True, slots=True)
class ObservedObject:
    """An object of ours as the API server has it; `status` is plain JSON, `resource_version` that
    of the object with this status.
    """

    id: ObjectId
    uid: str
    generation: int
    status: Mapping[str, Any] = field(default_factory=dict)
    resource_version: str = ""


@dataclass(frozen=True, slots=True)
class StatusChange:
    """A status to be written to the object of this version and no other. `is_news` where the
    condition or what it is about changes, not only how many replicas there are; `is_pending` where
    it may be another one in a moment.
    """

    status: Status
    resource_version: str
    is_news: bool
    is_pending: bool


def aggregate(
    reports: Iterable[SeenReport],
    objects: Iterable[ObservedObject],
    now: float,
    *,
    moment: str,
    dead_after: float = DEAD_AFTER_SECONDS,
) -> dict[ObjectId, StatusChange]:
    """The statuses that are not yet as they should be. `now` is of the clock of `renewed_at`;
    `moment` is the time for `lastTransitionTime`, RFC 3339. The order of the reports makes no
    difference.
    """
    live = [report for report in reports if not report.is_dead(now, dead_after=dead_after)]
    told: _Told = {}
    for report in sorted(live, key=lambda report: report.name):
        for entry in report.spec.objects:
            told.setdefault((entry.id, entry.uid, entry.generation), []).append(
                (report.name, entry)
            )
    without_room = {report.name for report in live if report.spec.omitted}
    changes = {}
    for observed in objects:
        entries = told.get((observed.id, observed.uid, observed.generation), [])
        change = _change(observed, entries, len(live), without_room, moment)
        if change is not None:
            changes[observed.id] = change
    return changes


def _change(
    observed: ObservedObject,
    entries: Sequence[tuple[str, ReportedObject]],
    known: int,
    without_room: Set[str],
    moment: str,
) -> StatusChange | None:
    """None where the status is as it should be."""
    conditions = _conditions(observed.status)
    before = next((each for each in conditions if each.get("type") == CONDITION), {})
    accepted = sum(entry.reason == ACCEPTED for _, entry in entries)
    value, reason, message = _verdict(entries, accepted, known, without_room, before)
    is_same = before.get("status") == value and bool(before.get("lastTransitionTime"))
    condition = {
        "type": CONDITION,
        "status": value,
        "reason": reason,
        "message": message,
        "observedGeneration": observed.generation,
        "lastTransitionTime": before["lastTransitionTime"] if is_same else moment,
    }
    status = {
        "observedGeneration": observed.generation,
        "conditions": _replaced(conditions, condition),
        "replicas": {"accepted": accepted, "known": known},
    }
    if all(observed.status.get(name) == value for name, value in status.items()):
        return None
    return StatusChange(
        status,
        observed.resource_version,
        is_news=condition != before,
        is_pending=reason == PENDING,
    )


def _verdict(
    entries: Sequence[tuple[str, ReportedObject]],
    accepted: int,
    known: int,
    without_room: Set[str],
    before: Mapping[str, Any],
) -> tuple[str, str, str]:
    """The condition's status, reason and message."""
    refusals = [(entry.reason, entry.message) for _, entry in entries if entry.reason != ACCEPTED]
    if refusals:
        said = (before.get("reason"), before.get("message"))
        return ("False", *next((each for each in refusals if each == said), refusals[0]))
    if known and accepted == known:
        return "True", ACCEPTED, TAKEN
    if not known:
        return "Unknown", PENDING, NOBODY
    silent = without_room - {name for name, _ in entries}
    return "Unknown", PENDING, NO_ROOM if silent else WAITING


def _conditions(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Those that can be read; somebody else may have written anything."""
    found = status.get("conditions")
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def _replaced(
    conditions: Sequence[Mapping[str, Any]], condition: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    """Ours in the place that it had; other controllers' conditions stay as they are."""
    kept: list[Mapping[str, Any]] = []
    is_placed = False
    for each in conditions:
        if each.get("type") != CONDITION:
            kept.append(each)
        elif not is_placed:
            kept.append(condition)
            is_placed = True
    return kept if is_placed else [*kept, condition]
