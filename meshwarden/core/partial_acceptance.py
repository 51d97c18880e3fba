"""Takes as many of the offered objects as compile together, so that one tenant's fault refuses
nobody else's.

    offered objects -> claims -> choice of a content for each file -> compile -> snapshot
                                     ^                                   |
                                     +---- put back what problems point at

Each file has versions in the order of preference: what is offered, what was taken last, what denies
everything that it would decide about, nothing. A file that a problem points at goes on to its next
version. Where it is as it was taken last, what changed around it is to blame and is put back first:
a deleted object that others need serves on. So nothing changes for anybody without a verdict.

Ends because versions only go forward: after `CAREFUL_ROUNDS`, whole namespaces go on at once, so
that no chain of dependences can hold up others. Where nothing is left to put back the offer is
refused whole. Known weakness: a fault that the compiler reports without naming a file, and one that
makes it raise anything but `InvalidInput`, refuse the whole offer, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from meshwarden.core.claims import Claims, Objection
from meshwarden.core.faults import InvalidInput, Problem
from meshwarden.core.object_verdicts import ACCEPTED, REFUSED, ObjectId, ObjectVerdict
from meshwarden.core.offered_objects import AGES, ObjectBundle, ObjectRules, OfferedObject, placed
from meshwarden.core.ownership import OWNERSHIP, SHARED, Ownership, parse_ownership
from meshwarden.core.snapshot import Bundle

SnapshotType = TypeVar("SnapshotType")

CAREFUL_ROUNDS = 6
ROUNDS_AT_MOST = 20
PROBLEMS_AT_MOST = 20
"""Told of one object."""


@dataclass(frozen=True, slots=True)
class _Version:
    content: bytes | None = field(repr=False)
    is_offered: bool = False
    is_last: bool = False


@dataclass(slots=True)
class _File:
    """One file on its way: `at` is the index of the version that is tried."""

    name: str
    versions: list[_Version]
    namespace: str | None
    """None: not of one namespace, and seen by all."""
    object: OfferedObject | None = None
    deleted: ObjectId | None = None
    at: int = 0
    reason: str = ACCEPTED
    problems: list[Problem] = field(default_factory=list)

    @property
    def version(self) -> _Version:
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

    def add(self, problem: Problem) -> None:
        if problem not in self.problems and len(self.problems) < PROBLEMS_AT_MOST:
            self.problems.append(problem)


@dataclass(frozen=True, slots=True)
class _Taken:
    """A file as it was taken last; `object` where it is one's."""

    content: bytes
    namespace: str | None
    object: ObjectId | None


class PartialAcceptance(Generic[SnapshotType]):
    """Compiles `ObjectBundle`s; remembers what of the last one was taken.

    `aliases` maps what the compiler calls a file in problems to the file's name. After `compiled`,
    also where it raised, `verdicts` says what became of each object, `problems` what is wrong with
    other files, whose last good content serves, and `rounds` how often it compiled.
    """

    def __init__(
        self,
        compile_bundle: Callable[[Bundle], SnapshotType],
        rules: ObjectRules,
        *,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self._compile = compile_bundle
        self._rules = rules
        self._aliases = dict(aliases or {})
        self._last: dict[str, _Taken] = {}
        self._ownership: Ownership | None = None
        self.verdicts: tuple[ObjectVerdict, ...] = ()
        self.problems: tuple[Problem, ...] = ()
        self.rounds = 0

    def compiled(self, bundle: Bundle) -> SnapshotType:
        """The snapshot of the largest part that could be found. Raises `InvalidInput` with every
        problem where no part compiles.
        """
        if not isinstance(bundle, ObjectBundle):
            raise TypeError("not a bundle of objects")
        files = self._files(bundle)
        try:
            self._read_ownership(bundle)
            attempt = _Attempt(files, self._rules, self._ownership or Ownership(), self._aliases)
            snapshot = attempt.result(self._compile)
        except InvalidInput as error:
            self.verdicts = tuple(_all_refused(files.values(), error))
            raise
        self.rounds = attempt.rounds
        for name, file in files.items():
            for offered in bundle.objects if file.problems and file.object is None else ():
                if name in offered.files:
                    for problem in file.problems:
                        files[offered.id.file].refuse(problem)
        self._last = {
            file.name: _Taken(
                file.version.content,
                file.namespace,
                file.object.id if file.object else file.deleted,
            )
            for file in files.values()
            if file.version.content is not None
        }
        self.verdicts = tuple(_verdict(file) for file in files.values() if file.object)
        self.problems += tuple(
            problem for file in files.values() if not file.object for problem in file.problems
        )
        return snapshot

    def _read_ownership(self, bundle: ObjectBundle) -> None:
        """Where it can't be read the last good one holds. Raises `InvalidInput` where there is
        none.
        """
        self.problems = ()
        content = bundle.files.get(OWNERSHIP)
        try:
            if content is not None:
                self._ownership = parse_ownership("ownership", content)
            elif OWNERSHIP in bundle.required:
                raise InvalidInput([bundle.required[OWNERSHIP]])
            else:
                self._ownership = Ownership()
        except InvalidInput as error:
            if self._ownership is None:
                raise
            self.problems = error.problems

    def _files(self, bundle: ObjectBundle) -> dict[str, _File]:
        files = {
            offered.id.file: self._file_of(offered)
            for offered in sorted(bundle.objects, key=lambda one: one.precedence)
        }
        owners = {name: one.namespace for one in bundle.objects for name in one.files}
        for name, content in bundle.files.items():
            if name not in files and name not in (AGES, OWNERSHIP):
                last = self._last_content(name)
                none = () if name in bundle.required else (None,)
                versions = _versions([content, last, *none] if last else [content, *none], last)
                files[name] = _File(name, versions, owners.get(name))
        for name, problem in bundle.required.items():
            if name not in files and name != OWNERSHIP:
                last = self._last_content(name)
                files[name] = _File(name, _versions([last], last), None)
                files[name].refuse(problem)
        for name, taken in self._last.items():
            if name not in files:
                versions = [_Version(None, is_offered=True), _Version(taken.content, is_last=True)]
                files[name] = _File(name, versions, taken.namespace, deleted=taken.object)
        return files

    def _file_of(self, offered: OfferedObject) -> _File:
        last = self._last_content(offered.id.file)
        versions = _versions([offered.content, last, offered.closed, None], last)
        file = _File(offered.id.file, versions, offered.namespace, offered)
        for problem in offered.problems:
            file.refuse(problem)
        if offered.problems:
            # What it refers to can't be had, whatever else is right about it.
            file.go_on()
        return file

    def _last_content(self, name: str) -> bytes | None:
        taken = self._last.get(name)
        return None if taken is None else taken.content


def _versions(contents: Iterable[bytes | None], last: bytes | None) -> list[_Version]:
    """Each content once, in order. What was not there last is as it was when it is not there."""
    ordered = list(dict.fromkeys(contents))
    found = [
        _Version(content, index == 0, content == last) for index, content in enumerate(ordered)
    ]
    if None in ordered[:-1]:
        # Nothing comes last, after what denies everything.
        found.append(found.pop(ordered.index(None)))
    return found


class _Attempt:
    """One offer being tried."""

    def __init__(
        self,
        files: dict[str, _File],
        rules: ObjectRules,
        ownership: Ownership,
        aliases: Mapping[str, str],
    ) -> None:
        self._files = files
        self._rules = rules
        self._ownership = ownership
        self._aliases = aliases
        self.rounds = 0

    def result(self, compile_bundle: Callable[[Bundle], SnapshotType]) -> SnapshotType:
        missing = [
            problem
            for file in self._files.values()
            if file.object is None and file.deleted is None and file.version.content is None
            for problem in file.problems
        ]
        if missing:
            raise InvalidInput(missing)
        while True:
            self.rounds += 1
            self._claim()
            try:
                return compile_bundle(self._bundle())
            except InvalidInput as error:
                if self.rounds >= ROUNDS_AT_MOST or not self._put_back(error):
                    raise

    def _bundle(self) -> Bundle:
        return Bundle(
            {
                file.name: file.version.content
                for file in self._files.values()
                if file.version.content is not None
            }
        )

    def _claim(self) -> None:
        """Move on each object whose version claims what it may not have; the files stand in the
        order of precedence.
        """
        claims = Claims(self._ownership)
        for file in self._files.values():
            object_id = file.object.id if file.object else file.deleted
            if object_id is None or file.namespace is None:
                continue
            while file.version.content is not None:
                wanted = self._rules.claims(
                    object_id.kind, file.namespace, _spec(file.version.content)
                )
                objections = claims.take(object_id, file.namespace, wanted)
                if not objections:
                    break
                for objection in objections:
                    file.object_to(objection)
                if not file.go_on():
                    file.versions.append(_Version(None))
                    file.at += 1

    def _put_back(self, error: InvalidInput) -> bool:
        """Whether anything could be put back on account of `error`."""
        wrong: dict[str, list[Problem]] = {}
        for problem in error.problems:
            wrong.setdefault(self._aliases.get(problem.file, problem.file), []).append(problem)
        if not wrong.keys() <= self._files.keys():
            return False
        at_fault = [self._files[name] for name in wrong]
        for file in at_fault:
            content = file.version.content or b""
            for problem in wrong[file.name]:
                file.refuse(placed(problem, content))
        if self.rounds > CAREFUL_ROUNDS:
            namespaces = {file.namespace for file in at_fault}
            moving = [
                file
                for file in self._files.values()
                if file.namespace in namespaces and (file.is_changed or file in at_fault)
            ]
        else:
            changed = [file for file in at_fault if file.is_changed]
            moving = list(changed)
            for file in at_fault:
                if not file.is_changed and not any(_sees(file, other) for other in changed):
                    moving += self._to_blame(file, wrong[file.name])
        moved = [file.go_on() for file in {file.name: file for file in moving}.values()]
        return any(moved)

    def _to_blame(self, file: _File, problems: list[Problem]) -> list[_File]:
        """What changed around a file that is as it was, or else the file."""
        around = [
            other
            for other in self._files.values()
            if other is not file and other.is_changed and other.can_go_on and _sees(file, other)
        ]
        text = "\n".join(problem.what for problem in problems)
        named = [other for other in around if any(word in text for word in _words(other))]
        for other in named or around:
            if other.deleted is not None:
                what = f"{other.deleted} was deleted; it serves on until nothing needs it"
                file.refuse(Problem(file.name, 0, what))
            else:
                is_known = other.namespace in (None, file.namespace)
                whom = str(file.object.id) if is_known and file.object else "another object"
                what = f"as it is now, it would leave {whom} with a fault"
                other.refuse(Problem(other.name, 0, what, text[:500] if is_known else ""))
        return named or around or [file]


def _sees(file: _File, other: _File) -> bool:
    """Whether what `other` says can matter to `file`."""
    return other.namespace in (None, SHARED, file.namespace) or file.namespace is None


def _words(file: _File) -> tuple[str, ...]:
    """How a problem elsewhere would name it."""
    object_id = file.object.id if file.object else file.deleted
    return (f"'{file.name}'",) if object_id is None else (f"'{object_id.name}'",)


def _spec(content: bytes) -> object:
    """The spec in an object's file, which is JSON by construction."""
    return json.loads(content).get("spec")


def _verdict(file: _File) -> ObjectVerdict:
    if file.object is None:
        raise AssertionError("only objects have verdicts")
    offered = file.object
    problems = tuple(file.problems)
    return ObjectVerdict(offered.id, offered.uid, offered.generation, file.reason, problems)


def _all_refused(files: Iterable[_File], error: InvalidInput) -> Iterable[ObjectVerdict]:
    for file in files:
        if file.object is None:
            continue
        verdict = _verdict(file)
        if verdict.reason == ACCEPTED and not file.versions[0].is_last:
            what = f"nothing is taken while this is wrong: {error.problems[0]}"
            verdict = replace(
                verdict, reason=REFUSED, problems=(Problem(file.name, 0, what[:500]),)
            )
        yield verdict
