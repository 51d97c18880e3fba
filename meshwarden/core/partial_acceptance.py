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
from dataclasses import replace
from typing import Generic, TypeVar

from meshwarden.core.claims import Claims
from meshwarden.core.faults import InvalidInput, Problem
from meshwarden.core.object_verdicts import ACCEPTED, REFUSED, ObjectVerdict
from meshwarden.core.object_versions import Taken, TriedFile, Version, versions_of
from meshwarden.core.offered_objects import AGES, ObjectBundle, ObjectRules, OfferedObject
from meshwarden.core.ownership import OWNERSHIP, SHARED, Ownership, parse_ownership
from meshwarden.core.snapshot import Bundle

SnapshotType = TypeVar("SnapshotType")

CAREFUL_ROUNDS = 6
ROUNDS_AT_MOST = 20


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
        self._last: dict[str, Taken] = {}
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
        except InvalidInput:
            self.verdicts = tuple(_all_refused(files.values()))
            raise
        self.rounds = attempt.rounds
        for name, file in files.items():
            for offered in bundle.objects if file.problems and file.object is None else ():
                if name in offered.files:
                    for problem in file.problems:
                        files[offered.id.file].refuse(problem)
        self._last = {
            file.name: Taken(
                file.version.content,
                file.namespace,
                file.object.id if file.object else file.deleted,
                file.precedence,
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

    def _files(self, bundle: ObjectBundle) -> dict[str, TriedFile]:
        files = {offered.id.file: self._file_of(offered) for offered in bundle.objects}
        owners = {name: one.namespace for one in bundle.objects for name in one.files}
        for name, content in bundle.files.items():
            if name not in files and name not in (AGES, OWNERSHIP):
                last = self._last_content(name)
                none = () if name in bundle.required else (None,)
                versions = versions_of([content, last, *none] if last else [content, *none], last)
                files[name] = TriedFile(name, versions, owners.get(name))
        for name, problem in bundle.required.items():
            if name not in files and name != OWNERSHIP:
                last = self._last_content(name)
                files[name] = TriedFile(name, versions_of([last], last), None)
                files[name].refuse(problem)
        for name, taken in self._last.items():
            if name not in files:
                files[name] = _deleted(name, taken)
        return dict(sorted(files.items(), key=lambda pair: pair[1].precedence))

    def _file_of(self, offered: OfferedObject) -> TriedFile:
        last = self._last_content(offered.id.file)
        versions = versions_of([offered.content, last, offered.closed, None], last)
        file = TriedFile(
            offered.id.file,
            versions,
            offered.namespace,
            offered,
            precedence=offered.precedence,
        )
        for problem in offered.problems:
            file.refuse(problem)
        if offered.problems:
            # What it refers to can't be had, whatever else is right about it.
            file.go_on()
        return file

    def _last_content(self, name: str) -> bytes | None:
        taken = self._last.get(name)
        return None if taken is None else taken.content


def _deleted(name: str, taken: Taken) -> TriedFile:
    """Where it is put back its claims are as old as they were."""
    versions = [
        Version(None, is_offered=True),
        Version(taken.content, is_last=True),
        Version(None),
    ]
    return TriedFile(
        name, versions, taken.namespace, deleted=taken.object, precedence=taken.precedence
    )


class _Attempt:
    """One offer being tried."""

    def __init__(
        self,
        files: dict[str, TriedFile],
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
                    file.versions.append(Version(None))
                    file.at += 1

    def _put_back(self, error: InvalidInput) -> bool:
        """Whether anything could be put back on account of `error`."""
        wrong: dict[str, list[Problem]] = {}
        for problem in error.problems:
            wrong.setdefault(self._aliases.get(problem.file, problem.file), []).append(problem)
        if not wrong.keys() <= self._files.keys():
            return False
        at_fault = [self._files[name] for name in wrong]
        moving = self._moving(at_fault, wrong)
        moved = [file.go_on() for file in {file.name: file for file in moving}.values()]
        return any(moved)

    def _moving(
        self, at_fault: list[TriedFile], wrong: Mapping[str, list[Problem]]
    ) -> list[TriedFile]:
        """The files that are to go on to their next versions."""
        moving = [file for file in at_fault if file.is_changed]
        for file in moving:
            file.refuse_for(wrong[file.name])
        settled = {file.namespace for file in moving}
        around: dict[str | None, list[TriedFile]] = {}
        for file in at_fault:
            if file.is_changed or not settled.isdisjoint({None, SHARED, file.namespace}):
                # Its own fault, or likely a consequence of one that is being put back.
                continue
            if file.namespace not in around:
                around[file.namespace] = [
                    other
                    for other in self._files.values()
                    if other.is_changed and other.can_go_on and _sees(file, other)
                ]
            moving += self._to_blame(file, wrong[file.name], around[file.namespace])
        if self.rounds > CAREFUL_ROUNDS:
            spaces = {file.namespace for file in moving}
            moving += [
                file
                for file in self._files.values()
                if file.namespace in spaces and file.is_changed
            ]
        return moving

    def _to_blame(
        self, file: TriedFile, problems: list[Problem], around: list[TriedFile]
    ) -> list[TriedFile]:
        """What changed `around` a file that is as it was, or else the file."""
        text = "\n".join(problem.what for problem in problems)
        named = [other for other in around if any(word in text for word in _words(other))]
        if not around:
            file.refuse_for(problems)
        for other in named or around:
            if other.deleted is not None:
                file.refuse_for(problems)
                what = f"{other.deleted} was deleted; it serves on until nothing needs it"
                file.refuse(Problem(file.name, 0, what))
            else:
                is_known = other.namespace in (None, file.namespace)
                whom = str(file.object.id) if is_known and file.object else "another object"
                what = f"as it is now, it would leave {whom} with a fault"
                other.refuse(Problem(other.name, 0, what, text[:500] if is_known else ""))
        return named or around or [file]


def _sees(file: TriedFile, other: TriedFile) -> bool:
    """Whether what `other` says can matter to `file`."""
    return other.namespace in (None, SHARED, file.namespace) or file.namespace is None


def _words(file: TriedFile) -> tuple[str, ...]:
    """How a problem elsewhere would name it."""
    object_id = file.object.id if file.object else file.deleted
    return (f"'{file.name}'",) if object_id is None else (f"'{object_id.name}'",)


def _spec(content: bytes) -> object:
    """The spec in an object's file, which is JSON by construction."""
    return json.loads(content).get("spec")


def _verdict(file: TriedFile) -> ObjectVerdict:
    if file.object is None:
        raise AssertionError("only objects have verdicts")
    offered = file.object
    problems = tuple(file.problems)
    return ObjectVerdict(offered.id, offered.uid, offered.generation, file.reason, problems)


def _all_refused(files: Iterable[TriedFile]) -> Iterable[ObjectVerdict]:
    """What is wrong elsewhere is not told: it may be another namespace's."""
    what = "nothing is taken while another part of the configuration is faulty"
    for file in files:
        if file.object is None:
            continue
        verdict = _verdict(file)
        if verdict.reason == ACCEPTED and not file.versions[0].is_last:
            problem = Problem(file.name, 0, what, "the services' log says what")
            verdict = replace(verdict, reason=REFUSED, problems=(problem,))
        yield verdict
