"""The credentials of a policy test's caller, and what makes them valid.

They are real: a signed token and the issuer's key for it, an API key and its record, an issuer's
answer about an opaque token. So `decide` is asked as a service asks it, and nothing in the product
knows of tests.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any
from urllib.parse import urlencode

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from ext_authz.core.api_keys import ApiKeys, KeyRecord, digest, make_key
from ext_authz.core.engine import decide
from ext_authz.core.hosts import normalized_host
from ext_authz.core.identity_token import SigningKeys, parse_signing_keys
from ext_authz.core.issuer_kind import TokenIssuerSpec
from ext_authz.core.jwk import private_jwk
from ext_authz.core.jwks import KeySet, VerificationKey
from ext_authz.core.keys import Keys
from ext_authz.core.kubernetes_access import SERVICE_ACCOUNT, service_account
from ext_authz.core.lookups import (
    FAILED,
    AccessAttributes,
    AccessReviewLookup,
    IntrospectionLookup,
    Lookup,
    TokenReviewLookup,
)
from ext_authz.core.model import Request, Verdict
from ext_authz.core.policies import Issuer, MethodKind, Policy, PolicySet, Source
from ext_authz.core.policy_kind import CredentialSource
from ext_authz.core.resources import qualified
from meshwarden.cli.policy_tests import (
    AllowedAccess,
    CertificateCaller,
    KeyCaller,
    KubernetesCaller,
    SpiffeCaller,
    TokenCaller,
    WrittenTest,
)
from meshwarden.core.documents import hint_for
from meshwarden.core.faults import Problem

IDENTITY_ISSUER = "https://identity.meshwarden.invalid"
TOKEN_SECONDS = 300
LOOKUPS_AT_MOST = 8
"""For one request, as in the service."""

_KID = "policy-test"
_PEPPER = secrets.token_bytes(32)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it arrives, and what the service would know then."""

    request: Request
    keys: Keys
    now: float
    answers: dict[Lookup, object] = field(default_factory=dict)
    """What was asked about, once the verdict is there."""
    known: Mapping[Lookup, object] = field(default_factory=dict)
    """What is answered when it is asked about; everything else fails."""
    allowed: frozenset[AccessAttributes] | None = None
    """What Kubernetes says yes to, to all else no; None: it does not answer."""

    def verdict(self, policies: PolicySet) -> Verdict:
        """What is decided, as the service comes to it: what it lacks is looked up."""
        while True:
            verdict = decide(self.request, policies, self.keys, self.now, self.answers)
            if verdict.lookup is None or len(self.answers) >= LOOKUPS_AT_MOST:
                return verdict
            self.answers[verdict.lookup] = self._answer(verdict.lookup)

    def _answer(self, lookup: Lookup) -> object:
        if isinstance(lookup, AccessReviewLookup) and self.allowed is not None:
            return {"allowed": lookup.attributes in self.allowed}
        return self.known.get(lookup, FAILED)


def caller_problem(test: WrittenTest, policies: PolicySet) -> Problem | None:
    """What is wrong with the caller of a test under these policies."""
    caller = test.caller
    if not isinstance(caller, TokenCaller):
        return None
    policy = _policy(test.request.request(), policies)
    issuer = _issuer(caller, policy, policies)
    place = ("as", "issuer")
    if issuer is None:
        known = policies.issuers
        hint = hint_for(caller.issuer, known) if known else "define it"
        return test.problem(f"there is no TokenIssuer '{caller.issuer}'", place, hint)
    part = "jwks" if caller.kind == "jwt" else "introspection"
    if getattr(issuer.spec, part) is None:
        other = "opaque" if caller.kind == "jwt" else "jwt"
        what = f"TokenIssuer '{caller.issuer}' has no {part}, so its tokens are not {caller.kind}"
        return test.problem(what, place, f"kind: {other}")
    return None


def asked(test: WrittenTest, policies: PolicySet, now: float) -> Asked:
    """The request of a test that has no `caller_problem`, with its caller's credential."""
    found = _asked(test, policies, now)
    if test.access is None:
        return found
    return replace(found, allowed=frozenset(map(_attributes, test.access)))


def _asked(test: WrittenTest, policies: PolicySet, now: float) -> Asked:
    request = test.request.request()
    keys = Keys(
        issuer_keys=policies.keys_configured(),
        signing=SigningKeys(IDENTITY_ISSUER, _signing().keys),
    )
    policy = _policy(request, policies)
    match test.caller:
        case TokenCaller() as caller:
            issuer = _issuer(caller, policy, policies)
            if issuer is None:
                raise ValueError(f"there is no TokenIssuer '{caller.issuer}'")
            return _asked_with_token(request, caller, issuer, policy=policy, keys=keys, now=now)
        case KeyCaller() as caller:
            key = make_key(secrets.token_bytes(32))
            keys.api_keys = ApiKeys([_record(caller, key)], _PEPPER)
            source = _source(caller.source, policy, MethodKind.API_KEY)
            request = _with_credential(request, source, key)
        case KubernetesCaller() as caller:
            text = secrets.token_urlsafe(24)
            source = _source(caller.source, policy, MethodKind.KUBERNETES)
            request = _with_credential(request, source, text)
            return Asked(request, keys, now, known=_reviews(caller, text, policy))
        case SpiffeCaller(id=name) | CertificateCaller(name=name):
            request = replace(request, source_principal=name)
    return Asked(request, keys, now)


def _policy(request: Request, policies: PolicySet) -> Policy | None:
    return policies.policies.find(normalized_host(request.host))


def _issuer(caller: TokenCaller, policy: Policy | None, policies: PolicySet) -> Issuer | None:
    """The issuer of that name as the policy sees it, else by its qualified name."""
    own = qualified(policy.namespace if policy else "", caller.issuer)
    return policies.issuers.get(own) or policies.issuers.get(caller.issuer)


def _asked_with_token(
    request: Request,
    caller: TokenCaller,
    issuer: Issuer,
    *,
    policy: Policy | None,
    keys: Keys,
    now: float,
) -> Asked:
    claims = _claims(caller, issuer.spec, now)
    if caller.kind == "opaque":
        text = secrets.token_urlsafe(24)
        source = _source(caller.source, policy, MethodKind.INTROSPECTION, issuer)
        lookup = IntrospectionLookup(issuer.name, text)
        request = _with_credential(request, source, text)
        return Asked(request, keys, now, known={lookup: {"active": True, **claims}})
    algorithm = _algorithm(issuer.spec.algorithms)
    private, key_set = _issuer_keys(algorithm)
    keys.issuer_keys = {**keys.issuer_keys, issuer.name: key_set}
    headers = {"kid": _KID, "typ": issuer.spec.tokenType or "JWT"}
    text = jwt.encode(claims, private, algorithm=algorithm, headers=headers)
    source = _source(caller.source, policy, MethodKind.JWT, issuer)
    return Asked(_with_credential(request, source, text), keys, now)


def _claims(caller: TokenCaller, spec: TokenIssuerSpec, now: float) -> dict[str, Any]:
    """The claims of a token that is right for the issuer, but for what the test says."""
    claims: dict[str, Any] = {
        "iss": spec.issuer,
        "aud": spec.audiences[0],
        "iat": int(now),
        "exp": int(now) + TOKEN_SECONDS,
    }
    _put(claims, spec.claims.subject, caller.subject)
    for name in ("roles", "scopes", "groups"):
        words = getattr(caller, name)
        if words is not None:
            path = getattr(spec.claims, name)
            _put(claims, path, " ".join(words) if path == "scope" else words)
    merged = {**claims, **caller.claims}
    return {name: value for name, value in merged.items() if value is not None}


def _put(claims: dict[str, Any], path: str, value: object) -> None:
    """Set the claim at `path`, whose dots lead into objects, unless it is a name like a URL."""
    *parents, name = [path] if "/" in path else path.split(".")
    for parent in parents:
        claims = claims.setdefault(parent, {})
    claims[name] = value


def _record(caller: KeyCaller, key: str) -> KeyRecord:
    return KeyRecord(
        id="policy-test",
        name=caller.name,
        digest=digest(key, _PEPPER),
        namespace=caller.namespace,
        roles=tuple(caller.roles),
        scopes=tuple(caller.scopes),
        groups=tuple(caller.groups),
    )


def _reviews(caller: KubernetesCaller, text: str, policy: Policy | None) -> dict[Lookup, object]:
    """What Kubernetes says of the caller's token, for each audience that the policy asks with."""
    groups = caller.groups
    if groups is None:
        namespace, _, name = caller.user.removeprefix(SERVICE_ACCOUNT).partition(":")
        user, its_groups = service_account(namespace, name)
        groups = sorted(its_groups) if user == caller.user else []
    methods = policy.methods if policy else ()
    return {
        TokenReviewLookup(text, method.audiences): {
            "authenticated": True,
            "audiences": list(method.audiences),
            "user": {"username": caller.user, "groups": groups},
        }
        for method in methods
        if method.kind is MethodKind.KUBERNETES
    }


def _attributes(access: AllowedAccess) -> AccessAttributes:
    return AccessAttributes(
        verb=access.verb,
        group=access.group,
        resource=access.resource,
        subresource=access.subresource,
        namespace=access.namespace,
        name=access.name,
        path=access.nonResourcePath,
    )


# --- where a credential stands


def _source(
    given: CredentialSource | None,
    policy: Policy | None,
    kind: MethodKind,
    issuer: Issuer | None = None,
) -> Source:
    """Where the test says, else where the policy looks first for one like it."""
    if given is not None:
        return _as_compiled(given)
    methods = [method for method in policy.methods if method.kind is kind] if policy else []
    trusting = [method for method in methods if issuer in method.issuers.values()]
    for method in (*trusting, *methods):
        return method.sources[0]
    if kind is MethodKind.API_KEY:
        return Source("header", "x-api-key")
    return Source("header", "authorization", "bearer")


def _as_compiled(source: CredentialSource) -> Source:
    if source.header is not None:
        return Source("header", source.header, (source.scheme or "").lower())
    if source.cookie is not None:
        return Source("cookie", source.cookie)
    return Source("query", source.query or "")


def _with_credential(request: Request, source: Source, text: str) -> Request:
    """The request with one more credential; what stands there already stays."""
    headers = dict(request.headers)
    if source.place == "query":
        separator = "&" if "?" in request.target else "?"
        target = f"{request.target}{separator}{urlencode({source.name: text})}"
        return replace(request, target=target)
    if source.place == "cookie":
        name, value, separator = "cookie", f"{source.name}={text}", "; "
    else:
        value = f"{source.scheme.capitalize()} {text}" if source.scheme else text
        name, separator = source.name, ","
    headers[name] = f"{headers[name]}{separator}{value}" if name in headers else value
    return replace(request, headers=headers)


# --- keys; each is made once


def _algorithm(allowed: Sequence[str]) -> str:
    """The one of the issuer's whose keys are made fastest."""
    return min(allowed, key=("ES256", "EdDSA", "RS256", "PS256").index)


@cache
def _issuer_keys(algorithm: str) -> tuple[Any, KeySet]:
    """A private key that stands for an issuer's, and the key set that verifies with it."""
    private: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
    if algorithm == "ES256":
        private = ec.generate_private_key(ec.SECP256R1())
    elif algorithm == "EdDSA":
        private = ed25519.Ed25519PrivateKey.generate()
    else:
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    key = VerificationKey(_KID, frozenset({algorithm}), private.public_key())
    return private, KeySet({_KID: key})


@cache
def _signing() -> SigningKeys:
    """Keys that sign identity tokens."""
    jwk = private_jwk(ec.generate_private_key(ec.SECP256R1()), 0)
    content = json.dumps({"keys": [jwk]}).encode()
    return parse_signing_keys("signing keys", content, IDENTITY_ISSUER)
