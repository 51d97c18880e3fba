"""How our own services are reached: mTLS, by whom, how often at once, and what is told of it."""

from __future__ import annotations

from typing import Any

from meshwarden.adapters.istio.names import (
    EXT_AUTHZ,
    NAME_LABEL,
    PORTS,
    RATELIMIT,
    TRACING_PROVIDER,
    document,
)
from meshwarden.adapters.istio.options import IstioOptions

Documents = list[dict[str, Any]]
MERGED_METRICS_PORT, SIDECAR_HEALTH_PORT = 15020, 15021
SERVICES = (EXT_AUTHZ, RATELIMIT)


def own_traffic(options: IstioOptions) -> Documents:
    """Everything of that, for both services."""
    return [
        document(
            "security.istio.io/v1",
            "PeerAuthentication",
            "meshwarden",
            namespace=options.namespace,
            spec={"mtls": {"mode": "STRICT"}},
        ),
        *(_callers(options, name) for name in SERVICES),
        *(_destination_rule(options, name) for name in SERVICES),
        *(_network_policy(options, name) for name in SERVICES),
        *_telemetry(options, "meshwarden", options.namespace, {}),
        *_telemetry(
            options, "meshwarden-gateway", options.gateway_namespace, options.gateway_labels
        ),
    ]


def _callers(options: IstioOptions, name: str) -> dict[str, Any]:
    """Who may ask: workloads of the mesh, of `caller_namespaces` where they are named.

    Whoever may ask the rate-limit service can use up anybody's limit, and whoever may ask the
    authorizer can try credentials out: name the namespaces. Ports alone, and no methods, so that
    ztunnel, which knows no HTTP, can enforce it as well.
    """
    ports = PORTS[name]
    source: dict[str, Any] = {"principals": ["*"]}
    if options.caller_namespaces:
        source = {"namespaces": list(options.callers)}
    return document(
        "security.istio.io/v1",
        "AuthorizationPolicy",
        name,
        namespace=options.namespace,
        name_label=name,
        spec={
            "selector": {"matchLabels": {NAME_LABEL: name}},
            "action": "ALLOW",
            "rules": [
                {
                    "from": [{"source": source}],
                    "to": [{"operation": {"ports": [str(ports.grpc), str(ports.streaming)]}}],
                },
                {"to": [{"operation": {"ports": [str(ports.http)]}}]},
            ],
        },
    )


def _destination_rule(options: IstioOptions, name: str) -> dict[str, Any]:
    """A replica that fails three times in a row rests; half of them at most.

    Where the edge proxy asks each replica for its health (`meshwarden.adapters.envoy.clusters`),
    Istio has requests alone to find a dead one by; so it takes fewer of them, and a shorter rest.
    """
    return document(
        "networking.istio.io/v1",
        "DestinationRule",
        name,
        namespace=options.namespace,
        name_label=name,
        spec={
            "host": options.host(name),
            "trafficPolicy": {
                "tls": {"mode": "ISTIO_MUTUAL"},
                "connectionPool": {
                    "tcp": {
                        "maxConnections": 1024,
                        "connectTimeout": "0.25s",
                        "tcpKeepalive": {"time": "10s", "interval": "2s", "probes": 3},
                    },
                    "http": {
                        "http1MaxPendingRequests": 4096,
                        "http2MaxRequests": 4096,
                        "idleTimeout": "3600s",
                    },
                },
                "outlierDetection": {
                    "consecutiveGatewayErrors": 3,
                    "consecutive5xxErrors": 0,
                    "interval": "0.5s",
                    "baseEjectionTime": "1s",
                    "maxEjectionPercent": 50,
                },
            },
        },
    )


def _network_policy(options: IstioOptions, name: str) -> dict[str, Any]:
    """Beneath mTLS: which namespaces' packets arrive at all."""
    ports = PORTS[name]
    asked = {"ports": [_tcp(ports.grpc), _tcp(ports.streaming)], "from": [_namespaces(options)]}
    watched = {"ports": [_tcp(ports.http), _tcp(MERGED_METRICS_PORT), _tcp(SIDECAR_HEALTH_PORT)]}
    return document(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        name,
        namespace=options.namespace,
        name_label=name,
        spec={
            "podSelector": {"matchLabels": {NAME_LABEL: name}},
            "policyTypes": ["Ingress"],
            "ingress": [asked, watched],
        },
    )


def _namespaces(options: IstioOptions) -> dict[str, Any]:
    if not options.caller_namespaces:
        return {"namespaceSelector": {}}
    return {
        "namespaceSelector": {
            "matchExpressions": [
                {
                    "key": "kubernetes.io/metadata.name",
                    "operator": "In",
                    "values": list(options.callers),
                }
            ]
        }
    }


def _tcp(port: int) -> dict[str, Any]:
    return {"protocol": "TCP", "port": port}


def _telemetry(
    options: IstioOptions, name: str, namespace: str, selected: dict[str, str]
) -> Documents:
    """Traces to the provider of `meshConfig`, if any; the mesh's own Telemetry stays as it is."""
    if not options.otlp_service:
        return []
    spec: dict[str, Any] = {
        "tracing": [
            {
                "providers": [{"name": TRACING_PROVIDER}],
                "randomSamplingPercentage": options.trace_percent,
            }
        ]
    }
    if selected:
        spec = {"selector": {"matchLabels": dict(selected)}, **spec}
    return [document("telemetry.istio.io/v1", "Telemetry", name, namespace=namespace, spec=spec)]
