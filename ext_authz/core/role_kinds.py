"""AccessRole and AccessRoleBinding as they stand in a file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ext_authz.core.kind_parts import (
    NAMES_AT_MOST,
    Name,
    Part,
    Permission,
    PrincipalName,
    Resource,
    Word,
)


class AccessRoleSpec(Part):
    inherits: list[Name] = Field(
        [],
        max_length=NAMES_AT_MOST,
        description="Roles whose permissions and rules it has, too.",
    )
    permissions: list[Permission] = Field(
        [], max_length=NAMES_AT_MOST, description="`resource:verb`, such as orders:write."
    )


class AccessRole(Resource):
    """A name for what its holders may."""

    kind: Literal["AccessRole"]
    spec: AccessRoleSpec = AccessRoleSpec(inherits=[], permissions=[])


class BoundSubject(Part):
    principal: PrincipalName | None = Field(
        None, description="Kind and subject, such as key:service."
    )
    group: Word | None = Field(None, description="Everybody in this group.")

    @model_validator(mode="after")
    def _exactly_one(self) -> BoundSubject:
        if (self.principal is None) == (self.group is None):
            raise ValueError("exactly one of principal, group is needed")
        return self


class AccessRoleBindingSpec(Part):
    role: Name
    subjects: list[BoundSubject] = Field(min_length=1, max_length=10_000)


class AccessRoleBinding(Resource):
    """Who holds a role."""

    kind: Literal["AccessRoleBinding"]
    spec: AccessRoleBindingSpec
