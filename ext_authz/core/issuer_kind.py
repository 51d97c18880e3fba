"""TokenIssuer as it stands in a file: who signs tokens, or is asked about them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, StringConstraints, model_validator

from ext_authz.core.jwks import ALGORITHMS
from ext_authz.core.kind_parts import Part, Quotable, Resource, Url, Word

Algorithm = Literal["RS256", "PS256", "ES256", "EdDSA"]

if set(ALGORITHMS) != set(get_args(Algorithm)):
    raise AssertionError("the schema and jwks.ALGORITHMS differ")


class KeySource(Part):
    """Where an issuer's public keys come from; exactly one of inline, file, url, discovery,
    development.
    """

    inline: dict[str, Any] | None = Field(None, description="A JWKS, written here.")
    file: Annotated[str, StringConstraints(max_length=4096)] | None = Field(
        None, description="A JWKS file; relative to the configuration folder."
    )
    url: Url | None = Field(None, description="A JWKS URL, fetched in the background.")
    discovery: Literal["oidc", "oauth"] | None = Field(
        None,
        description="The issuer's own document names the URL: oidc is OpenID Connect Discovery, "
        "oauth RFC 8414.",
    )
    development: bool = Field(
        False,
        description="The development issuer of this machine; refused unless the service is told "
        "where its keys are.",
    )
    refreshSeconds: float = Field(300, ge=1, le=86400, description="How often the URL is fetched.")  # noqa: N815
    timeoutSeconds: float = Field(2, gt=0, le=30, description="Time limit of one fetch.")  # noqa: N815

    @model_validator(mode="after")
    def _exactly_one(self) -> KeySource:
        given = [
            self.inline is not None,
            self.file is not None,
            self.url is not None,
            self.discovery is not None,
            self.development,
        ]
        if sum(given) != 1:
            raise ValueError("exactly one of inline, file, url, discovery, development is needed")
        return self

    @property
    def is_fetched(self) -> bool:
        return self.url is not None or self.discovery is not None


class Introspection(Part):
    """Asking the issuer about each token (RFC 7662), for tokens that only it can read."""

    url: Url | None = Field(None, description="The introspection endpoint.")
    discovery: Literal["oidc", "oauth"] | None = Field(
        None, description="The issuer's own document names the endpoint."
    )
    clientId: Word = Field(description="Who we are to the endpoint (client_secret_basic).")  # noqa: N815
    clientSecretFile: Word = Field(  # noqa: N815
        description="File with the client's secret; relative to the configuration folder."
    )
    timeoutSeconds: float = Field(2, gt=0, le=30, description="Time limit of one question.")  # noqa: N815
    cacheSeconds: float = Field(  # noqa: N815
        30, ge=0, le=300, description="How long an active token is taken to stay so."
    )
    inactiveCacheSeconds: float = Field(  # noqa: N815
        5, ge=0, le=300, description="How long an inactive one is."
    )
    requiresAudience: bool = Field(  # noqa: N815
        True, description="Whether the answer must name one of the issuer's audiences."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Introspection:
        if (self.url is None) == (self.discovery is None):
            raise ValueError("exactly one of url, discovery is needed")
        return self


class ClaimNames(Part):
    """Where a token says who its subject is and what it may; dots lead into nested objects."""

    subject: Quotable = "sub"
    roles: Quotable = "roles"
    scopes: Quotable = "scope"
    groups: Quotable = "groups"


class TokenIssuerSpec(Part):
    issuer: Word = Field(description="The `iss` of its tokens, to the letter.")
    audiences: list[Word] = Field(
        min_length=1, max_length=50, description="A token must be meant for one of them."
    )
    algorithms: list[Algorithm] = Field(
        ["RS256", "PS256", "ES256", "EdDSA"], min_length=1, max_length=50
    )
    jwks: KeySource | None = Field(None, description="For tokens that are JWTs.")
    introspection: Introspection | None = Field(None, description="For tokens that are not.")
    leewaySeconds: float = Field(10, ge=0, le=300, description="Clock difference that is forgiven.")  # noqa: N815
    tokenType: Quotable | None = Field(  # noqa: N815
        None, description="The `typ` that tokens must have, such as at+jwt (RFC 9068)."
    )
    subjectPrefix: Annotated[  # noqa: N815
        str, StringConstraints(pattern=r"^[A-Za-z0-9._/-]{0,63}$", max_length=63)
    ] = Field(
        "",
        description="Put before each subject. Each issuer has one of its own, so that none can "
        "speak for another's subjects; one may have none.",
    )
    claims: ClaimNames = ClaimNames()

    @model_validator(mode="after")
    def _consistent(self) -> TokenIssuerSpec:
        if self.jwks is None and self.introspection is None:
            raise ValueError("at least one of jwks, introspection is needed")
        discovers = [part.discovery for part in (self.jwks, self.introspection) if part]
        if any(discovers) and re.fullmatch(r"https?://[^/@\s?#]+(/[^\s?#]*)?", self.issuer) is None:
            raise ValueError("an issuer whose document is to be discovered must be a URL")
        return self


class TokenIssuer(Resource):
    """Who signs tokens, and how they are checked."""

    kind: Literal["TokenIssuer"]
    spec: TokenIssuerSpec
