"""The resource kinds of authorization by their names.

A kind's model says shapes and bounds, no meaning; field names are those of the YAML. What needs
more than one resource (references, duplicates, conditions) is checked in `compile.py` and beside
it. The JSON Schemas under `docs/reference/schemas/` are made from these models.
"""

from __future__ import annotations

from ext_authz.core.issuer_kind import TokenIssuer
from ext_authz.core.kind_parts import Resource
from ext_authz.core.policy_kind import AccessPolicy
from ext_authz.core.role_kinds import AccessRole, AccessRoleBinding

MODELS: dict[str, type[Resource]] = {
    "TokenIssuer": TokenIssuer,
    "AccessRole": AccessRole,
    "AccessRoleBinding": AccessRoleBinding,
    "AccessPolicy": AccessPolicy,
}
