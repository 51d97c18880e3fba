"""Objects as a Kubernetes API server gives them, as files that a service's compiler reads.

Only what a service reads is kept: `status`, labels, annotations and the API server's own metadata
are left out, so that a bundle's version changes only with what matters. Objects of the shared
namespace lose it: they are the platform's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from meshwarden.core.claims import Claim
from meshwarden.core.documents import Path, parse
from meshwarden.core.faults import InvalidInput, Problem
from meshwarden.core.object_verdicts import ObjectId
from meshwarden.core.ownership import SHARED
from meshwarden.core.snapshot import Bundle

_NOT_PLAIN_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""What JSON may hold as it is and YAML refuses, or takes for a line's end."""


AGES = "@ages"
Precedence = tuple[bool, str, str, str, str]
"""Sorts objects: of two that claim the same the first holds it."""


@dataclass(frozen=True, slots=True)
class Localized:
    """An object's spec with its references to files made absolute, the files that it needs, and
    what is wrong with its references.
    """

    spec: Any
    files: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ObjectRules:
    """What a service says about its kinds; each function gets (kind, namespace, spec), a spec being
    plain JSON that nobody checked.

    `claims`: what the object wants for itself. `localized`: see there. `closed`: a spec that
    denies whatever the object would decide about, None where there is none; it stands in for an
    object that was never good, so that nothing more permissive decides in its place.
    """

    kinds: tuple[str, ...]
    claims: Callable[[str, str, Any], Sequence[Claim]]
    localized: Callable[[str, str, Any], Localized] = lambda _kind, _namespace, spec: Localized(
        spec
    )
    closed: Callable[[str, str, Any], Any] = lambda _kind, _namespace, _spec: None


@dataclass(frozen=True, slots=True)
class OfferedObject:
    """One object: `content` is its file; `created` an RFC 3339 time, which sorts as text."""

    id: ObjectId
    uid: str
    generation: int
    created: str
    namespace: str
    content: bytes = field(repr=False)
    closed: bytes | None = field(default=None, repr=False)
    files: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def precedence(self) -> Precedence:
        """The platform's before a tenant's, then the older."""
        one = self.id
        return (self.namespace != SHARED, self.created, one.namespace, one.name, one.kind)


def offered_object(
    kind: str, value: Mapping[str, Any], *, rules: ObjectRules, shared_namespace: str
) -> OfferedObject:
    """The object that the API server gave as `value`."""
    metadata = value.get("metadata", {})
    object_id = ObjectId(kind, str(metadata.get("namespace", "")), str(metadata.get("name", "")))
    namespace = SHARED if object_id.namespace == shared_namespace else object_id.namespace
    localized = rules.localized(kind, object_id.namespace, value.get("spec"))
    closed = rules.closed(kind, object_id.namespace, value.get("spec"))

    def content(spec: Any) -> bytes:
        named = {"name": object_id.name, **({"namespace": namespace} if namespace else {})}
        whole: dict[str, Any] = {"apiVersion": value.get("apiVersion"), "kind": kind}
        return as_yaml(whole | {"metadata": named} | ({} if spec is None else {"spec": spec}))

    return OfferedObject(
        object_id,
        str(metadata.get("uid", "")),
        int(metadata.get("generation", 0)),
        str(metadata.get("creationTimestamp", "")),
        namespace,
        content(localized.spec),
        None if closed is None else content(closed),
        localized.files,
        tuple(Problem(object_id.file, 0, what) for what in localized.problems),
    )


def as_yaml(value: Any) -> bytes:
    """`value` as JSON that a YAML reader takes for the same, one member a line."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    escaped = _NOT_PLAIN_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return escaped.encode("utf-8", "backslashreplace")


def placed(problem: Problem, content: bytes) -> Problem:
    """`problem` with the path of the field in place of a line of `content`, which nobody sees."""
    if not problem.line:
        return problem
    path = _path_at(problem.file, content, problem.line)
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    what, place = problem.what, where.removeprefix(".")
    told = what if not place or what.startswith(place) else f"{place}: {what}"
    return Problem(problem.file, 0, told, problem.hint)


def _path_at(file: str, content: bytes, line: int) -> Path:
    try:
        documents = parse(file, content)
    except InvalidInput:
        return ()
    at = [path for path, start in documents[0].lines.items() if start == line]
    return min(at, key=len, default=())


@dataclass(frozen=True)
class ObjectBundle(Bundle):
    """A bundle whose files are those of `objects`, by their ids, and further ones: what the objects
    refer to, and what the service's settings name.

    `required`: what to say of each named file that isn't there. The file `AGES` is not compiled:
    with it the version changes when an object is made anew.
    """

    objects: tuple[OfferedObject, ...] = ()
    required: Mapping[str, Problem] = field(default_factory=dict)


def object_bundle(
    objects: Sequence[OfferedObject],
    further: Mapping[str, bytes],
    required: Mapping[str, Problem],
) -> ObjectBundle:
    """The bundle of `objects` and `further` files by name."""
    ages = "\n".join(sorted(f"{one.id.file} {one.created}" for one in objects))
    files = {one.id.file: one.content for one in objects}
    return ObjectBundle(
        files | dict(further) | {AGES: ages.encode()},
        objects=tuple(objects),
        required=dict(required),
    )
