"""AccessPolicy as it stands in a file."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from ext_authz.core.answer_kind import (
    Denied,
    Downstream,
    IdentityToken,
    MetadataValue,
    Upstream,
)
from ext_authz.core.hosts import HOST_CHARACTERS_AT_MOST
from ext_authz.core.kind_parts import (
    NAMES_AT_MOST,
    HeaderName,
    Name,
    Part,
    Permission,
    PrincipalName,
    Resource,
    TrustDomain,
    Word,
)
from ext_authz.core.kubernetes_kind import Audience, KubernetesAccess
from ext_authz.core.paths import PATH_CHARACTERS_AT_MOST, parse_pattern
from meshwarden.core.host_patterns import parse_host_pattern

IdentityAttribute = Literal["principal", "subject", "kind", "issuer", "roles", "scopes", "groups"]

CONDITION_CHARACTERS_AT_MOST = 2048
FORBIDDEN_IDENTITY_HEADERS = (
    "host",
    "authorization",
    "cookie",
    "content-length",
    "te",
    "connection",
)


def _trusted_proxy(text: str) -> str:
    """Refuse what is neither a network nor a principal that a proxy can show."""
    if "://" not in text and "=" not in text:
        try:
            ip_network(text)
        except ValueError as error:
            raise ValueError(f"'{text}' is no network ({error}) and no principal") from None
    return text


def _time_zone(text: str) -> str:
    try:
        ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"there is no time zone '{text}'") from None
    return text


def _network(text: str) -> str:
    try:
        ip_network(text)
    except ValueError as error:
        raise ValueError(f"'{text}' is no address and no network: {error}") from None
    return text


TimeOfDay = Annotated[
    str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$", max_length=5)
]
NetworkText = Annotated[str, StringConstraints(max_length=128), AfterValidator(_network)]
ValueText = Annotated[str, StringConstraints(max_length=8192)]
Values = Annotated[list[ValueText], Field(min_length=1, max_length=100)]
HostText = Annotated[str, StringConstraints(max_length=HOST_CHARACTERS_AT_MOST)]
PathText = Annotated[
    str,
    StringConstraints(max_length=PATH_CHARACTERS_AT_MOST),
    Field(json_schema_extra={"pattern": "^/"}),
]
Method = Annotated[str, StringConstraints(pattern=r"^[A-Z]+$", max_length=64)]
GrpcMethod = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*/([A-Za-z_]\w*|\*)$", max_length=256)
]
TrustedProxy = Annotated[Word, AfterValidator(_trusted_proxy)]


AUTHORITIES: Any = Field(
    None,
    description="PEM file of the authorities of which one must have signed the certificate; needs "
    "a proxy that sends it (include_peer_certificate). Unset: the proxy has verified it.",
)


class CredentialSource(Part):
    """One place in the request; exactly one of header, cookie, query."""

    header: HeaderName | None = None
    scheme: (
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9-]*$", max_length=100)] | None
    ) = Field(None, description="The word before the credential in the header, such as Bearer.")
    cookie: (
        Annotated[str, StringConstraints(pattern=r"^[\w!#$%&'*+.^`|~-]+$", max_length=256)] | None
    ) = None
    query: Annotated[str, StringConstraints(pattern=r"^[\w.~-]+$", max_length=256)] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> CredentialSource:
        if sum(place is not None for place in (self.header, self.cookie, self.query)) != 1:
            raise ValueError("exactly one of header, cookie, query is needed")
        if self.scheme is not None and self.header is None:
            raise ValueError("a scheme goes with a header")
        return self


class JwtMethod(Part):
    issuers: list[Name] = Field(
        min_length=1, max_length=1000, description="The TokenIssuers that are trusted here."
    )
    sources: list[CredentialSource] = Field(
        [CredentialSource(header="authorization", scheme="Bearer")], min_length=1, max_length=10
    )


class ApiKeyMethod(Part):
    sources: list[CredentialSource] = Field(
        [CredentialSource(header="x-api-key")], min_length=1, max_length=10
    )


class IntrospectionMethod(Part):
    issuer: Name = Field(description="The TokenIssuer that is asked.")
    sources: list[CredentialSource] = Field(
        [CredentialSource(header="authorization", scheme="Bearer")], min_length=1, max_length=10
    )


class KubernetesTokenMethod(Part):
    """By a token that Kubernetes is asked about (TokenReview), such as a ServiceAccount's."""

    audiences: list[Audience] = Field(
        min_length=1,
        max_length=20,
        description="For whom a token must be made: one of these. Never the API server's own: "
        "every Pod has such a token, and who got one could use it there.",
    )
    sources: list[CredentialSource] = Field(
        [CredentialSource(header="authorization", scheme="Bearer")], min_length=1, max_length=10
    )


class Forwarded(Part):
    """Proxies before us that are believed when they forward a caller's certificate."""

    trustedProxies: list[TrustedProxy] = Field(  # noqa: N815
        min_length=1,
        max_length=100,
        description="Addresses or networks (10.0.0.0/8), or principals that the proxy shows, such "
        "as spiffe://cluster.local/ns/istio-system/sa/gateway.",
    )


class SpiffeMethod(Part):
    """By the workload identity that the proxy's peer shows."""

    trustDomains: list[TrustDomain] = Field(  # noqa: N815
        min_length=1, max_length=100, description="Whose identities are accepted."
    )
    forwarded: Forwarded | None = Field(
        None, description="From whom X-Forwarded-Client-Cert is believed; unset: from nobody."
    )
    authoritiesFile: Word | None = AUTHORITIES  # noqa: N815


class ClientCertificateMethod(Part):
    """By any certificate that the proxy's peer shows: its DNS name, URI name, or subject."""

    forwarded: Forwarded | None = Field(
        None, description="From whom X-Forwarded-Client-Cert is believed; unset: from nobody."
    )
    authoritiesFile: Word | None = AUTHORITIES  # noqa: N815


class IdentifyMethod(Part):
    """One way to say who is calling; they are tried in their order."""

    jwt: JwtMethod | None = None
    introspection: IntrospectionMethod | None = None
    apiKey: ApiKeyMethod | None = None  # noqa: N815
    kubernetesToken: KubernetesTokenMethod | None = None  # noqa: N815
    spiffe: SpiffeMethod | None = None
    clientCertificate: ClientCertificateMethod | None = None  # noqa: N815
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
        peers = ("spiffe", "clientCertificate")
        names = ("jwt", "introspection", "apiKey", "kubernetesToken", *peers)
        if sum(getattr(self, name) is not None for name in names) != 1:
            raise ValueError(f"exactly one of {', '.join(names)} is needed")
        return self


class TimeOfWeek(Part):
    """A time of the day on some days of the week."""

    days: list[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]] = Field(
        ["mon", "tue", "wed", "thu", "fri", "sat", "sun"], min_length=1, max_length=7
    )
    begins: TimeOfDay = Field("00:00", description="From this time on, HH:MM.")
    ends: TimeOfDay = Field(
        "00:00", description="Until just before it; where it is not after `begins`, the next day's."
    )
    timeZone: Annotated[str, StringConstraints(max_length=256), AfterValidator(_time_zone)] = Field(  # noqa: N815
        "UTC", description="Of the IANA database, such as Europe/Berlin."
    )


class Rule(Part):
    """Matches when everything that it names holds; `allow` rules allow, `deny` rules deny and
    win.
    """

    name: Name
    effect: Literal["allow", "deny"] = "allow"
    callers: Literal["identified", "anyone"] | None = Field(
        None, description="Default: identified for allow, anyone for deny."
    )
    methods: list[Method] = Field(
        [], max_length=100, description="Any of them; empty: every method."
    )
    paths: list[PathText] = Field(
        [], max_length=NAMES_AT_MOST, description="Any of them; empty: every path."
    )
    roles: list[Name] = Field(
        [], max_length=NAMES_AT_MOST, description="Any of them, inherited ones included."
    )
    permissions: list[Permission] = Field([], max_length=NAMES_AT_MOST, description="All of them.")
    scopes: list[Word] = Field([], max_length=NAMES_AT_MOST, description="All of them.")
    groups: list[Word] = Field([], max_length=NAMES_AT_MOST, description="Any of them.")
    principals: list[PrincipalName] = Field(
        [], max_length=NAMES_AT_MOST, description="Any of them, such as key:service."
    )
    headers: dict[HeaderName, Values] = Field(
        {},
        max_length=20,
        description="Each must have one of these values. Of several values all must be named to "
        "allow, and one is enough to deny.",
    )
    query: dict[Word, Values] = Field(
        {}, max_length=20, description="The same of query parameters, unescaped."
    )
    grpc: list[GrpcMethod] = Field(
        [],
        max_length=NAMES_AT_MOST,
        description="Any of them: orders.v1.Orders/Get, or orders.v1.Orders/* for a service.",
    )
    clientAddresses: list[NetworkText] = Field(  # noqa: N815
        [],
        max_length=1000,
        description="Any of these networks: where the client is, behind `trustedProxies`.",
    )
    times: list[TimeOfWeek] = Field([], max_length=50, description="At any of these times.")
    when: Annotated[str, StringConstraints(max_length=CONDITION_CHARACTERS_AT_MOST)] | None = Field(
        None, description="A CEL condition over request, source and principal."
    )

    kubernetesAccess: KubernetesAccess | None = Field(  # noqa: N815
        None, description="What Kubernetes' own RBAC must let the caller do; asked last."
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
        if self.kubernetesAccess is not None and self.callers == "anyone":
            raise ValueError("kubernetesAccess asks about an identified caller, not about anyone")
        return self


class AccessPolicySpec(Part):
    hosts: list[HostText] = Field(min_length=1, max_length=1000)
    realm: Annotated[str, StringConstraints(pattern=r"^[\w .:/-]{1,100}$", max_length=100)] = (
        "meshwarden"
    )
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
    trustedProxies: list[NetworkText] = Field(  # noqa: N815
        [],
        max_length=1000,
        description="Proxies before us whose X-Forwarded-For tells the client's address.",
    )
    forwardCredential: bool = Field(  # noqa: N815
        False, description="Whether the upstream gets the credential itself."
    )
    upstream: Upstream = Upstream()
    downstream: Downstream = Downstream()
    metadata: list[MetadataValue] = Field(
        [], max_length=20, description="Dynamic metadata, for later filters and logs."
    )
    denied: Denied = Denied()
    identityToken: IdentityToken | None = None  # noqa: N815
    rules: list[Rule] = Field(max_length=10_000)

    @model_validator(mode="after")
    def _consistent(self) -> AccessPolicySpec:
        for host in self.hosts:
            parse_host_pattern(host)
        for forbidden in FORBIDDEN_IDENTITY_HEADERS:
            if forbidden in self.identityHeaders:
                raise ValueError(f"'{forbidden}' can't be an identity header")
        return self


class AccessPolicy(Resource):
    """For the hosts it names: how callers identify themselves, and which of them may do what."""

    kind: Literal["AccessPolicy"]
    spec: AccessPolicySpec
