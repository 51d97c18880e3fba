"""Where the authorizer and the limits are asked: the ingress gateway, and sidecars that say so.

At the gateway for every host, because Istio compares a rule's hosts as they are written and the
authorizer as they are meant (`shop.example.com.`, a port): a rule about hosts would be a way
around. Hosts that need no authorizer are named instead (`unguarded_hosts`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from meshwarden.adapters.istio import envoy_filters
from meshwarden.adapters.istio.descriptors import rate_limits
from meshwarden.adapters.istio.facts import PolicyFacts
from meshwarden.adapters.istio.names import (
    AT_SIDECAR,
    AUTHORIZE_LABEL,
    FROM_GATEWAY,
    GATEWAY,
    IDENTITY_LABEL,
    LIMIT_LABEL,
    PROVIDER,
    SIDECAR_INBOUND,
    document,
)
from meshwarden.adapters.istio.options import IstioOptions
from meshwarden.core.faults import Misconfigured, Problem

Documents = list[dict[str, Any]]
RULES_AT_MOST = 512
"""Of one AuthorizationPolicy; source: its CRD."""


def at_gateway(options: IstioOptions, facts: PolicyFacts) -> Documents:
    """For the Pods with the gateway's labels, in any namespace."""
    selected = options.gateway_labels
    return [
        authorization_policy(
            "meshwarden-gateway",
            options.root_namespace,
            rules=gateway_rules(options),
            selected=selected,
        ),
        *gateway_filters(
            "meshwarden-gateway",
            options,
            facts,
            namespace=options.root_namespace,
            selected=selected,
        ),
    ]


def gateway_filters(
    name: str,
    options: IstioOptions,
    facts: PolicyFacts,
    *,
    namespace: str,
    **where: Mapping[str, str],
) -> Documents:
    """A gateway's EnvoyFilters. `where`: `selected` or `target` of `envoy_filter`."""
    return [
        envoy_filters.envoy_filter(
            f"{name}-accepts",
            [envoy_filters.edge_patch(options)],
            namespace=namespace,
            priority=envoy_filters.MERGED,
            **where,
        ),
        *_filters(name, options, facts, context=GATEWAY, namespace=namespace, **where),
    ]


def at_sidecars(options: IstioOptions, facts: PolicyFacts) -> Documents:
    """For workloads whose Pods have a label of ours, in any namespace; and for all of
    `guarded_namespaces`.
    """
    result = [
        authorization_policy(
            "meshwarden-sidecar",
            options.root_namespace,
            rules=[{}],
            selected={AUTHORIZE_LABEL: AT_SIDECAR},
        ),
        *_authorize_filters(
            "meshwarden-sidecar",
            options,
            facts,
            context=SIDECAR_INBOUND,
            namespace=options.root_namespace,
            selected={AUTHORIZE_LABEL: AT_SIDECAR},
        ),
        *_limit_filters(
            "meshwarden-sidecar",
            options,
            facts,
            context=SIDECAR_INBOUND,
            namespace=options.root_namespace,
            selected={LIMIT_LABEL: AT_SIDECAR},
        ),
        identity_from_gateway(options, facts),
    ]
    for namespace in options.guarded_namespaces:
        result.append(authorization_policy("meshwarden-sidecar", namespace, rules=[{}]))
        result += _filters(
            "meshwarden-sidecar", options, facts, context=SIDECAR_INBOUND, namespace=namespace
        )
    return result


def authorization_policy(
    name: str,
    namespace: str,
    *,
    rules: list[dict[str, Any]],
    selected: Mapping[str, str] | None = None,
    targets: list[Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """CUSTOM by our provider: for the Pods with the labels `selected`, for `targets` (a Gateway, a
    waypoint's Service), or for the whole namespace. It is decided before any token is looked at by
    Istio and before DENY and ALLOW policies, which hold besides.
    """
    spec: dict[str, Any] = {"action": "CUSTOM", "provider": {"name": PROVIDER}, "rules": rules}
    if selected:
        spec["selector"] = {"matchLabels": dict(selected)}
    if targets:
        spec["targetRefs"] = [dict(target) for target in targets]
    return document(
        "security.istio.io/v1", "AuthorizationPolicy", name, namespace=namespace, spec=spec
    )


def identity_from_gateway(options: IstioOptions, facts: PolicyFacts) -> dict[str, Any]:
    """For workloads behind the gateway that believe its identity headers: from anybody else in the
    mesh, a request with one of them is denied.

    Istio names headers one by one, so each is named with every one of its dashes as a dash and as
    an underscore (WSGI and CGI read all of them alike); a workload whose server takes other
    spellings asks at its own sidecar. Raises `Misconfigured` where they are too many.
    """
    counts = {name: 2 ** name.count("-") for name in facts.identity_headers}
    if sum(counts.values()) > RULES_AT_MOST:
        longest = max(counts, key=counts.__getitem__)
        what = f"identity headers have more than {RULES_AT_MOST} spellings, of which Istio takes no"
        hint = f"use fewer headers, or names with fewer dashes than '{longest}'"
        raise Misconfigured([Problem("", 0, f"{what} more in a policy", hint)])
    spellings = [
        "".join(letters)
        for name in facts.identity_headers
        for letters in product(*("-_" if letter == "-" else letter for letter in name))
    ]
    rules = [
        {
            "from": [{"source": {"notPrincipals": options.gateway_principals}}],
            "when": [{"key": f"request.headers[{spelling}]", "values": ["*"]}],
        }
        for spelling in spellings
    ]
    return document(
        "security.istio.io/v1",
        "AuthorizationPolicy",
        "meshwarden-identity-from-gateway",
        namespace=options.root_namespace,
        spec={
            "selector": {"matchLabels": {IDENTITY_LABEL: FROM_GATEWAY}},
            "action": "DENY",
            "rules": rules,
        },
    )


def gateway_rules(options: IstioOptions) -> list[dict[str, Any]]:
    """Every request, but for hosts that are named to need no authorizer: with any port, too."""
    if not options.unguarded_hosts:
        return [{}]
    named = [text for host in options.unguarded_hosts for text in (host, f"{host}:*")]
    return [{"to": [{"operation": {"notHosts": named}}]}]


def _filters(
    name: str, options: IstioOptions, facts: PolicyFacts, **where: Any
) -> Iterator[dict[str, Any]]:
    yield from _authorize_filters(name, options, facts, **where)
    yield from _limit_filters(name, options, facts, **where)


def _authorize_filters(
    name: str, options: IstioOptions, facts: PolicyFacts, *, context: str, **where: Any
) -> Iterator[dict[str, Any]]:
    yield envoy_filters.envoy_filter(
        f"{name}-identity-headers",
        [envoy_filters.removal_patch(options, facts, context)],
        priority=envoy_filters.FIRST,
        **where,
    )
    yield envoy_filters.envoy_filter(
        f"{name}-ext-authz",
        [
            envoy_filters.ext_authz_patch(options, facts, context),
            envoy_filters.withheld_patch(options, context),
            envoy_filters.at_once_patch(options, context),
        ],
        priority=envoy_filters.MERGED,
        **where,
    )


def _limit_filters(
    name: str, options: IstioOptions, facts: PolicyFacts, *, context: str, **where: Any
) -> Iterator[dict[str, Any]]:
    """Nothing where the folder has no limit."""
    limits = rate_limits(facts, options.descriptor_headers)
    if limits:
        yield envoy_filters.envoy_filter(
            f"{name}-ratelimit",
            [
                envoy_filters.ratelimit_patch(options, facts, context),
                envoy_filters.limits_patch(options, limits, context),
            ],
            priority=envoy_filters.LAST,
            **where,
        )
