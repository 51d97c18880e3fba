"""What can go wrong with us, as opposed to a denial or an over-limit, which are answers.

    Fault
    ├── InvalidInput    what was given can't be used: the giver must change it
    ├── Unavailable     a dependency doesn't answer in time: trying again may help (`retryable`)
    └── Misconfigured   we were set up so that we can't work: the operator must change it

Each adapter translates the exceptions of its library into these, once.
`meshwarden.adapters.fault_status` maps them to gRPC and HTTP status.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong: where (`file`, `line` from 1, 0 when unknown), what, and what to do
    about it.

    `what` never holds a secret.
    """

    file: str
    line: int
    what: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        return f"{place}{self.what}" + (f" ({self.hint})" if self.hint else "")


class Fault(Exception):
    """A fault of ours or of what we were given; `problems` lists everything that was found, not the
    first only.
    """

    def __init__(self, what: str | Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (
            (Problem("", 0, what),) if isinstance(what, str) else tuple(sorted(what))
        )
        super().__init__("\n".join(str(problem) for problem in self.problems))


class InvalidInput(Fault):
    """What was given can't be used; the giver must change it."""


class Unavailable(Fault):
    """A dependency does not answer in time; `retryable` says whether the same call may succeed
    later.
    """

    def __init__(self, what: str | Iterable[Problem], *, retryable: bool = True) -> None:
        super().__init__(what)
        self.retryable = retryable


class Misconfigured(Fault):
    """We were set up so that we can't work; the operator must change it."""
