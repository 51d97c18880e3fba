"""What an AccessPolicy lets an answer carry, as it stands in a file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from ext_authz.core.kind_parts import HeaderName, Part, Word
from ext_authz.core.templates import TEXT_CHARACTERS_AT_MOST, Template

EXPRESSION_CHARACTERS_AT_MOST = 2048
FORBIDDEN_HEADERS = ("host", "content-length", "transfer-encoding", "connection", "te", "upgrade")
"""Envoy owns them, or changing one changes what the request is."""
RESERVED_METADATA = ("principal", "subject", "policy", "rule", "reason")
CLAIMS_OF_OURS = (
    "iss",
    "sub",
    "aud",
    "iat",
    "exp",
    "nbf",
    "jti",
    "kind",
    "roles",
    "scope",
    "groups",
)


def _changeable(name: str) -> str:
    if name in FORBIDDEN_HEADERS:
        raise ValueError(f"'{name}' can't be changed")
    return name


def _template(text: str) -> str:
    Template(text)
    return text


Text = Annotated[
    str, StringConstraints(max_length=TEXT_CHARACTERS_AT_MOST), AfterValidator(_template)
]
HeaderText = Annotated[
    str,
    StringConstraints(pattern=r"^[\x20-\x7e]*$", max_length=4096),
    AfterValidator(_template),
]
Changeable = Annotated[HeaderName, AfterValidator(_changeable)]
Expression = Annotated[
    str, StringConstraints(min_length=1, max_length=EXPRESSION_CHARACTERS_AT_MOST)
]


class Value(Part):
    """A text, or a CEL expression over the variables of conditions that gives one; where that
    fails, nothing is set.
    """

    value: Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]*$", max_length=4096)] | None = (
        None
    )
    expression: Expression | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Value:
        if (self.value is None) == (self.expression is None):
            raise ValueError("exactly one of value, expression is needed")
        return self


class HeaderValue(Value):
    name: Changeable
    action: Literal["overwrite", "append", "addIfAbsent", "overwriteIfExists"] = Field(
        "overwrite", description="What happens where the header is there already."
    )


class QueryValue(Value):
    name: Annotated[str, StringConstraints(pattern=r"^[\w.~-]+$", max_length=100)]


class MetadataValue(Value):
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.-]*$", max_length=100)]

    @model_validator(mode="after")
    def _not_ours(self) -> MetadataValue:
        if self.name in RESERVED_METADATA:
            raise ValueError(f"the metadata '{self.name}' is ours")
        return self


class Upstream(Part):
    """What the upstream gets with an allowed request, besides the identity headers."""

    headers: list[HeaderValue] = Field([], max_length=20)
    removeHeaders: list[Changeable] = Field([], max_length=50)  # noqa: N815
    query: list[QueryValue] = Field([], max_length=20, description="Set, in place of any there.")
    removeQuery: list[Word] = Field([], max_length=50)  # noqa: N815


class Downstream(Part):
    """What the client gets with the answer to an allowed request."""

    headers: list[HeaderValue] = Field([], max_length=20)


class Body(Part):
    text: Text = Field(
        description="May hold ${reason}, ${detail}, ${status}, ${policy}, ${principal}, ${host}, "
        "${path}, ${url}, escaped for the content type; $$ is a dollar sign."
    )
    contentType: HeaderText = "text/plain; charset=utf-8"  # noqa: N815


class Redirect(Part):
    """Where a browser is sent in place of a denial: one that asks for a page, not a program."""

    location: Annotated[
        Text, StringConstraints(pattern=r"^(https?://[^/$\s]+(/|$|\?)|/($|[^/\\]))")
    ] = Field(
        description="A URL, or a path of the same host; ${url}, where the browser wanted to go,"
        " stands in it escaped, as in https://login.example.com/?next=${url}."
    )
    status: Literal[302, 303, 307] = 302


class Denial(Part):
    """How a denial looks in place of problem+json."""

    status: int | None = Field(None, ge=400, le=599, description="Unset: as it would be.")
    headers: dict[Changeable, HeaderText] = Field({}, max_length=20)
    body: Body | None = None
    redirect: Redirect | None = None


class Denied(Part):
    unauthenticated: Denial | None = Field(None, description="Of callers that are not known: 401.")
    forbidden: Denial | None = Field(None, description="Of all others: 403.")


class IdentityToken(Part):
    """A signed token that tells the upstream who is calling; any library verifies it."""

    header: Changeable = "x-identity-token"
    audience: Word = Field(description="Whom it is for: the workload's own name.")
    lifetimeSeconds: int = Field(60, ge=10, le=3600)  # noqa: N815
    claims: dict[
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.-]*$", max_length=256)], Expression
    ] = Field(
        {},
        max_length=20,
        description="Further claims: CEL expressions; one that fails is left out.",
    )

    @model_validator(mode="after")
    def _not_ours(self) -> IdentityToken:
        taken = sorted(set(self.claims) & set(CLAIMS_OF_OURS))
        if taken:
            raise ValueError(f"the claim '{taken[0]}' is ours")
        return self
