"""Client certificates: their names, their times, and whether a given authority signed them.

Envoy verifies a client's certificate as its listener is told to; where a policy names authorities
of its own, the chain is verified here, too. Source: RFC 5280.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

ENCODED_CHARACTERS_AT_MOST = 32 << 10
"""Of one certificate; what is longer is not read, and not remembered either."""

_UNREADABLE = (
    *(ValueError, TypeError, OverflowError, UnsupportedAlgorithm, x509.InvalidVersion),
    *(x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
)
"""What `cryptography` raises for a certificate that it can't read: no one class covers them."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says: `uris` and `dns` are its subject alternative names, times are
    seconds since the epoch, `sha256` its fingerprint in hexadecimal.
    """

    subject: str
    uris: tuple[str, ...]
    dns: tuple[str, ...]
    not_before: float
    not_after: float
    sha256: str
    parsed: x509.Certificate


def parse_certificate(encoded: str) -> Certificate | None:
    """The certificate in an URL-encoded PEM, as Envoy sends it; None for what is none."""
    return _parsed(encoded) if len(encoded) <= ENCODED_CHARACTERS_AT_MOST else None


@lru_cache(maxsize=1024)
def _parsed(encoded: str) -> Certificate | None:
    try:
        found = x509.load_pem_x509_certificate(unquote_to_bytes(encoded))
        names = _alternative_names(found)
        return Certificate(
            subject=found.subject.rfc4514_string(),
            uris=tuple(names.get_values_for_type(x509.UniformResourceIdentifier)) if names else (),
            dns=tuple(names.get_values_for_type(x509.DNSName)) if names else (),
            not_before=found.not_valid_before_utc.timestamp(),
            not_after=found.not_valid_after_utc.timestamp(),
            sha256=found.fingerprint(hashes.SHA256()).hex(),
            parsed=found,
        )
    except _UNREADABLE:
        return None


def _alternative_names(found: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


class Authorities:
    """The authorities of a policy; verified certificates are remembered by their fingerprint."""

    def __init__(self, content: bytes) -> None:
        """Raises `ValueError` for what holds no certificate in PEM."""
        self._store = Store(x509.load_pem_x509_certificates(content))
        self._verified: dict[str, bool] = {}

    def signed(self, certificate: Certificate, now: float) -> bool:
        """Whether one of them signed it, for a client, and it is valid now."""
        if not certificate.not_before <= now <= certificate.not_after:
            return False
        known = self._verified.get(certificate.sha256)
        if known is None:
            known = self._verify(certificate, now)
            if len(self._verified) >= 10_000:
                self._verified.clear()
            self._verified[certificate.sha256] = known
        return known

    def _verify(self, certificate: Certificate, now: float) -> bool:
        when = datetime.datetime.fromtimestamp(now, datetime.UTC)
        verifier = PolicyBuilder().store(self._store).time(when).build_client_verifier()
        try:
            verifier.verify(certificate.parsed, [])
        except (VerificationError, ValueError, UnsupportedAlgorithm, InvalidSignature):
            return False
        return True
