"""What the resource kinds of authorization share: words with their bounds, and the envelope."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from ext_authz.core.spiffe import TRUST_DOMAIN
from meshwarden.core.documents import API_VERSION

Name = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=63),
    Field(description="A DNS label, as Kubernetes wants it."),
]
Namespace = Annotated[
    str,
    StringConstraints(pattern=r"^([a-z0-9]([a-z0-9-]*[a-z0-9])?)?$", max_length=63),
    Field(description="Whose it is; without one it is shared by all namespaces."),
]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9!#$%&'*+.^`|~-]+$", max_length=100)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Url = Annotated[str, StringConstraints(pattern=r"^https?://[^/@\s]+(/\S*)?$", max_length=2048)]
TrustDomain = Annotated[str, StringConstraints(pattern=f"^{TRUST_DOMAIN}$", max_length=255)]
Permission = Annotated[str, StringConstraints(pattern=r"^[\w.-]+:[\w.-]+$", max_length=256)]
Quotable = Annotated[
    str,
    StringConstraints(pattern=r"^[!#-\[\]-~]+$", max_length=256),
    Field(description="Stands in error_description, where RFC 6750 allows no other characters."),
]


_PRINCIPAL = r"^((jwt|opaque|key|cert|kubernetes):.|spiffe://.)"


def _principal_name(text: str) -> str:
    """Refuse a name that no principal can have: a rule with it would never match."""
    if re.match(_PRINCIPAL, text) is None:
        raise ValueError(
            "a principal begins with its kind: 'jwt:', 'opaque:', 'key:', 'cert:', 'kubernetes:' "
            "or 'spiffe://'"
        )
    return text


PrincipalName = Annotated[
    Word,
    AfterValidator(_principal_name),
    Field(json_schema_extra={"pattern": _PRINCIPAL}),
]
NAMES_AT_MOST = 10_000
"""In one list of roles, permissions, groups and the like: an object in a cluster holds 1.5 MiB."""


class Part(BaseModel):
    """A part of a resource; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Metadata(Part):
    name: Name
    namespace: Namespace = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Resource(Part):
    apiVersion: Literal["meshwarden.io/v1alpha1"]  # noqa: N815 the field's name in the file
    metadata: Metadata

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def namespace(self) -> str:
        return self.metadata.namespace


if API_VERSION != "meshwarden.io/v1alpha1":
    raise AssertionError("the schema and documents.API_VERSION differ")
