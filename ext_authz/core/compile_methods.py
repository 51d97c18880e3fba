"""The ways to identify that a policy names, with everything that they refer to resolved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ext_authz.core.addresses import parse_networks
from ext_authz.core.certificates import Authorities
from ext_authz.core.peers import PeerWay, TrustedProxies
from ext_authz.core.place import Place
from ext_authz.core.policies import Issuer, Method, MethodKind, OnUnavailable, Source
from ext_authz.core.policy_kind import (
    ClientCertificateMethod,
    CredentialSource,
    IdentifyMethod,
    SpiffeMethod,
)
from meshwarden.core.documents import hint_for


def compile_methods(ways: Sequence[IdentifyMethod], place: Place) -> tuple[Method, ...]:
    """The methods of `ways`, which stand at `place`."""
    methods = tuple(_method(way, place.at(index)) for index, way in enumerate(ways))
    seen: list[Source] = []
    for index, method in enumerate(methods):
        for source in method.sources:
            if any(_overlap(source, other) for other in seen):
                what = f"the {source.place} '{source.name}' is read by two ways to identify"
                hint = "let the first have onInvalid: skip, and the same scheme"
                place.at(index).refuse(what, hint)
            if not method.skips_invalid:
                seen.append(source)
            elif not any(source in other.sources for other in methods[index + 1 :]):
                what = f"nothing reads the {source.place} '{source.name}' after this"
                place.at(index).refuse(what, "onInvalid: deny")
    return methods


def challenges(methods: Iterable[Method], realm: str) -> tuple[str, ...]:
    """A WWW-Authenticate challenge for each way to identify, each scheme once."""
    schemes: dict[str, None] = {}
    for method in methods:
        if method.sources:
            schemes["ApiKey" if method.kind is MethodKind.API_KEY else "Bearer"] = None
    return tuple(f'{scheme} realm="{realm}"' for scheme in schemes)


def _method(way: IdentifyMethod, place: Place) -> Method:
    common: dict[str, Any] = {
        "skips_invalid": way.onInvalid == "skip",
        "on_unavailable": OnUnavailable(way.onUnavailable),
    }
    if way.jwt is not None:
        issuers = _issuers(way.jwt.issuers, "jwks", place.at("jwt", "issuers"))
        return Method(MethodKind.JWT, _sources(way.jwt.sources), issuers, **common)
    if way.introspection is not None:
        asked = way.introspection
        issuers = _issuers([asked.issuer], "introspection", place.at("introspection", "issuer"))
        return Method(MethodKind.INTROSPECTION, _sources(asked.sources), issuers, **common)
    if way.kubernetesToken is not None:
        reviewed = way.kubernetesToken
        audiences = tuple(sorted(set(reviewed.audiences)))
        sources = _sources(reviewed.sources)
        return Method(MethodKind.KUBERNETES, sources, audiences=audiences, **common)
    for kind, peer in (
        (MethodKind.SPIFFE, way.spiffe),
        (MethodKind.CERTIFICATE, way.clientCertificate),
    ):
        if peer is not None:
            return Method(kind, (), peer=_peer(peer, place.at(kind.value)), **common)
    given = way.apiKey.sources if way.apiKey else []
    return Method(MethodKind.API_KEY, _sources(given), **common)


def _issuers(names: Iterable[str], part: str, place: Place) -> dict[str, Issuer]:
    """The issuers of these names, by the `iss` of their tokens; each must have `part`."""
    found: dict[str, Issuer] = {}
    for index, name in enumerate(names):
        known = place.scope.names("TokenIssuer")
        issuer = place.scope.issuer(name)
        here = place.at(index)
        if name not in known:
            hint = hint_for(name, known) if known else "define it"
            here.refuse(f"there is no TokenIssuer '{name}'", hint)
        elif issuer is None:
            continue  # It has faults of its own, which are told there.
        elif getattr(issuer.spec, part) is None:
            here.refuse(f"TokenIssuer '{name}' has no {part}")
        elif issuer.spec.issuer in found:
            here.refuse(f"TokenIssuer '{name}' has the same issuer as another one here")
        else:
            found[issuer.spec.issuer] = issuer
    return found


def _peer(peer: SpiffeMethod | ClientCertificateMethod, place: Place) -> PeerWay:
    proxies = peer.forwarded.trustedProxies if peer.forwarded else []
    networks = parse_networks(text for text in proxies if not _is_principal(text))
    principals = frozenset(filter(_is_principal, proxies))
    domains = peer.trustDomains if isinstance(peer, SpiffeMethod) else []
    authorities = None
    if peer.authoritiesFile is not None:
        try:
            authorities = Authorities(place.content(peer.authoritiesFile))
        except ValueError:
            what = f"the file '{peer.authoritiesFile}' holds no certificate in PEM"
            place.at("authoritiesFile").refuse(what)
    return PeerWay(frozenset(domains), TrustedProxies(networks, principals), authorities)


def _is_principal(text: str) -> bool:
    return "://" in text or "=" in text


def _sources(sources: Iterable[CredentialSource]) -> tuple[Source, ...]:
    return tuple(map(_source, sources))


def _source(source: CredentialSource) -> Source:
    places: tuple[tuple[str, str | None], ...] = (
        ("header", source.header),
        ("cookie", source.cookie),
        ("query", source.query),
    )
    place, name = next((place, name) for place, name in places if name is not None)
    return Source(place, name, (source.scheme or "").lower())


def _overlap(source: Source, other: Source) -> bool:
    """Whether one credential can be read from both, so that it would count as two."""
    is_same_place = (source.place, source.name) == (other.place, other.name)
    return is_same_place and (source.scheme == other.scheme or "" in (source.scheme, other.scheme))
