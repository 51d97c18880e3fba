"""References between resources: what is named must be there, and be what is needed."""

from __future__ import annotations

from collections.abc import Iterable

from ext_authz.core.issuer_kind import TokenIssuer
from ext_authz.core.resources import Resources
from ext_authz.core.role_kinds import AccessRole
from meshwarden.core.documents import Document, Path, hint_for


class References:
    """Notes in `resources` what is named and is not there."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    def known(self, document: Document, kind: str, names: Iterable[str], path: Path) -> None:
        """Say of each of `names`, which stand at `path`, that nothing of the kind has it."""
        known = self._resources.named[kind]
        for index, name in enumerate(names):
            if name not in known:
                hint = hint_for(name, known) if known else "define it"
                self._resources.refuse(
                    document, f"there is no {kind} '{name}'", (*path, index), hint
                )

    def granted_permissions(self, document: Document, names: Iterable[str], path: Path) -> None:
        """Say of each of `names` that no role grants it: a deny rule with it would never match."""
        granted = {
            p for _, role in self._resources.of_kind(AccessRole) for p in role.spec.permissions
        }
        are_all_roles_read = self._resources.are_all_valid("AccessRole")
        for index, name in enumerate(names):
            if name not in granted and are_all_roles_read:
                hint = hint_for(name, granted) if granted else "grant it"
                self._resources.refuse(
                    document, f"no AccessRole grants '{name}'", (*path, index), hint
                )

    def issuer_with(self, document: Document, part: str, name: str, path: Path) -> None:
        """Say where there is no issuer `name`, or it has no `part`, which is needed at `path`."""
        if name not in self._resources.named["TokenIssuer"]:
            known = self._resources.named["TokenIssuer"]
            hint = hint_for(name, known) if known else "define it"
            self._resources.refuse(document, f"there is no TokenIssuer '{name}'", path, hint)
            return
        found = [issuer for _, issuer in self._resources.of_kind(TokenIssuer)]
        if any(issuer.name == name and getattr(issuer.spec, part) is None for issuer in found):
            self._resources.refuse(document, f"TokenIssuer '{name}' has no {part}", path)
