"""The resource kinds of authorization as they stand in a file: shapes and bounds, no meaning.

Field names are those of the YAML. What needs more than one resource (references, duplicates,
conditions) is checked in `compile.py`. The JSON Schemas under `docs/reference/schemas/` are made
from these models.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from ext_authz.core.hosts import parse_host_pattern
from ext_authz.core.jwks import ALGORITHMS
from ext_authz.core.paths import parse_pattern
from meshwarden.core.documents import API_VERSION

Name = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=63),
    Field(description="A DNS label, as Kubernetes wants it."),
]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9!#$%&'*+.^`|~-]+$", max_length=100)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Permission = Annotated[str, StringConstraints(pattern=r"^[\w.-]+:[\w.-]+$")]
Quotable = Annotated[
    str,
    StringConstraints(pattern=r"^[!#-\[\]-~]+$", max_length=256),
    Field(description="Stands in error_description, where RFC 6750 allows no other characters."),
]
Algorithm = Literal["RS256", "PS256", "ES256", "EdDSA"]
IdentityAttribute = Literal["principal", "subject", "kind", "issuer", "roles", "scopes", "groups"]

CONDITION_CHARACTERS_AT_MOST = 2048


def _principal_name(text: str) -> str:
    """Refuse a name that no principal can have: a rule with it would never match."""
    if re.match(r"(jwt|key):.", text) is None:
        raise ValueError("a principal begins with its kind, 'jwt:' or 'key:'")
    return text


PrincipalName = Annotated[Word, AfterValidator(_principal_name)]

if set(ALGORITHMS) != set(get_args(Algorithm)):
    raise AssertionError("the schema and jwks.ALGORITHMS differ")


class Part(BaseModel):
    """A part of a resource; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Metadata(Part):
    name: Name
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Resource(Part):
    apiVersion: Literal["meshwarden.io/v1alpha1"]  # noqa: N815 the field's name in the file
    metadata: Metadata

    @property
    def name(self) -> str:
        return self.metadata.name


if API_VERSION != "meshwarden.io/v1alpha1":
    raise AssertionError("the schema and documents.API_VERSION differ")


class KeySource(Part):
    """Where an issuer's public keys come from; exactly one of them."""

    inline: dict[str, Any] | None = Field(None, description="A JWKS, written here.")
    file: str | None = Field(None, description="A JWKS file; relative to the configuration folder.")
    url: Annotated[str, StringConstraints(pattern=r"^https?://[^/@\s]+(/\S*)?$")] | None = Field(
        None, description="A JWKS URL, fetched in the background."
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
            self.development,
        ]
        if sum(given) != 1:
            raise ValueError("exactly one of inline, file, url, development is needed")
        return self


class ClaimNames(Part):
    """Where a token says what its subject may; dots lead into nested objects."""

    roles: Quotable = "roles"
    scopes: Quotable = "scope"
    groups: Quotable = "groups"


class TokenIssuerSpec(Part):
    issuer: Word = Field(description="The `iss` of its tokens, to the letter.")
    audiences: list[Word] = Field(
        min_length=1, max_length=50, description="A token must be meant for one of them."
    )
    algorithms: list[Algorithm] = Field(["RS256", "PS256", "ES256", "EdDSA"], min_length=1)
    jwks: KeySource
    leewaySeconds: float = Field(10, ge=0, le=300, description="Clock difference that is forgiven.")  # noqa: N815
    tokenType: Quotable | None = Field(  # noqa: N815
        None, description="The `typ` that tokens must have, such as at+jwt (RFC 9068)."
    )
    subjectPrefix: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._/-]{0,63}$")] = Field(  # noqa: N815
        "",
        description="Put before each subject. Each issuer has one of its own, so that none can "
        "speak for another's subjects; one may have none.",
    )
    claims: ClaimNames = ClaimNames()


class TokenIssuer(Resource):
    """Who signs tokens, and how they are checked."""

    kind: Literal["TokenIssuer"]
    spec: TokenIssuerSpec


class AccessRoleSpec(Part):
    inherits: list[Name] = Field([], description="Roles whose permissions and rules it has, too.")
    permissions: list[Permission] = Field([], description="`resource:verb`, such as orders:write.")


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


class CredentialSource(Part):
    """One place in the request; exactly one of header, cookie, query."""

    header: HeaderName | None = None
    scheme: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9-]*$")] | None = Field(
        None, description="The word before the credential in the header, such as Bearer."
    )
    cookie: Annotated[str, StringConstraints(pattern=r"^[\w!#$%&'*+.^`|~-]+$")] | None = None
    query: Annotated[str, StringConstraints(pattern=r"^[\w.~-]+$")] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> CredentialSource:
        if sum(place is not None for place in (self.header, self.cookie, self.query)) != 1:
            raise ValueError("exactly one of header, cookie, query is needed")
        if self.scheme is not None and self.header is None:
            raise ValueError("a scheme goes with a header")
        return self


class JwtMethod(Part):
    issuers: list[Name] = Field(min_length=1, description="The TokenIssuers that are trusted here.")
    sources: list[CredentialSource] = Field(
        [CredentialSource(header="authorization", scheme="Bearer")], min_length=1, max_length=10
    )


class ApiKeyMethod(Part):
    sources: list[CredentialSource] = Field(
        [CredentialSource(header="x-api-key")], min_length=1, max_length=10
    )


class IdentifyMethod(Part):
    """One way to say who is calling; they are tried in their order."""

    jwt: JwtMethod | None = None
    apiKey: ApiKeyMethod | None = None  # noqa: N815
    onInvalid: Literal["deny", "skip"] = Field(  # noqa: N815
        "deny", description="skip: try the next way that reads the same credential."
    )
    onUnavailable: Literal["deny", "fault", "skip"] = Field(  # noqa: N815
        "deny",
        description="When what is asked (an issuer, the key store) does not answer: deny is a 503 "
        "in-band, fault an error, which Envoy's failure mode may allow, skip tries the next way.",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> IdentifyMethod:
        if (self.jwt is None) == (self.apiKey is None):
            raise ValueError("exactly one of jwt, apiKey is needed")
        return self


class Rule(Part):
    """Matches when everything that it names holds; `allow` rules allow, `deny` rules deny and
    win.
    """

    name: Name
    effect: Literal["allow", "deny"] = "allow"
    callers: Literal["identified", "anyone"] | None = Field(
        None, description="Default: identified for allow, anyone for deny."
    )
    methods: list[Annotated[str, StringConstraints(pattern=r"^[A-Z]+$")]] = Field(
        [], description="Any of them; empty: every method."
    )
    paths: list[str] = Field([], description="Any of them; empty: every path.")
    roles: list[Name] = Field([], description="Any of them, inherited ones included.")
    permissions: list[Permission] = Field([], description="All of them.")
    scopes: list[Word] = Field([], description="All of them.")
    groups: list[Word] = Field([], description="Any of them.")
    principals: list[PrincipalName] = Field([], description="Any of them, such as key:service.")
    when: Annotated[str, StringConstraints(max_length=CONDITION_CHARACTERS_AT_MOST)] | None = Field(
        None, description="A CEL condition over request, source and principal."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Rule:
        for path in self.paths:
            parse_pattern(path)
        wanted = (self.roles, self.permissions, self.scopes, self.groups, self.principals)
        if self.effect == "allow" and self.callers == "anyone" and any(wanted):
            raise ValueError(
                "a rule for anyone can't ask for roles, permissions, scopes, groups or principals"
            )
        return self


class AccessPolicySpec(Part):
    hosts: list[str] = Field(min_length=1, max_length=1000)
    realm: Annotated[str, StringConstraints(pattern=r"^[\w .:/-]{1,100}$")] = "meshwarden"
    identify: list[IdentifyMethod] = Field([], max_length=10)
    identityHeaders: dict[HeaderName, IdentityAttribute] = Field(  # noqa: N815
        {
            "x-auth-principal": "principal",
            "x-auth-subject": "subject",
            "x-auth-roles": "roles",
            "x-auth-scopes": "scopes",
        },
        max_length=16,
        description="How the upstream learns who is calling; client-sent copies never pass.",
    )
    forwardCredential: bool = Field(  # noqa: N815
        False, description="Whether the upstream gets the credential itself."
    )
    rules: list[Rule] = Field(max_length=10_000)

    @model_validator(mode="after")
    def _consistent(self) -> AccessPolicySpec:
        for host in self.hosts:
            parse_host_pattern(host)
        names = [rule.name for rule in self.rules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the rule name '{twice[0]}' stands twice")
        for forbidden in ("host", "authorization", "cookie", "content-length", "te", "connection"):
            if forbidden in self.identityHeaders:
                raise ValueError(f"'{forbidden}' can't be an identity header")
        return self


class AccessPolicy(Resource):
    """For the hosts it names: how callers identify themselves, and which of them may do what."""

    kind: Literal["AccessPolicy"]
    spec: AccessPolicySpec


MODELS: dict[str, type[Resource]] = {
    "TokenIssuer": TokenIssuer,
    "AccessRole": AccessRole,
    "AccessRoleBinding": AccessRoleBinding,
    "AccessPolicy": AccessPolicy,
}
