"""Compiled policies: what `decide` reads. Made whole by `compile.py`, immutable, swapped at
once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

from ext_authz.core.addresses import HEADER as FORWARDED_FOR
from ext_authz.core.addresses import Network, client_address
from ext_authz.core.answer_parts import AnswerParts
from ext_authz.core.conditions import Condition
from ext_authz.core.hosts import HostIndex
from ext_authz.core.issuer_kind import TokenIssuerSpec
from ext_authz.core.jwks import EMPTY, KeySet
from ext_authz.core.kubernetes_access import Access
from ext_authz.core.model import Request
from ext_authz.core.paths import PathPattern
from ext_authz.core.peers import PeerWay
from ext_authz.core.rule_index import RuleIndex
from ext_authz.core.time_windows import TimeWindow

HEADERS_AT_MOST = 80
"""Envoy's limit of 100 counts what we add, too; beyond it the caller gets an empty 500."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """A TokenIssuer, by its qualified name; equal when its settings are."""

    name: str
    spec: TokenIssuerSpec = field(hash=False)
    keys: KeySet | None = None
    """Keys that came with the configuration; None: they are fetched."""
    client_secret: str = field(default="", repr=False)
    """Ours at the introspection endpoint."""


@dataclass(frozen=True, slots=True)
class Source:
    """One place that a credential may stand in; `place` is header, cookie or query; `scheme` in
    lower case.
    """

    place: str
    name: str
    scheme: str = ""


class MethodKind(Enum):
    """How a method finds out who is calling; the value is its name in a policy."""

    JWT = "jwt"
    INTROSPECTION = "introspection"
    API_KEY = "apiKey"
    KUBERNETES = "kubernetesToken"
    SPIFFE = "spiffe"
    CERTIFICATE = "clientCertificate"


class OnUnavailable(Enum):
    """What happens when what a method asks does not answer."""

    FAULT = "fault"
    DENY = "deny"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Method:
    """One way to identify. `issuers` (by the `iss` of their tokens) are those trusted by a JWT
    method, the one that is asked by introspection. `skips_invalid`: where its credential is not
    valid the next method that reads it is tried.
    """

    kind: MethodKind
    sources: tuple[Source, ...]
    issuers: Mapping[str, Issuer] = field(default_factory=dict, hash=False)
    skips_invalid: bool = False
    on_unavailable: OnUnavailable = OnUnavailable.DENY
    audiences: tuple[str, ...] = ()
    """Of a method that asks Kubernetes: sorted."""
    peer: PeerWay | None = None
    """Of a method that looks at the connection and not at a credential."""


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule with everything that it refers to resolved; an empty set means: not asked for."""

    name: str
    is_for_anyone: bool
    is_denial: bool = False
    methods: frozenset[str] = frozenset()
    patterns: tuple[PathPattern, ...] = ()
    roles: frozenset[str] = frozenset()
    permissions: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    principals: frozenset[str] = frozenset()
    headers: tuple[tuple[str, frozenset[str]], ...] = ()
    query: tuple[tuple[str, frozenset[str]], ...] = ()
    grpc: tuple[tuple[str, str], ...] = ()
    """Service and method; an empty method stands for all of them."""
    client_networks: tuple[Network, ...] = ()
    times: tuple[TimeWindow, ...] = ()
    condition: Condition | None = None
    access: Access | None = None


@dataclass(frozen=True, slots=True)
class Roles:
    """Who holds which role, with inheritance worked out."""

    closure: Mapping[str, frozenset[str]] = field(default_factory=dict)
    permissions: Mapping[str, frozenset[str]] = field(default_factory=dict)
    of_principal: Mapping[str, frozenset[str]] = field(default_factory=dict)
    of_group: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def held(self, name: str, own: frozenset[str], groups: frozenset[str]) -> frozenset[str]:
        """All roles of the principal `name` whose credential brings the roles `own` and the groups
        `groups`.

        A role that no AccessRole defines is kept as it is: it may still be named by a rule's
        condition.
        """
        direct = own | self.of_principal.get(name, frozenset())
        for group in groups:
            direct |= self.of_group.get(group, frozenset())
        result: frozenset[str] = direct
        for role in direct:
            result |= self.closure.get(role, frozenset())
        return result

    def granted(self, roles: frozenset[str]) -> frozenset[str]:
        """The permissions that `roles` (inheritance worked out) give."""
        result: frozenset[str] = frozenset()
        for role in roles:
            result |= self.permissions.get(role, frozenset())
        return result


@dataclass(frozen=True)
class Policy:
    """`name` is qualified by `namespace`; `roles` are those that the namespace sees."""

    name: str
    methods: tuple[Method, ...]
    identity_headers: tuple[tuple[str, str], ...]
    deny_rules: tuple[CompiledRule, ...]
    allow_rules: tuple[CompiledRule, ...]
    challenges: tuple[str, ...] = ()
    """WWW-Authenticate values without their error parameters."""
    forwards_credential: bool = False
    namespace: str = ""
    roles: Roles = field(default_factory=Roles)
    answer: AnswerParts = field(default_factory=AnswerParts)
    trusted_proxies: tuple[Network, ...] = ()
    """Whose X-Forwarded-For is believed."""

    def client_address(self, request: Request) -> str:
        """Where the client is, behind the proxies that the policy trusts."""
        forwarded = request.headers.get(FORWARDED_FOR, "")
        return client_address(request.source_address, forwarded, self.trusted_proxies)

    @cached_property
    def deny_index(self) -> RuleIndex:
        return RuleIndex(self.deny_rules)

    @cached_property
    def allow_index(self) -> RuleIndex:
        return RuleIndex(self.allow_rules)

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """Every place that credentials are read from, each once."""
        found = (source for method in self.methods for source in method.sources)
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class PolicySet:
    """Everything that was configured."""

    policies: HostIndex[Policy]
    issuers: Mapping[str, Issuer] = field(default_factory=dict)
    """By their qualified names."""
    identity_headers: frozenset[str] = frozenset()
    """The identity headers of all policies: none may come from a client."""
    headers_at_most: int = HEADERS_AT_MOST

    def keys_configured(self) -> dict[str, KeySet]:
        """The key set of each issuer by its name; empty for those whose keys are fetched."""
        return {name: issuer.keys or EMPTY for name, issuer in self.issuers.items()}
