"""What a rule is, what it finds, and the list of all rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from meshwarden.core.documents import Document, Path

if TYPE_CHECKING:
    from meshwarden.core.istio_lint.mesh import Mesh


class Severity(StrEnum):
    """An error fails the check; a warning is told."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a rule found what it looks for: a path in a document, and what is wrong there."""

    document: Document
    path: Path
    what: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One mistake: how it is named, why it is one (with Istio's issue where there is one), what to
    do about it, and the function that finds it.
    """

    id: str
    severity: Severity
    title: str
    why: str
    fix: str
    find: Callable[[Mesh], Iterator[Spot]]


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One mistake at its place; `line` from 1."""

    file: str
    line: int
    rule: str
    severity: Severity
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.severity} {self.rule}: {self.what} ({self.fix})"


RULES: dict[str, Rule] = {}
"""Every rule by its id, in the order of the ids once `check` is imported."""

Finder = Callable[["Mesh"], Iterator[Spot]]


def rule(
    number: int, severity: Severity, title: str, *, why: str, fix: str
) -> Callable[[Finder], Finder]:
    """Make a function that finds one mistake a rule. An id is never used again for another."""

    def registered(find: Finder) -> Finder:
        name = f"MW-ISTIO-{number:03}"
        if name in RULES:
            raise ValueError(f"{name} stands twice")
        RULES[name] = Rule(name, severity, title, why, fix, find)
        return find

    return registered
