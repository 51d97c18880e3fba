"""A JSON Web Key Set, read strictly, and the signatures its keys verify.

Refused with the whole set: text that is no JWKS, a duplicate `kid`. Left out of the set: keys that
can't verify (other `use` or `key_ops`, a key type or curve we don't take, symmetric keys; RFC 7517
section 5). A key that is dangerous refuses the set: RSA below 2048 bits, a point that is not on its
curve, a private key. Source: RFC 7517, RFC 7518 section 6, RFC 8037.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import get_default_algorithms

from meshwarden.core.documents import parse_json

ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
"""What a TokenIssuer may allow; all asymmetric, so that a public key is never a secret."""

KEYS_AT_MOST = 100
RSA_BITS_AT_LEAST = 2048

_ALGORITHMS_OF = {
    ("RSA", ""): frozenset({"RS256", "PS256"}),
    ("EC", "P-256"): frozenset({"ES256"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA"}),
}
_VERIFIERS = get_default_algorithms()


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """One public key: for which algorithms, under which `kid` (empty: the set's only unnamed
    key).
    """

    kid: str
    algorithms: frozenset[str]
    public_key: Any = field(repr=False)

    def verifies(self, algorithm: str, signing_input: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's over `signing_input`."""
        if algorithm not in self.algorithms:
            return False
        return bool(_VERIFIERS[algorithm].verify(signing_input, self.public_key, signature))


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys of one issuer by `kid`. Two sets are the same when their text is."""

    keys: Mapping[str, VerificationKey]
    text: bytes = field(repr=False, default=b"")

    def find(self, kid: str | None) -> VerificationKey | None:
        """The key named `kid`; without a name, the only key there is."""
        if kid is not None:
            return self.keys.get(kid)
        return next(iter(self.keys.values())) if len(self.keys) == 1 else None


EMPTY = KeySet({})


def parse_jwks(file: str, content: bytes) -> KeySet:
    """The set that `content` (JSON) holds. Raises `InvalidInput` for what is not JSON, `ValueError`
    for what is no set.
    """
    return key_set(parse_json(file, content), content)


def key_set(value: Any, text: bytes) -> KeySet:
    """The set that a parsed JWKS holds. Raises `ValueError`, saying which key is wrong and why."""
    if not isinstance(value, dict) or not isinstance(value.get("keys"), list):
        raise ValueError("is not a JWKS: an object with a list 'keys' is needed")
    if len(value["keys"]) > KEYS_AT_MOST:
        raise ValueError(f"has more than {KEYS_AT_MOST} keys")
    keys: dict[str, VerificationKey] = {}
    for index, jwk in enumerate(value["keys"]):
        key = _verification_key(index, jwk)
        if key is None:
            continue
        if key.kid in keys:
            raise ValueError(f"keys[{index}]: the kid '{key.kid}' stands twice")
        keys[key.kid] = key
    return KeySet(keys, text)


def _verification_key(index: int, jwk: Any) -> VerificationKey | None:
    if not isinstance(jwk, dict):
        raise ValueError(f"keys[{index}]: is not an object")
    kid = jwk.get("kid", "")
    if not isinstance(kid, str):
        raise ValueError(f"keys[{index}]: kid is not a string")
    if "d" in jwk:
        raise ValueError(f"keys[{index}]: is a private key; publish the public part only")
    algorithms = _algorithms(jwk)
    if not algorithms:
        return None
    try:
        public_key = jwt.PyJWK({**jwk, "alg": next(iter(algorithms))}).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, UnsupportedAlgorithm):
        raise ValueError(f"keys[{index}]: is not a valid {jwk.get('kty')} public key") from None
    if isinstance(public_key, RSAPublicKey) and public_key.key_size < RSA_BITS_AT_LEAST:
        raise ValueError(
            f"keys[{index}]: an RSA key of {public_key.key_size} bits is too short; "
            f"{RSA_BITS_AT_LEAST} are needed"
        )
    return VerificationKey(kid, algorithms, public_key)


def _algorithms(jwk: Mapping[str, Any]) -> frozenset[str]:
    """What the key may verify by its type, `use`, `key_ops` and `alg`; nothing where a member is
    not of its type.
    """
    kind, curve = jwk.get("kty"), jwk.get("crv", "")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(kind, str) or not isinstance(curve, str) or not isinstance(operations, list):
        return frozenset()
    if jwk.get("use", "sig") != "sig" or "verify" not in operations:
        return frozenset()
    possible = _ALGORITHMS_OF.get((kind, curve), frozenset())
    return frozenset(name for name in possible if jwk.get("alg", name) == name)
