"""What one replica tells of the objects that it was offered, in an object of its own.

    verdicts -> report_of -> ReplicaReport, one a replica -> aggregated_status -> status

What the leader makes of the reports is in `aggregated_status.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from meshwarden.core.faults import Problem
from meshwarden.core.object_verdicts import (
    ACCEPTED,
    CONFLICT,
    NOT_YOURS,
    REFUSED,
    ObjectId,
    ObjectVerdict,
)
from meshwarden.core.secret import redacted_text

KIND = "ReplicaReport"
OBJECTS_AT_MOST = 10_000
BYTES_AT_MOST = 1_200_000
"""Of the objects in one report: etcd takes no request of more than 1.5 MiB."""

MESSAGE_CHARACTERS_AT_MOST = 1000
"""The API server would take 32,768 in a condition."""

REASONS = (ACCEPTED, REFUSED, CONFLICT, NOT_YOURS)

Reason = Literal["Accepted", "Refused", "Conflict", "NotYours"]
Message = Annotated[str, StringConstraints(max_length=MESSAGE_CHARACTERS_AT_MOST)]
ObjectName = Annotated[str, StringConstraints(min_length=1, max_length=253)]
NamespaceName = Annotated[str, StringConstraints(min_length=1, max_length=63)]
Uid = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Moment = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ReportedObject(_Part):
    """What the replica did with one generation of one object. One that it took is told without
    reason and message.
    """

    kind: Annotated[str, StringConstraints(min_length=1, max_length=63)]
    namespace: NamespaceName
    name: ObjectName
    uid: Uid
    generation: int = Field(ge=0, le=2**53 - 1)  # What JSON says exactly (RFC 8259 section 6).
    reason: Reason = "Accepted"
    message: Message = ""

    @property
    def id(self) -> ObjectId:
        return ObjectId(self.kind, self.namespace, self.name)


class ReportSpec(_Part):
    service: Literal["ext-authz", "ratelimit"]
    replica: ObjectName = Field(description="The Pod's name, or the machine's.")
    version: str = Field(max_length=64, description="Of the configuration that it was offered.")
    renewedAt: Moment = Field(  # noqa: N815 the field's name in the object
        description="By the replica's clock: who reads it looks only whether it changes."
    )
    objects: tuple[ReportedObject, ...] = Field((), max_length=OBJECTS_AT_MOST)
    omitted: int = Field(
        0, ge=0, le=2**31 - 1, description="Objects for which the report has no room."
    )


class OwnerReference(_Part):
    apiVersion: str = Field("v1", max_length=253)  # noqa: N815 the field's name in the object
    kind: str = Field("Pod", max_length=63)
    name: ObjectName
    uid: Uid


class ReportMetadata(BaseModel):
    """What we read and write of it; the API server has more."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: ObjectName
    namespace: NamespaceName
    uid: str = ""
    resourceVersion: str = ""  # noqa: N815 the field's name in the object
    ownerReferences: tuple[OwnerReference, ...] = ()  # noqa: N815


class ReplicaReport(_Part):
    """What one replica took or refused; written by that replica only."""

    apiVersion: Literal["meshwarden.io/v1alpha1"] = "meshwarden.io/v1alpha1"  # noqa: N815
    kind: Literal["ReplicaReport"] = "ReplicaReport"
    metadata: ReportMetadata
    spec: ReportSpec


def message_of(problems: Iterable[Problem]) -> str:
    """All that is wrong with an object, bounded and without secrets; the file is left out, as it is
    the object itself.

    >>> message_of([Problem("AccessPolicy/a/b.yaml", 3, "spec.hosts: is empty", "name a host")])
    'spec.hosts: is empty (name a host)'
    """
    told = "; ".join(
        f"{problem.what} ({problem.hint})" if problem.hint else problem.what for problem in problems
    )
    return bounded(redacted_text(told))


def bounded(text: str) -> str:
    """At most `MESSAGE_CHARACTERS_AT_MOST` characters; ends in `...` where some were cut."""
    if len(text) <= MESSAGE_CHARACTERS_AT_MOST:
        return text
    return text[: MESSAGE_CHARACTERS_AT_MOST - 3] + "..."


def report_of(
    verdicts: Sequence[ObjectVerdict], *, service: str, replica: str, version: str, renewed_at: str
) -> ReportSpec:
    """The report of these verdicts. Where they are more than it may hold, those that were not taken
    come first, and the rest is counted. The order of the verdicts makes no difference.
    """
    entries = sorted(map(_entry, verdicts), key=_urgency)
    kept: list[ReportedObject] = []
    size = 0
    for entry in entries[:OBJECTS_AT_MOST]:
        size += _bytes_of(entry)
        if size > BYTES_AT_MOST:
            break
        kept.append(entry)
    return ReportSpec(
        service=service,  # type: ignore[arg-type] # pydantic checks it
        replica=replica,
        version=version,
        renewedAt=renewed_at,
        objects=tuple(sorted(kept, key=lambda entry: entry.id)),
        omitted=len(entries) - len(kept),
    )


def _entry(verdict: ObjectVerdict) -> ReportedObject:
    is_accepted = verdict.reason == ACCEPTED
    return ReportedObject(
        kind=verdict.object.kind,
        namespace=verdict.object.namespace,
        name=verdict.object.name,
        uid=verdict.uid,
        generation=verdict.generation,
        reason=verdict.reason,  # type: ignore[arg-type] # pydantic checks it
        message="" if is_accepted else message_of(verdict.problems),
    )


def _urgency(entry: ReportedObject) -> tuple[bool, ObjectId, str]:
    return entry.reason == ACCEPTED, entry.id, entry.uid


_FIELDS_BYTES = 110
"""The names of an entry's fields, quotes, reason and number, with room to spare."""


def _bytes_of(entry: ReportedObject) -> int:
    """At most so many, in JSON: a character outside ASCII may take twelve, as a surrogate pair."""
    texts = (entry.kind, entry.namespace, entry.name, entry.uid, entry.message)
    return _FIELDS_BYTES + sum(
        len(text) if text.isascii() and text.isprintable() else 12 * len(text) for text in texts
    )
