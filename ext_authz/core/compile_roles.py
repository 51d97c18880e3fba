"""Roles: who holds which, with inheritance worked out."""

from __future__ import annotations

from collections.abc import Mapping

from ext_authz.core.policies import Roles
from ext_authz.core.references import References
from ext_authz.core.resources import Resources
from ext_authz.core.role_kinds import AccessRole, AccessRoleBinding


def compile_roles(resources: Resources, references: References) -> Roles:
    """The roles and their holders; notes in `resources` what is wrong."""
    inherits: dict[str, list[str]] = {}
    for document, role in resources.of_kind(AccessRole):
        inherits[role.name] = list(role.spec.inherits)
        references.known(document, "AccessRole", role.spec.inherits, ("spec", "inherits"))
    closure = {name: _closure(name, inherits) for name in inherits}
    for document, role in resources.of_kind(AccessRole):
        if any(role.name in _closure(parent, inherits) for parent in role.spec.inherits):
            what = f"AccessRole '{role.name}' inherits itself"
            resources.refuse(document, what, ("spec", "inherits"))
    permissions = {
        role.name: frozenset(role.spec.permissions) for _, role in resources.of_kind(AccessRole)
    }
    of_principal: dict[str, frozenset[str]] = {}
    of_group: dict[str, frozenset[str]] = {}
    for document, binding in resources.of_kind(AccessRoleBinding):
        references.known(document, "AccessRole", [binding.spec.role], ("spec", "role"))
        for subject in binding.spec.subjects:
            holders, name = (
                (of_principal, subject.principal)
                if subject.principal
                else (of_group, subject.group)
            )
            holders[name or ""] = holders.get(name or "", frozenset()) | {binding.spec.role}
    return Roles(closure, permissions, of_principal, of_group)


def _closure(name: str, inherits: Mapping[str, list[str]]) -> frozenset[str]:
    """`name` and every role that it inherits, directly or not; ends in a cycle, too."""
    found, waiting = {name}, [name]
    while waiting:
        for parent in inherits.get(waiting.pop(), []):
            if parent not in found:
                found.add(parent)
                waiting.append(parent)
    return frozenset(found)
