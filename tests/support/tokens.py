"""Makers of signing keys, JWKS and tokens, right ones and every kind of wrong one.

Signs with `cryptography` alone: what is refused was not made by the library that refuses it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

NOW = 1_800_000_000.0
ISSUER = "https://issuer.example.com"
AUDIENCE = "orders"


def base64url(content: bytes) -> str:
    """RFC 7515 section 2: no padding."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _number(value: int, length: int = 0) -> str:
    return base64url(value.to_bytes(length or (value.bit_length() + 7) // 8, "big"))


@dataclass(frozen=True)
class Signer:
    """A private key, its algorithm and its `kid`."""

    kid: str
    algorithm: str
    private_key: Any

    def jwk(self, **changes: Any) -> dict[str, Any]:
        """The public key as a JWK; a member changed to None is left out."""
        public, numbers = self.private_key.public_key(), None
        if isinstance(public, rsa.RSAPublicKey):
            numbers = public.public_numbers()
            key = {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)}
        elif isinstance(public, ec.EllipticCurvePublicKey):
            point = public.public_numbers()
            x, y = _number(point.x, 32), _number(point.y, 32)
            key = {"kty": "EC", "crv": "P-256", "x": x, "y": y}
        else:
            key = {"kty": "OKP", "crv": "Ed25519", "x": base64url(public.public_bytes_raw())}
        members = {**key, "kid": self.kid, **changes}
        return {name: value for name, value in members.items() if value is not None}

    def private_jwk(self) -> dict[str, Any]:
        """The private key as a JWK (RFC 7518 section 6, RFC 8037 section 2), for another signer."""
        key, secret = self.private_key, {}
        if isinstance(key, rsa.RSAPrivateKey):
            numbers = key.private_numbers()
            exponents = {"d": numbers.d, "dp": numbers.dmp1, "dq": numbers.dmq1}
            factors = {"p": numbers.p, "q": numbers.q, "qi": numbers.iqmp}
            secret = {name: _number(value) for name, value in {**exponents, **factors}.items()}
        elif isinstance(key, ec.EllipticCurvePrivateKey):
            secret = {"d": _number(key.private_numbers().private_value, 32)}
        else:
            secret = {"d": base64url(key.private_bytes_raw())}
        return self.jwk(alg=self.algorithm, use="sig", **secret)

    def sign(self, content: bytes) -> bytes:
        """The JWS signature of `content` (RFC 7518 section 3, RFC 8037 section 3.1)."""
        if self.algorithm == "ES256":
            der = self.private_key.sign(content, ec.ECDSA(hashes.SHA256()))
            return b"".join(part.to_bytes(32, "big") for part in decode_dss_signature(der))
        if self.algorithm == "EdDSA":
            return bytes(self.private_key.sign(content))
        if self.algorithm == "PS256":
            scheme: Any = padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)
        else:
            scheme = padding.PKCS1v15()
        return bytes(self.private_key.sign(content, scheme, hashes.SHA256()))

    def compact(self, header: Any, payload: Any) -> str:
        """A compact JWS; parts that are bytes are taken as they are, others are written as JSON."""
        parts = [
            base64url(part if isinstance(part, bytes) else json.dumps(part).encode())
            for part in (header, payload)
        ]
        signing_input = ".".join(parts)
        return f"{signing_input}.{base64url(self.sign(signing_input.encode()))}"

    def token(self, payload: Any = None, **header: Any) -> str:
        """A right token of these claims; `header` adds members, None leaves one out."""
        members = {"alg": self.algorithm, "kid": self.kid, **header}
        kept = {name: value for name, value in members.items() if value is not None}
        return self.compact(kept, claims() if payload is None else payload)


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a right token at `NOW`; a claim changed to None is left out."""
    right = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "rita",
        "iat": NOW - 10,
        "exp": NOW + 3600,
        **changes,
    }
    return {name: value for name, value in right.items() if value is not None}


@cache
def ec_signer(kid: str = "ec") -> Signer:
    return Signer(kid, "ES256", ec.generate_private_key(ec.SECP256R1()))


@cache
def ed_signer(kid: str = "ed") -> Signer:
    return Signer(kid, "EdDSA", ed25519.Ed25519PrivateKey.generate())


@cache
def rsa_signer(kid: str = "rsa", algorithm: str = "RS256", bits: int = 2048) -> Signer:
    return Signer(kid, algorithm, rsa.generate_private_key(public_exponent=65537, key_size=bits))


def jwks(*keys: Signer | Mapping[str, Any]) -> dict[str, Any]:
    """A JWKS of signers' public keys and of ready JWKs."""
    return {"keys": [key.jwk() if isinstance(key, Signer) else dict(key) for key in keys]}
