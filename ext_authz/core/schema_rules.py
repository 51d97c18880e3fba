"""What the models of authorization check across fields, as a cluster's API server can check it.

The words are those of the models' own errors. What CEL can't say within the API server's cost
budget (paths, conditions, templates, networks, time zones, keys of mappings) is left to us: an
object may be stored and then refused, with its status. A test holds that each model with a check of
its own stands here.
"""

from __future__ import annotations

from ext_authz.core.answer_kind import (
    CLAIMS_OF_OURS,
    FORBIDDEN_HEADERS,
    RESERVED_METADATA,
    Denial,
    HeaderValue,
    IdentityToken,
    MetadataValue,
    QueryValue,
    Upstream,
)
from ext_authz.core.issuer_kind import Introspection, KeySource, TokenIssuerSpec
from ext_authz.core.kubernetes_kind import KubernetesAccess
from ext_authz.core.policy_kind import (
    FORBIDDEN_IDENTITY_HEADERS,
    AccessPolicySpec,
    CredentialSource,
    IdentifyMethod,
    Rule,
)
from ext_authz.core.role_kinds import BoundSubject
from meshwarden.core.schema_additions import Additions, exactly_one, none_of, rule, rules

_CHANGED = "'{}' can't be changed"
_HOST = r"'(?i)^(\\*|(\\*\\.)?[a-z0-9_-]+(\\.[a-z0-9_-]+)*|\\[[0-9a-f:.]+\\])$'"
_NO_HOST = "is no host pattern: write a name, '*.' and a name, or '*'; no port"
_ISSUER_URL = r"'^https?://[^/@\\s?#]+(/[^\\s?#]*)?$'"
_DISCOVERS = (
    "(has(self.jwks) && has(self.jwks.discovery))"
    " || (has(self.introspection) && has(self.introspection.discovery))"
)
_WANTED = ("roles", "permissions", "scopes", "groups", "principals")
_ASKS = " || ".join(f"(has(self.{name}) && size(self.{name}) > 0)" for name in _WANTED)
_NAMES_A_RESOURCE = "has(self.resource) && self.resource != ''"
_OF_A_RESOURCE = " || ".join(
    f"(has(self.{name}) && self.{name} != '')"
    for name in ("group", "subresource", "namespace", "name")
)

ADDITIONS: Additions = {
    KeySource: rules(
        rule(
            "[has(self.inline), has(self.file), has(self.url), has(self.discovery), "
            "has(self.development) && self.development].exists_one(given, given)",
            "exactly one of inline, file, url, discovery, development is needed",
        )
    ),
    Introspection: rules(exactly_one("url", "discovery")),
    TokenIssuerSpec: rules(
        rule(
            "has(self.jwks) || has(self.introspection)",
            "at least one of jwks, introspection is needed",
        ),
        rule(
            f"!({_DISCOVERS}) || self.issuer.matches({_ISSUER_URL})",
            "an issuer whose document is to be discovered must be a URL",
        ),
    ),
    BoundSubject: rules(exactly_one("principal", "group")),
    CredentialSource: rules(
        exactly_one("header", "cookie", "query"),
        rule("!has(self.scheme) || has(self.header)", "a scheme goes with a header"),
    ),
    IdentifyMethod: rules(
        exactly_one(
            *("jwt", "introspection", "apiKey", "kubernetesToken", "spiffe", "clientCertificate")
        )
    ),
    KubernetesAccess: rules(
        rule(
            f"({_NAMES_A_RESOURCE}) != has(self.nonResourcePath)",
            "exactly one of resource, nonResourcePath is needed",
        ),
        rule(
            f"!has(self.nonResourcePath) || !({_OF_A_RESOURCE})",
            "a nonResourcePath has no group, subresource, namespace or name",
        ),
        rule(
            "!has(self.userPrefix) || !self.userPrefix.startsWith('system:')",
            "a userPrefix can't begin with 'system:', which is Kubernetes' own",
        ),
    ),
    Rule: rules(
        rule(
            "!has(self.callers) || self.callers != 'anyone'"
            f" || (has(self.effect) && self.effect == 'deny') || !({_ASKS})",
            "a rule for anyone can't ask for roles, permissions, scopes, groups or principals",
        ),
        rule(
            "!has(self.kubernetesAccess) || !has(self.callers) || self.callers != 'anyone'",
            "kubernetesAccess asks about an identified caller, not about anyone",
        ),
    ),
    AccessPolicySpec: {
        **rules(
            rule(
                f"self.hosts.all(host, host.matches({_HOST}))",
                f"a host {_NO_HOST}",
                told=f'"\'" + self.hosts.filter(host, !host.matches({_HOST}))[0] + "\' {_NO_HOST}"',
            ),
            none_of(
                FORBIDDEN_IDENTITY_HEADERS,
                "self.identityHeaders",
                "'{}' can't be an identity header",
                guard="has(self.identityHeaders)",
            ),
        ),
        # The names of a policy's rules are told apart, as its compiler wants it.
        "properties": {
            "rules": {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
        },
    },
    HeaderValue: rules(
        exactly_one("value", "expression"), none_of(FORBIDDEN_HEADERS, "[self.name]", _CHANGED)
    ),
    QueryValue: rules(exactly_one("value", "expression")),
    MetadataValue: rules(
        exactly_one("value", "expression"),
        none_of(RESERVED_METADATA, "[self.name]", "the metadata '{}' is ours"),
    ),
    Upstream: rules(
        none_of(FORBIDDEN_HEADERS, "self.removeHeaders", _CHANGED, guard="has(self.removeHeaders)")
    ),
    Denial: rules(none_of(FORBIDDEN_HEADERS, "self.headers", _CHANGED, guard="has(self.headers)")),
    IdentityToken: rules(
        none_of(FORBIDDEN_HEADERS, "[self.header]", _CHANGED, guard="has(self.header)"),
        none_of(CLAIMS_OF_OURS, "self.claims", "the claim '{}' is ours", guard="has(self.claims)"),
    ),
}
