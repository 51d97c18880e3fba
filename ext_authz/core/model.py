"""What a decision is made from and what it says: request, principal, verdict, reason.

Start reading here; then `engine.py`. Nothing in this file decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any

from ext_authz.core.lookups import Lookup


class Reason(StrEnum):
    """Every reason that a verdict can have; machine-readable, stable, the same in body, metadata
    and metric.
    """

    ALLOWED = "allowed"
    # who is calling: 401
    MISSING_CREDENTIAL = "missing_credential"
    MULTIPLE_CREDENTIALS = "multiple_credentials"
    UNSUPPORTED_SCHEME = "unsupported_scheme"
    MALFORMED_TOKEN = "malformed_token"
    TOKEN_TOO_LARGE = "token_too_large"
    UNKNOWN_ISSUER = "unknown_issuer"
    ALGORITHM_NOT_ALLOWED = "algorithm_not_allowed"
    UNKNOWN_KEY = "unknown_key"
    INVALID_SIGNATURE = "invalid_signature"
    INVALID_CLAIMS = "invalid_claims"
    WRONG_AUDIENCE = "wrong_audience"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    INVALID_SUBJECT = "invalid_subject"
    INVALID_API_KEY = "invalid_api_key"
    UNTRUSTED_CERTIFICATE = "untrusted_certificate"
    REVOKED = "revoked"
    INACTIVE_TOKEN = "inactive_token"
    REFUSED_TOKEN = "refused_token"
    PENDING = "pending"
    # too much of that from one address: 429
    TOO_MANY_FAILURES = "too_many_failures"
    # who is calling, or whether they may, can't be found out now: 503
    ISSUER_UNAVAILABLE = "issuer_unavailable"
    KEY_STORE_UNAVAILABLE = "key_store_unavailable"
    KUBERNETES_UNAVAILABLE = "kubernetes_unavailable"
    # may they: 403
    NO_POLICY_FOR_HOST = "no_policy_for_host"
    NO_RULE_ALLOWS = "no_rule_allows"
    DENIED_BY_RULE = "denied_by_rule"
    CONDITION_FAILED = "condition_failed"
    INVALID_HOST = "invalid_host"
    INVALID_PATH = "invalid_path"
    # what was asked can't be judged
    NOT_HTTP = "not_http"
    TOO_MANY_HEADERS = "too_many_headers"
    OVERLOADED = "overloaded"
    NOT_READY = "not_ready"


class Kind(StrEnum):
    """How a principal was identified; the first part of its name, so that a token can't speak as a
    key.
    """

    JWT = "jwt"
    OPAQUE = "opaque"
    KEY = "key"
    SPIFFE = "spiffe"
    CERTIFICATE = "cert"
    KUBERNETES = "kubernetes"
    ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request as the proxy describes it.

    `headers`: names in lower case, values as received (repeated ones merged with a comma, as Envoy
    does), without pseudo-headers. `header_count`: how many header lines there were, 0 where the
    proxy does not tell. `target`: path and query, undecoded. `host`: as received. `source_address`,
    `source_principal` and `source_certificate` (URL-encoded PEM) are of the proxy's direct peer.
    `context`: what the proxy's configuration adds for a route (`context_extensions`).
    """

    method: str
    host: str
    target: str
    headers: Mapping[str, str]
    header_count: int = 0
    source_address: str = ""
    source_principal: str = ""
    source_certificate: str = field(default="", repr=False)
    scheme: str = ""
    body: bytes = field(default=b"", repr=False)
    context: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Principal:
    """An identified caller.

    `name` is kind and subject, `jwt:rita`; of a workload its SPIFFE ID, which is its subject, too.
    `roles` are those that the credential itself brings; bindings add more.
    """

    kind: Kind
    subject: str
    issuer: str = ""
    roles: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        if self.kind is Kind.SPIFFE:
            return self.subject
        return f"{self.kind}:{self.subject}" if self.subject else str(self.kind)


ANONYMOUS = Principal(Kind.ANONYMOUS, "")


@dataclass(frozen=True, slots=True)
class Identified:
    """The caller is known."""

    principal: Principal


@dataclass(frozen=True, slots=True)
class Unidentified:
    """The caller is not known, and why.

    `lookup` is what may yet tell: who called `decide` asks for it and decides again. `is_fault`:
    not the caller's doing, but that of something that does not answer us.
    """

    reason: Reason
    detail: str = ""
    lookup: Lookup | None = None
    status: int = 401
    is_fault: bool = False


Identity = Identified | Unidentified


class Append(Enum):
    """What happens where the header is already there (`HeaderValueOption.HeaderAppendAction`)."""

    APPEND_IF_EXISTS_OR_ADD = 0
    ADD_IF_ABSENT = 1
    OVERWRITE_IF_EXISTS_OR_ADD = 2
    OVERWRITE_IF_EXISTS = 3


@dataclass(frozen=True, slots=True)
class HeaderMutation:
    name: str
    value: str
    append: Append = Append.OVERWRITE_IF_EXISTS_OR_ADD


@dataclass(frozen=True, slots=True)
class Denial:
    """How a denial is shown in place of problem+json; no `body` (None): as that."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: str | None = None
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Allowed or denied, why, and everything that the proxy must do about it.

    `status` is the HTTP status of a denial. `policy` and `rule` are empty where none decided.
    `failed_conditions` names the rules whose condition failed while it ran. `lookup` is what the
    verdict lacks: ask for it and decide again. `is_fault` marks a denial for a fault of ours, which
    may be answered as an error. Raises `ValueError` for a denial that a caller would take for
    success.
    """

    is_allowed: bool
    reason: Reason
    principal: Principal = ANONYMOUS
    policy: str = ""
    rule: str = ""
    detail: str = ""
    status: int = 200
    challenges: tuple[str, ...] = ()
    headers: tuple[HeaderMutation, ...] = ()
    headers_to_remove: tuple[str, ...] = ()
    query_parameters_to_set: tuple[tuple[str, str], ...] = ()
    query_parameters_to_remove: tuple[str, ...] = ()
    response_headers: tuple[HeaderMutation, ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    denial: Denial | None = None
    lookup: Lookup | None = None
    is_fault: bool = False
    failed_conditions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.is_allowed == (self.reason is Reason.ALLOWED) == (self.status < 400):
            raise ValueError(f"no verdict: {self.is_allowed}, {self.reason}, {self.status}")
