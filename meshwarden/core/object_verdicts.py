"""What became of each object that a cluster offered: taken, or not, and why."""

from __future__ import annotations

from dataclasses import dataclass

from meshwarden.core.faults import Problem

ACCEPTED = "Accepted"
REFUSED = "Refused"
CONFLICT = "Conflict"
NOT_YOURS = "NotYours"


@dataclass(frozen=True, slots=True, order=True)
class ObjectId:
    """Which object; `namespace` is the one that it is in, also for the platform's own."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"

    @property
    def file(self) -> str:
        """The object's name in a bundle."""
        return f"{self.kind}/{self.namespace}/{self.name}.yaml"


@dataclass(frozen=True, slots=True)
class ObjectVerdict:
    """`reason` is Accepted, Refused (its content, or what depends on it), Conflict (an older object
    has what it claims) or NotYours (its namespace may not claim that). `problems` is empty where
    it was accepted.
    """

    object: ObjectId
    uid: str
    generation: int
    reason: str
    problems: tuple[Problem, ...] = ()
