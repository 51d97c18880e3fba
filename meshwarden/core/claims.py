"""What an object claims for itself, and who holds what: of two claims of one thing the older
object's holds, and the platform's before any tenant's.

Pure, and knows no kind: what an object claims, each service says (`ObjectRules`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from meshwarden.core.faults import Problem
from meshwarden.core.host_patterns import wildcards_above
from meshwarden.core.object_verdicts import CONFLICT, NOT_YOURS, ObjectId
from meshwarden.core.ownership import HOST, SHARED, Ownership


@dataclass(frozen=True, slots=True)
class Claim:
    """`sort` is `host`, `domain` or whatever else a service calls it; `place` is how it stands in
    the object, for messages.

    `is_local`: it is told apart only from those of its own namespace and the shared one. Claims of
    one value with the same `variant` (when it is not empty) don't stand in each other's way.
    """

    sort: str
    value: str
    place: str = ""
    is_local: bool = False
    variant: str = ""


@dataclass(frozen=True, slots=True)
class _Holder:
    object: ObjectId
    namespace: str
    variant: str


@dataclass(frozen=True, slots=True)
class Objection:
    """Why an object may not have what it claims: NotYours or Conflict."""

    reason: str
    problem: Problem


class Claims:
    """What is held so far; objects are to be added in the order of their precedence."""

    def __init__(self, ownership: Ownership) -> None:
        self._ownership = ownership
        self._held: dict[tuple[str, str, str], _Holder] = {}
        self._below: dict[str, dict[str, _Holder]] = {}

    def take(self, object_id: ObjectId, namespace: str, claims: Iterable[Claim]) -> list[Objection]:
        """Hold all of `claims` for an object, or none and say why. `namespace` is empty for the
        platform's own objects.
        """
        wanted = list(claims)
        found = [
            objection
            for claim in wanted
            if (objection := self._objection(object_id, namespace, claim)) is not None
        ]
        if not found:
            for claim in wanted:
                self._hold(_Holder(object_id, namespace, claim.variant), claim)
        return found

    def _objection(self, object_id: ObjectId, namespace: str, claim: Claim) -> Objection | None:
        if not self._ownership.allows(claim.sort, claim.value, namespace):
            what = f"{claim.place}: the namespace '{namespace}' may not speak for '{claim.value}'"
            hint = "who owns what is the platform's setting; ask for it there"
            return Objection(NOT_YOURS, Problem(object_id.file, 0, what, hint))
        scopes = {namespace, SHARED} if claim.is_local else {""}
        for scope in sorted(scopes):
            holder = self._held.get((claim.sort, scope, claim.value))
            if holder is not None and not (claim.variant and claim.variant == holder.variant):
                return _conflict(object_id, namespace, claim, holder, f"'{claim.value}'")
        if claim.sort == HOST and namespace != SHARED:
            return self._overlap(object_id, namespace, claim)
        return None

    def _overlap(self, object_id: ObjectId, namespace: str, claim: Claim) -> Objection | None:
        """What lies below a tenant's wildcard is that tenant's, or the platform's."""
        for wildcard in wildcards_above(claim.value):
            holder = self._held.get((HOST, "", wildcard))
            if holder is not None and holder.namespace not in (SHARED, namespace):
                what = f"'{claim.value}', which lies below '{wildcard}',"
                return _conflict(object_id, namespace, claim, holder, what)
        for other, holder in self._below.get(claim.value, {}).items():
            if other not in (SHARED, namespace):
                what = f"a host below '{claim.value}'"
                return _conflict(object_id, namespace, claim, holder, what)
        return None

    def _hold(self, holder: _Holder, claim: Claim) -> None:
        scope = holder.namespace if claim.is_local else ""
        self._held.setdefault((claim.sort, scope, claim.value), holder)
        if claim.sort == HOST:
            for wildcard in wildcards_above(claim.value):
                self._below.setdefault(wildcard, {}).setdefault(holder.namespace, holder)


def _conflict(
    object_id: ObjectId, namespace: str, claim: Claim, holder: _Holder, what: str
) -> Objection:
    """Names the holder only where its name may be known: in one's own namespace, or shared."""
    is_known = holder.namespace in (SHARED, namespace)
    who = str(holder.object) if is_known else "another namespace"
    text = f"{claim.place}: {what} is already held by {who}"
    hint = "of two claims the platform's, else the older object's, holds"
    return Objection(CONFLICT, Problem(object_id.file, 0, text, hint))
