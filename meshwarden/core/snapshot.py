"""A configuration that is taken whole or not at all; the last good one keeps serving.

    Bundle (files as bytes) --compile--> Snapshot (a service's own, immutable)
                                 |
                                 +-- InvalidInput: refused; the current snapshot stays, and the
                                     refusal is kept to be shown

Holds the rule alone. Where bundles come from (a folder, a stream, Kubernetes) is the business of
`meshwarden.adapters.configuration`'s sources; what a snapshot is, each service's `core` says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from meshwarden.core.faults import InvalidInput, Problem

SnapshotType = TypeVar("SnapshotType")


@dataclass(frozen=True)
class Bundle:
    """All files that a snapshot is made of: name to content, names relative to the folder.

    `unreadable` lists what is there but could not be read; it makes the whole bundle refused.
    `version` is a digest of both, so the same version always meets the same answer.
    """

    files: Mapping[str, bytes] = field(repr=False)
    unreadable: tuple[Problem, ...] = ()
    version: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256()
        for name in sorted(self.files):
            for part in (name.encode("utf-8", "surrogateescape"), self.files[name]):
                digest.update(len(part).to_bytes(8, "big") + part)
        for problem in self.unreadable:
            digest.update(repr(problem).encode("utf-8", "backslashreplace"))
        object.__setattr__(self, "version", digest.hexdigest()[:16])


@dataclass(frozen=True, slots=True)
class Accepted:
    version: str


@dataclass(frozen=True, slots=True)
class Unchanged:
    version: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A value, not an exception: a refused configuration is an ordinary answer."""

    version: str
    problems: tuple[Problem, ...]


Outcome = Accepted | Unchanged | Refused


class SnapshotHolder(Generic[SnapshotType]):
    """The current snapshot of one service, and why the newest bundle was refused, if it was."""

    def __init__(self, compile_bundle: Callable[[Bundle], SnapshotType]) -> None:
        self._compile = compile_bundle
        self.current: SnapshotType | None = None
        self.version = ""
        self.refusal: Refused | None = None

    def offer(self, bundle: Bundle) -> Outcome:
        """Compile `bundle` and swap it in, or refuse it and keep what is there.

        A version that was just answered is not compiled again: a folder is read every few seconds.
        """
        if bundle.version == self.version:
            self.refusal = None
            return Unchanged(bundle.version)
        if self.refusal is not None and bundle.version == self.refusal.version:
            return self.refusal
        try:
            if bundle.unreadable:
                raise InvalidInput(bundle.unreadable)
            compiled = self._compile(bundle)
        except InvalidInput as error:
            self.refusal = Refused(bundle.version, error.problems)
            return self.refusal
        except Exception as error:
            # A fault of ours in reading a configuration may not take down what serves.
            what = f"reading it failed with {type(error).__name__}, which is a fault of Meshwarden"
            self.refusal = Refused(bundle.version, (Problem("", 0, what),))
            return self.refusal
        self.current, self.version, self.refusal = compiled, bundle.version, None
        return Accepted(bundle.version)
