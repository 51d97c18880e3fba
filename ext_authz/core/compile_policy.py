"""One AccessPolicy, with everything that it refers to resolved."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from datetime import time
from typing import Any
from zoneinfo import ZoneInfo

from ext_authz.core.addresses import parse_networks
from ext_authz.core.certificates import Authorities
from ext_authz.core.conditions import Condition
from ext_authz.core.paths import PathPattern, parse_pattern
from ext_authz.core.peers import PeerWay, TrustedProxies
from ext_authz.core.policies import CompiledRule, Method, MethodKind, OnUnavailable, Policy, Source
from ext_authz.core.policy_kind import (
    AccessPolicy,
    ClientCertificateMethod,
    CredentialSource,
    IdentifyMethod,
    IntrospectionMethod,
    Rule,
    SpiffeMethod,
    TimeOfWeek,
)
from ext_authz.core.references import References
from ext_authz.core.resources import Resources
from ext_authz.core.time_windows import DAYS, TimeWindow
from meshwarden.core.documents import Document, Path

_PATH_VARIABLE = re.compile(r"""request\.path_variables(?:\.(\w+)|\[\s*["'](\w+)["']\s*\])""")


class PolicyCompiler:
    """Notes in `resources` what is wrong."""

    def __init__(
        self, resources: Resources, references: References, files: Mapping[str, bytes]
    ) -> None:
        self._resources = resources
        self._files = files
        self._references = references

    def policy(self, document: Document, resource: AccessPolicy) -> Policy:
        spec = resource.spec
        methods = tuple(
            self._method(document, index, method) for index, method in enumerate(spec.identify)
        )
        seen: list[Source] = []
        for index, method in enumerate(methods):
            for source in method.sources:
                if any(_overlap(source, other) for other in seen):
                    what = f"the {source.place} '{source.name}' is read by two ways to identify"
                    hint = "let the first have onInvalid: skip, and the same scheme"
                    self._resources.refuse(document, what, ("spec", "identify", index), hint)
                if source.place == "header" and source.name in spec.identityHeaders:
                    what = f"the header '{source.name}' brings the credential and the identity"
                    self._resources.refuse(document, what, ("spec", "identify", index))
                if not method.skips_invalid:
                    seen.append(source)
                elif not any(source in other.sources for other in methods[index + 1 :]):
                    what = f"nothing reads the {source.place} '{source.name}' after this"
                    self._resources.refuse(document, what, ("spec", "identify", index), "deny")
        rules = [
            (rule.effect, self._rule(document, index, rule))
            for index, rule in enumerate(spec.rules)
        ]
        return Policy(
            name=resource.name,
            methods=methods,
            identity_headers=tuple(spec.identityHeaders.items()),
            deny_rules=tuple(rule for effect, rule in rules if effect == "deny"),
            allow_rules=tuple(rule for effect, rule in rules if effect == "allow"),
            challenges=_challenges(methods, spec.realm),
            forwards_credential=spec.forwardCredential,
            trusted_proxies=parse_networks(spec.trustedProxies),
        )

    def _method(self, document: Document, index: int, method: IdentifyMethod) -> Method:
        where: Path = ("spec", "identify", index)
        common: dict[str, Any] = {
            "skips_invalid": method.onInvalid == "skip",
            "on_unavailable": OnUnavailable(method.onUnavailable),
        }
        if method.jwt is not None:
            path: Path = (*where, "jwt", "issuers")
            for position, name in enumerate(method.jwt.issuers):
                self._references.issuer_with(document, "jwks", name, (*path, position))
            sources, issuers = method.jwt.sources, frozenset(method.jwt.issuers)
            return Method(MethodKind.JWT, tuple(map(_source, sources)), issuers, **common)
        if method.introspection is not None:
            return self._introspection(document, index, method.introspection, common)
        for kind, peer in (
            (MethodKind.SPIFFE, method.spiffe),
            (MethodKind.CERTIFICATE, method.clientCertificate),
        ):
            if peer is not None:
                way = self._peer(document, (*where, kind.value), peer)
                return Method(kind, (), peer=way, **common)
        sources = method.apiKey.sources if method.apiKey else []
        return Method(MethodKind.API_KEY, tuple(map(_source, sources)), **common)

    def _introspection(
        self, document: Document, index: int, asked: IntrospectionMethod, common: dict[str, Any]
    ) -> Method:
        path: Path = ("spec", "identify", index, "introspection", "issuer")
        self._references.issuer_with(document, "introspection", asked.issuer, path)
        sources = tuple(map(_source, asked.sources))
        return Method(MethodKind.INTROSPECTION, sources, frozenset({asked.issuer}), **common)

    def _peer(
        self, document: Document, path: Path, peer: SpiffeMethod | ClientCertificateMethod
    ) -> PeerWay:
        proxies = peer.forwarded.trustedProxies if peer.forwarded else []
        networks = parse_networks(text for text in proxies if not _is_principal(text))
        principals = frozenset(filter(_is_principal, proxies))
        domains = peer.trustDomains if isinstance(peer, SpiffeMethod) else []
        authorities = None
        if peer.authoritiesFile is not None:
            content = self._files.get(posixpath.normpath(peer.authoritiesFile), b"")
            try:
                authorities = Authorities(content)
            except ValueError:
                what = f"the file '{peer.authoritiesFile}' holds no certificate in PEM"
                self._resources.refuse(document, what, (*path, "authoritiesFile"))
        return PeerWay(frozenset(domains), TrustedProxies(networks, principals), authorities)

    def _rule(self, document: Document, index: int, rule: Rule) -> CompiledRule:
        path: Path = ("spec", "rules", index)
        self._references.known(document, "AccessRole", rule.roles, (*path, "roles"))
        self._references.granted_permissions(document, rule.permissions, (*path, "permissions"))
        patterns = tuple(parse_pattern(text) for text in rule.paths)
        condition = self._condition(document, (*path, "when"), rule.when, patterns)
        default = "identified" if rule.effect == "allow" else "anyone"
        return CompiledRule(
            name=rule.name,
            is_for_anyone=(rule.callers or default) == "anyone",
            methods=frozenset(rule.methods),
            is_denial=rule.effect == "deny",
            patterns=patterns,
            roles=frozenset(rule.roles),
            permissions=frozenset(rule.permissions),
            scopes=frozenset(rule.scopes),
            groups=frozenset(rule.groups),
            principals=frozenset(rule.principals),
            headers=tuple((name, frozenset(values)) for name, values in rule.headers.items()),
            query=tuple((name, frozenset(values)) for name, values in rule.query.items()),
            grpc=tuple(_grpc_method(text) for text in rule.grpc),
            client_networks=parse_networks(rule.clientAddresses),
            times=tuple(map(_time_window, rule.times)),
            condition=condition,
        )

    def _condition(
        self, document: Document, path: Path, text: str | None, patterns: tuple[PathPattern, ...]
    ) -> Condition | None:
        if text is None:
            return None
        try:
            condition = Condition(text)
        except ValueError as error:
            self._resources.refuse(document, f"when: {error}", path)
            return None
        for name in sorted({a or b for a, b in _PATH_VARIABLE.findall(text)}):
            if not patterns or any(name not in dict(p.names).values() for p in patterns):
                what = f"when: not every path of the rule has a segment '{{{name}}}'"
                self._resources.refuse(document, what, path)
        return condition


def _grpc_method(text: str) -> tuple[str, str]:
    service, _, method = text.partition("/")
    return service, "" if method == "*" else method


def _time_window(times: TimeOfWeek) -> TimeWindow:
    return TimeWindow(
        days=frozenset(DAYS.index(day) for day in times.days),
        begins=time.fromisoformat(times.begins),
        ends=time.fromisoformat(times.ends),
        zone=ZoneInfo(times.timeZone),
    )


def _is_principal(text: str) -> bool:
    return "://" in text or "=" in text


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


def _challenges(methods: tuple[Method, ...], realm: str) -> tuple[str, ...]:
    """A WWW-Authenticate challenge for each way to identify, each scheme once."""
    schemes: dict[str, None] = {}
    for method in methods:
        if method.sources:
            schemes["ApiKey" if method.kind is MethodKind.API_KEY else "Bearer"] = None
    return tuple(f'{scheme} realm="{realm}"' for scheme in schemes)
