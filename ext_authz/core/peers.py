"""Who is calling by the connection: a workload's SPIFFE identity, or a client certificate.

The proxy names its peer in `source.principal` (the first URI name of the certificate, else a DNS
name, else the subject) and, where it is told to, sends the certificate. Behind a trusted proxy the
peer is that proxy, and who called it stands in X-Forwarded-Client-Cert, which is read only then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ext_authz.core.addresses import Network, covers
from ext_authz.core.certificates import Authorities, Certificate, parse_certificate
from ext_authz.core.model import (
    Identified,
    Identity,
    Kind,
    Principal,
    Reason,
    Request,
    Unidentified,
)
from ext_authz.core.spiffe import SpiffeId, parse_spiffe_id
from ext_authz.core.words import is_header_safe
from ext_authz.core.xfcc import HEADER, parse_xfcc

UNTRUSTED = Reason.UNTRUSTED_CERTIFICATE


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    """Proxies that are believed: by address, or by the principal that they show."""

    networks: tuple[Network, ...] = ()
    principals: frozenset[str] = frozenset()

    def cover(self, request: Request) -> bool:
        """Whether the request's direct peer is one of them."""
        if request.source_principal and request.source_principal in self.principals:
            return True
        return covers(self.networks, request.source_address)


@dataclass(frozen=True, slots=True)
class PeerWay:
    """How a method reads the peer. `trust_domains` empty: any certificate, not SPIFFE alone."""

    trust_domains: frozenset[str] = frozenset()
    trusted_proxies: TrustedProxies = TrustedProxies()
    authorities: Authorities | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """What was said of one peer."""

    uris: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    subject: str = ""
    sha256: str = ""
    certificate: Certificate | None = None


def by_peer(request: Request, way: PeerWay, now: float) -> Identity | None:
    """The principal that the connection shows; None where it shows none."""
    shown = _shown(request, way)
    if shown is None or isinstance(shown, Unidentified):
        return shown
    if way.authorities is not None:
        if shown.certificate is None:
            return Unidentified(UNTRUSTED, "the proxy does not send the client's certificate")
        if not way.authorities.signed(shown.certificate, now):
            return Unidentified(UNTRUSTED, "no authority of the policy vouches for the certificate")
    if shown.certificate is not None and now > shown.certificate.not_after:
        return Unidentified(UNTRUSTED, "the certificate has expired")
    return _by_spiffe(shown, way.trust_domains) if way.trust_domains else _by_certificate(shown)


def _shown(request: Request, way: PeerWay) -> Shown | Unidentified | None:
    """What is said of the caller: by a trusted proxy before us, else by the connection."""
    forwarded = request.headers.get(HEADER)
    if forwarded is not None and way.trusted_proxies.cover(request):
        return _forwarded(forwarded)
    if request.source_certificate:
        certificate = parse_certificate(request.source_certificate)
        if certificate is None:
            return Unidentified(UNTRUSTED, "the certificate can't be read")
        return _of(certificate)
    name = request.source_principal
    if not name:
        return None
    if "://" in name:
        return Shown(uris=(name,))
    return Shown(subject=name) if "=" in name else Shown(dns=(name,))


def _of(certificate: Certificate) -> Shown:
    return Shown(
        certificate.uris, certificate.dns, certificate.subject, certificate.sha256, certificate
    )


def _forwarded(header: str) -> Shown | Unidentified | None:
    """What the nearest proxy wrote: the last element."""
    elements = parse_xfcc(header)
    if elements is None:
        return Unidentified(UNTRUSTED, "the forwarded certificate can't be read")
    last = elements[-1]
    if "cert" in last:
        certificate = parse_certificate(last["cert"][0])
        if certificate is None:
            return Unidentified(UNTRUSTED, "the forwarded certificate can't be read")
        return _of(certificate)
    shown = Shown(
        tuple(uri for uri in last.get("uri", ()) if uri),
        tuple(name for name in last.get("dns", ()) if name),
        last.get("subject", [""])[0],
        last.get("hash", [""])[0],
    )
    return shown if shown != Shown() else None


def _by_spiffe(shown: Shown, trust_domains: frozenset[str]) -> Identity:
    """A certificate has exactly one SPIFFE ID (X509-SVID section 2)."""
    if len(shown.uris) != 1:
        return Unidentified(UNTRUSTED, "the certificate has not exactly one URI name")
    found = parse_spiffe_id(shown.uris[0])
    if found is None:
        return Unidentified(UNTRUSTED, "the certificate's URI name is no SPIFFE ID")
    if found.trust_domain not in trust_domains:
        return Unidentified(UNTRUSTED, "the certificate is of another trust domain")
    return Identified(Principal(Kind.SPIFFE, found.text, claims=_spiffe_claims(found)))


def _spiffe_claims(found: SpiffeId) -> Mapping[str, Any]:
    return {"trust_domain": found.trust_domain, "path": found.path}


def _by_certificate(shown: Shown) -> Identity:
    """The first DNS name, else the first URI name, else the subject."""
    subject = next((name for name in (*shown.dns, *shown.uris, shown.subject) if name), "")
    if not subject or not is_header_safe(subject):
        return Unidentified(UNTRUSTED, "the certificate has no name that a header can carry")
    claims = {
        "dns": list(shown.dns),
        "uris": list(shown.uris),
        "subject": shown.subject,
        "sha256": shown.sha256,
    }
    return Identified(Principal(Kind.CERTIFICATE, subject, claims=claims))
