"""What the policies of one namespace see: its own resources and the shared ones, no other's.

A resource without a namespace is shared. A name stands for the namespace's own resource, else for
the shared one; having both is refused, because a reader would take one for the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

from ext_authz.core.policies import Issuer, Roles
from ext_authz.core.resources import SHARED, Resources, SomeResource, qualified
from ext_authz.core.role_kinds import AccessRole, AccessRoleBinding
from meshwarden.core.documents import Document, Path, hint_for


class Scopes:
    """The scope of each namespace; notes in `resources` what is wrong with their roles."""

    def __init__(self, resources: Resources, issuers: Mapping[str, Issuer]) -> None:
        self._resources = resources
        self._issuers = issuers
        self._made = {
            namespace: Scope(resources, namespace, issuers) for namespace in resources.namespaces
        }
        for scope in self._made.values():
            scope.check_roles()

    def of(self, namespace: str) -> Scope:
        """The scope of a namespace that has resources."""
        return self._made[namespace]


class Scope:
    """What one namespace sees."""

    def __init__(self, resources: Resources, namespace: str, issuers: Mapping[str, Issuer]) -> None:
        self._resources = resources
        self._namespace = namespace
        self._issuers = issuers

    def names(self, kind: str) -> set[str]:
        """The names of a kind that mean something here."""
        return self._resources.names(kind, SHARED) | self._resources.names(kind, self._namespace)

    def issuer(self, name: str) -> Issuer | None:
        return self._issuers.get(qualified(self._namespace, name)) or self._issuers.get(name)

    def require(self, document: Document, kind: str, names: Iterable[str], path: Path) -> None:
        """Say of each of `names`, which stand at `path`, that nothing of the kind has it here."""
        known = self.names(kind)
        for index, name in enumerate(names):
            if name not in known:
                hint = hint_for(name, known) if known else "define it"
                what = f"there is no {kind} '{name}'"
                self._resources.refuse(document, what, (*path, index), hint)

    def require_granted(self, document: Document, names: Iterable[str], path: Path) -> None:
        """Say of each of `names` that no role grants it: a deny rule with it would never match."""
        granted = self._granted
        for index, name in enumerate(names):
            if name not in granted and self._resources.are_all_valid("AccessRole"):
                hint = hint_for(name, granted) if granted else "grant it"
                what = f"no AccessRole grants '{name}'"
                self._resources.refuse(document, what, (*path, index), hint)

    @cached_property
    def roles(self) -> Roles:
        """The roles and their holders, with inheritance worked out."""
        inherits = {role.name: role.spec.inherits for role in self._roles}
        of_principal: dict[str, frozenset[str]] = {}
        of_group: dict[str, frozenset[str]] = {}
        for binding in self._bindings:
            for subject in binding.spec.subjects:
                holders, name = (
                    (of_principal, subject.principal)
                    if subject.principal
                    else (of_group, subject.group)
                )
                holders[name or ""] = holders.get(name or "", frozenset()) | {binding.spec.role}
        return Roles(
            {name: _closure(name, inherits) for name in inherits},
            {role.name: frozenset(role.spec.permissions) for role in self._roles},
            of_principal,
            of_group,
        )

    def check_roles(self) -> None:
        """Note what is wrong with the namespace's own roles and bindings."""
        inherits = {role.name: role.spec.inherits for role in self._roles}
        shared = self._resources.names("AccessRole", SHARED) if self._namespace else set()
        for document, role in self._resources.of_kind(AccessRole, self._namespace):
            self.require(document, "AccessRole", role.spec.inherits, ("spec", "inherits"))
            if any(role.name in _closure(parent, inherits) for parent in role.spec.inherits):
                what = f"AccessRole '{role.name}' inherits itself"
                self._resources.refuse(document, what, ("spec", "inherits"))
            if role.name in shared:
                what = f"AccessRole '{role.name}' has the name of a shared one"
                self._resources.refuse(document, what, ("metadata", "name"))
        for document, binding in self._resources.of_kind(AccessRoleBinding, self._namespace):
            self.require(document, "AccessRole", [binding.spec.role], ("spec", "role"))

    @cached_property
    def _granted(self) -> set[str]:
        return {permission for role in self._roles for permission in role.spec.permissions}

    @cached_property
    def _roles(self) -> list[AccessRole]:
        return [role for _, role in self._seen(AccessRole)]

    @cached_property
    def _bindings(self) -> list[AccessRoleBinding]:
        return [binding for _, binding in self._seen(AccessRoleBinding)]

    def _seen(self, model: type[SomeResource]) -> list[tuple[Document, SomeResource]]:
        found = self._resources.of_kind(model, SHARED)
        if self._namespace != SHARED:
            found = found + self._resources.of_kind(model, self._namespace)
        return found


def _closure(name: str, inherits: Mapping[str, list[str]]) -> frozenset[str]:
    """`name` and every role that it inherits, directly or not; ends in a cycle, too."""
    found, waiting = {name}, [name]
    while waiting:
        for parent in inherits.get(waiting.pop(), []):
            if parent not in found:
                found.add(parent)
                waiting.append(parent)
    return frozenset(found)
