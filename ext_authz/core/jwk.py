"""Writing keys of our own as JSON Web Keys (RFC 7517, RFC 7518 section 6.2)."""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

PRIVATE_MEMBERS = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")
SIGNS_FROM = "signs_from"
"""A member of ours: from when on a key signs, in seconds since the epoch."""


def public_jwk(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """A P-256 key that verifies signatures; its kid is its thumbprint."""
    numbers = key.public_numbers()
    x, y = (base64url(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
    point = {"crv": "P-256", "kty": "EC", "x": x, "y": y}
    return {**point, "kid": thumbprint(point), "use": "sig", "alg": "ES256"}


def private_jwk(key: ec.EllipticCurvePrivateKey, signs_from: float) -> dict[str, Any]:
    """A P-256 key that signs."""
    secret = key.private_numbers().private_value.to_bytes(32, "big")
    return {**public_jwk(key.public_key()), "d": base64url(secret), SIGNS_FROM: signs_from}


def thumbprint(members: Mapping[str, str]) -> str:
    """The thumbprint of a key's required members (RFC 7638)."""
    canonical = json.dumps(dict(members), separators=(",", ":"), sort_keys=True)
    return base64url(hashlib.sha256(canonical.encode()).digest())


def base64url(content: bytes) -> str:
    """Without padding (RFC 7515 section 2)."""
    return urlsafe_b64encode(content).rstrip(b"=").decode()
