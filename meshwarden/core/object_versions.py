"""One file of an offer on its way through its versions, and what is said of it meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from meshwarden.core.claims import Objection
from meshwarden.core.faults import Problem
from meshwarden.core.object_verdicts import ACCEPTED, REFUSED, ObjectId
from meshwarden.core.offered_objects import OfferedObject, Precedence, placed

FIRST: Precedence = (False, "", "", "", "")
"""Of what is no object, and claims nothing."""

PROBLEMS_AT_MOST = 20
"""Told of one object."""


@dataclass(frozen=True, slots=True)
class Version:
    content: bytes | None = field(repr=False)
    is_offered: bool = False
    is_last: bool = False


@dataclass(slots=True)
class TriedFile:
    """One file on its way: `at` is the index of the version that is tried."""

    name: str
    versions: list[Version]
    namespace: str | None
    """None: not of one namespace, and seen by all."""
    object: OfferedObject | None = None
    deleted: ObjectId | None = None
    precedence: Precedence = FIRST
    at: int = 0
    reason: str = ACCEPTED
    problems: list[Problem] = field(default_factory=list)

    @property
    def version(self) -> Version:
        return self.versions[self.at]

    @property
    def is_changed(self) -> bool:
        """Whether what is tried differs from what was taken last."""
        return not self.version.is_last

    @property
    def can_go_on(self) -> bool:
        return self.at + 1 < len(self.versions)

    def go_on(self) -> bool:
        if not self.can_go_on:
            return False
        self.at += 1
        return True

    def object_to(self, objection: Objection) -> None:
        if self.reason in (ACCEPTED, REFUSED):
            self.reason = objection.reason
        self.add(objection.problem)

    def refuse(self, problem: Problem) -> None:
        if self.reason == ACCEPTED:
            self.reason = REFUSED
        self.add(problem)

    def refuse_for(self, problems: Iterable[Problem]) -> None:
        """On account of what the compiler says about the version that is tried."""
        for problem in problems:
            self.refuse(placed(problem, self.version.content or b""))

    def add(self, problem: Problem) -> None:
        if problem not in self.problems and len(self.problems) < PROBLEMS_AT_MOST:
            self.problems.append(problem)


@dataclass(frozen=True, slots=True)
class Taken:
    """A file as it was taken last; `object` where it is one's."""

    content: bytes
    namespace: str | None
    object: ObjectId | None
    precedence: Precedence


def versions_of(contents: Iterable[bytes | None], last: bytes | None) -> list[Version]:
    """Each content once, in order. What was not there last is as it was when it is not there."""
    ordered = list(dict.fromkeys(contents))
    found = [Version(content, index == 0, content == last) for index, content in enumerate(ordered)]
    if None in ordered[:-1]:
        # Nothing comes last, after what denies everything.
        found.append(found.pop(ordered.index(None)))
    return found
