"""Signed tokens that tell the upstream who is calling, and the keys that sign them.

A token is short-lived and bound to one audience, so that what leaks from one workload is no good at
another. It is made once for a caller and used for half its life. Keys are a private JWKS that all
replicas share; a key signs from its `signs_from` on (seconds since the epoch, a member of ours) and
is published before and after, so that keys rotate with overlap. Source: RFC 7515, 7517, 7519, 8725.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from ext_authz.core.answer_parts import IdentityTokenPart, evaluated
from ext_authz.core.facts import Facts
from ext_authz.core.jwk import PRIVATE_MEMBERS, SIGNS_FROM
from meshwarden.core.documents import parse_json
from meshwarden.core.faults import InvalidInput, Problem

TYPE = "JWT"
KEYS_AT_MOST = 20
TOKENS_AT_MOST = 20_000


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One private key, and from when on it signs."""

    kid: str
    algorithm: str
    signs_from: float
    public: Mapping[str, Any]
    private_key: Any = field(repr=False)


class SigningKeys:
    """The keys of one installation, and the tokens that they signed of late."""

    def __init__(self, issuer: str = "", keys: tuple[SigningKey, ...] = ()) -> None:
        self.issuer = issuer
        self.keys = keys
        self._tokens: OrderedDict[object, tuple[float, str]] = OrderedDict()

    def current(self, now: float) -> SigningKey | None:
        """The key that signs at `now`: of those that may, the one that came last."""
        ready = [key for key in self.keys if key.signs_from <= now]
        return max(ready, key=lambda key: key.signs_from, default=None)

    def public_jwks(self) -> dict[str, Any]:
        """What is published: every key's public part, those that don't sign yet included."""
        return {"keys": [dict(key.public) for key in self.keys]}

    def remembered(self, key: object, now: float) -> str | None:
        found = self._tokens.get(key)
        return found[1] if found is not None and now < found[0] else None

    def remember(self, key: object, token: str, until: float) -> None:
        self._tokens[key] = (until, token)
        if len(self._tokens) > TOKENS_AT_MOST:
            self._tokens.popitem(last=False)


@dataclass(frozen=True, slots=True)
class IdentityClaims:
    """What a token says of a caller; two that are equal get the same token."""

    subject: str
    kind: str
    namespace: str
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    groups: tuple[str, ...]
    further: str

    @classmethod
    def of(cls, facts: Facts, part: IdentityTokenPart) -> IdentityClaims:
        values = {name: evaluated(text, facts) for name, text in part.claims.items()}
        kept = {name: value for name, value in values.items() if value is not None}
        try:
            further = json.dumps(kept, sort_keys=True) if kept else ""
        except (TypeError, ValueError):
            further = ""  # A time or bytes: no claim that JSON has.
        principal = facts.principal
        return cls(
            principal.name,
            str(principal.kind),
            facts.namespace,
            tuple(sorted(facts.roles)),
            tuple(sorted(principal.scopes)),
            tuple(sorted(principal.groups)),
            further,
        )


def signed_identity(
    claims: IdentityClaims, part: IdentityTokenPart, signing: SigningKeys, now: float
) -> str | None:
    """The token; None where no key signs yet."""
    remembered = signing.remembered((claims, part.audience, part.lifetime_seconds), now)
    if remembered is not None:
        return remembered
    key = signing.current(now)
    if key is None:
        return None
    payload = {
        **(json.loads(claims.further) if claims.further else {}),
        "iss": signing.issuer,
        "sub": claims.subject,
        "aud": part.audience,
        "iat": int(now),
        "exp": int(now) + part.lifetime_seconds,
        "kind": claims.kind,
        "roles": list(claims.roles),
        "scope": " ".join(claims.scopes),
        "groups": list(claims.groups),
    }
    if claims.namespace:
        payload["namespace"] = claims.namespace
    token = jwt.encode(
        payload, key.private_key, algorithm=key.algorithm, headers={"kid": key.kid, "typ": TYPE}
    )
    until = now + part.lifetime_seconds / 2
    signing.remember((claims, part.audience, part.lifetime_seconds), token, until)
    return token


def parse_signing_keys(file: str, content: bytes, issuer: str) -> SigningKeys:
    """The keys in a private JWKS. Raises `InvalidInput` with everything that is wrong, and nothing
    of a key.
    """
    value = parse_json(file, content)
    jwks = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(jwks, list) or not 1 <= len(jwks) <= KEYS_AT_MOST:
        what = f"is no JWKS of private keys: a list 'keys' of 1 to {KEYS_AT_MOST} is needed"
        raise InvalidInput([Problem(file, 0, what)])
    keys, problems = [], []
    for index, jwk in enumerate(jwks):
        try:
            keys.append(_signing_key(jwk))
        except ValueError as error:
            problems.append(Problem(file, 0, f"keys[{index}]: {error}"))
    kids = [key.kid for key in keys]
    if len(set(kids)) != len(kids):
        problems.append(Problem(file, 0, "a kid stands twice"))
    if problems:
        raise InvalidInput(problems)
    return SigningKeys(issuer, tuple(keys))


def _signing_key(jwk: Any) -> SigningKey:
    if not isinstance(jwk, dict) or "d" not in jwk:
        raise ValueError("is no private key")
    kid, signs_from = jwk.get("kid"), jwk.get(SIGNS_FROM, 0)
    if not isinstance(kid, str) or not kid:
        raise ValueError("has no kid")
    if isinstance(signs_from, bool) or not isinstance(signs_from, (int, float)):
        raise ValueError(f"{SIGNS_FROM} is no time")
    algorithm = _ALGORITHM_OF.get((str(jwk.get("kty")), str(jwk.get("crv", ""))))
    if algorithm is None:
        raise ValueError("is no key that we sign with: P-256, Ed25519, or RSA")
    try:
        parsed = jwt.PyJWK({**jwk, "alg": algorithm}).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        raise ValueError("is no valid private key") from None
    if jwk.get("alg", algorithm) != algorithm:
        raise ValueError(f"is for another algorithm than {algorithm}")
    if isinstance(parsed, rsa.RSAPrivateKey) and parsed.key_size < 2048:
        raise ValueError("an RSA key must have 2048 bits")
    public = {n: m for n, m in jwk.items() if n not in (*PRIVATE_MEMBERS, SIGNS_FROM, "key_ops")}
    return SigningKey(
        kid, algorithm, float(signs_from), {**public, "use": "sig", "alg": algorithm}, parsed
    )


_ALGORITHM_OF = {
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
    ("RSA", ""): "RS256",
}
