"""Istio's own configuration: what can stand in `meshConfig` alone.

The same document as Helm values of the chart `istiod`, and as an IstioOperator for `istioctl
install`. Read by istiod; a change is taken without a restart.
"""

from __future__ import annotations

from typing import Any

from meshwarden.adapters.istio.facts import PolicyFacts
from meshwarden.adapters.istio.names import EXT_AUTHZ, PORTS, PROVIDER, TRACING_PROVIDER
from meshwarden.adapters.istio.options import IstioOptions

OTLP_GRPC_PORT = 4317


def mesh_config(options: IstioOptions, facts: PolicyFacts) -> dict[str, Any]:
    """`meshConfig`: how the authorizer is asked, how paths are read, how proxies start and stop.

    Paths: a proxy that matched `/a%2fb` and `/a//b` otherwise than the workload reads them would be
    a way around every rule about paths. Source: istio.mesh.v1alpha1 `MeshConfig`.
    """
    return {
        "rootNamespace": options.root_namespace,
        "trustDomain": options.trust_domain,
        "pathNormalization": {"normalization": "DECODE_AND_MERGE_SLASHES"},
        "defaultConfig": {
            # A workload that starts first meets a network that is not there yet.
            "holdApplicationUntilProxyStarts": True,
            "terminationDrainDuration": "5s",
            "proxyHeaders": {"server": {"disabled": True}, "envoyDebugHeaders": {"disabled": True}},
        },
        "extensionProviders": [
            {"name": PROVIDER, "envoyExtAuthzGrpc": _authorizer(options, facts)},
            *_tracing(options),
        ],
    }


def _tracing(options: IstioOptions) -> list[dict[str, Any]]:
    if not options.otlp_service:
        return []
    collector = {"service": options.otlp_service, "port": OTLP_GRPC_PORT}
    return [{"name": TRACING_PROVIDER, "opentelemetry": collector}]


def _authorizer(options: IstioOptions, facts: PolicyFacts) -> dict[str, Any]:
    """Fails closed with 503. Istio's own time limit would be ten minutes."""
    result: dict[str, Any] = {
        "service": options.host(EXT_AUTHZ),
        "port": PORTS[EXT_AUTHZ].grpc,
        "timeout": f"{options.ext_authz_timeout_seconds:g}s",
        "failOpen": False,
        "statusOnError": "503",
    }
    if facts.reads_body:
        result["includeRequestBodyInCheck"] = {
            "maxRequestBytes": options.ext_authz_body_bytes,
            "allowPartialMessage": True,
            "packAsBytes": True,
        }
    return result


def helm_values(options: IstioOptions, facts: PolicyFacts) -> dict[str, Any]:
    """Values of the chart `istiod`."""
    return {"pilot": {"cni": {"enabled": True}}, "meshConfig": mesh_config(options, facts)}


def operator(options: IstioOptions, facts: PolicyFacts) -> dict[str, Any]:
    """The same for `istioctl install -f`."""
    return {
        "apiVersion": "install.istio.io/v1alpha1",
        "kind": "IstioOperator",
        "metadata": {"name": "meshwarden", "namespace": options.root_namespace},
        "spec": {
            "profile": "default",
            "components": {"cni": {"enabled": True}},
            "meshConfig": mesh_config(options, facts),
        },
    }
