"""Gateways for the hosts of the policies: Istio's own kind, and the Gateway API's.

A host that no policy names is not served at all. Where requests go behind the gateway is the
workload owners' business: a VirtualService, or an HTTPRoute.
"""

from __future__ import annotations

from typing import Any

from meshwarden.adapters.istio.enforcement import (
    authorization_policy,
    gateway_filters,
    gateway_rules,
)
from meshwarden.adapters.istio.facts import PolicyFacts
from meshwarden.adapters.istio.names import document
from meshwarden.adapters.istio.options import IstioOptions

Documents = list[dict[str, Any]]

GATEWAY = "meshwarden"
GATEWAY_API = "gateway.networking.k8s.io"
ROUTES_LABEL = "meshwarden.io/routes"
LISTENERS_AT_MOST = 64
"""Of one Gateway (Gateway API 1.6)."""


def served_hosts(facts: PolicyFacts) -> list[str]:
    """The policies' hosts that somebody outside can ask for: no Service's name in the cluster."""
    return [
        host
        for host in facts.hosts
        if host == "*" or ("." in host and not host.endswith(".svc") and ".svc." not in host)
    ]


def ingress(options: IstioOptions, facts: PolicyFacts) -> Documents:
    """Istio's Gateway, for the Pods with the gateway's labels."""
    hosts = served_hosts(facts)
    if not hosts:
        return []
    plain: dict[str, Any] = {
        "port": {"number": 80, "name": "http", "protocol": "HTTP"},
        "hosts": hosts,
    }
    servers = [plain]
    if options.gateway_tls_secret:
        plain["tls"] = {"httpsRedirect": True}
        servers.append(
            {
                "port": {"number": 443, "name": "https", "protocol": "HTTPS"},
                "hosts": hosts,
                "tls": {
                    "mode": "SIMPLE",
                    "credentialName": options.gateway_tls_secret,
                    "minProtocolVersion": "TLSV1_2",
                },
            }
        )
    return [
        document(
            "networking.istio.io/v1",
            "Gateway",
            GATEWAY,
            namespace=options.gateway_namespace,
            spec={"selector": options.gateway_labels, "servers": servers},
        )
    ]


def gateway_api(options: IstioOptions, facts: PolicyFacts) -> Documents:
    """The same in the Gateway API: a Gateway that istiod deploys, and everything that is enforced
    there, attached to it by name. Routes may come from namespaces with the label `ROUTES_LABEL`,
    lest any namespace take a host of another's.
    """
    hosts = served_hosts(facts)[:LISTENERS_AT_MOST]
    if not hosts:
        return []
    target = {"group": GATEWAY_API, "kind": "Gateway", "name": GATEWAY}
    namespace = options.gateway_namespace
    return [
        document(
            f"{GATEWAY_API}/v1",
            "Gateway",
            GATEWAY,
            namespace=namespace,
            spec={
                "gatewayClassName": "istio",
                "listeners": [_listener(options, index, host) for index, host in enumerate(hosts)],
            },
        ),
        authorization_policy(
            "meshwarden-gateway-api", namespace, rules=gateway_rules(options), targets=[target]
        ),
        *gateway_filters(
            "meshwarden-gateway-api", options, facts, namespace=namespace, target=target
        ),
    ]


def _listener(options: IstioOptions, index: int, host: str) -> dict[str, Any]:
    secret = options.gateway_tls_secret
    result: dict[str, Any] = {
        "name": f"{'https' if secret else 'http'}-{index}",
        "port": 443 if secret else 80,
        "protocol": "HTTPS" if secret else "HTTP",
    }
    if host != "*":
        result["hostname"] = host
    if secret:
        result["tls"] = {"mode": "Terminate", "certificateRefs": [{"name": secret}]}
    result["allowedRoutes"] = {
        "namespaces": {
            "from": "Selector",
            "selector": {"matchLabels": {ROUTES_LABEL: "allowed"}},
        }
    }
    return result
