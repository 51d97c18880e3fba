"""Names, labels and ports that the manifests must agree on."""

from __future__ import annotations

from typing import Any, NamedTuple

PART_OF = {"app.kubernetes.io/part-of": "meshwarden"}
NAME_LABEL = "app.kubernetes.io/name"

EXT_AUTHZ = "ext-authz"
RATELIMIT = "ratelimit"
PROVIDER = "meshwarden-ext-authz"
"""The extension provider. Istio compares names by prefix: none may begin with it."""
TRACING_PROVIDER = "meshwarden-tracing"

AUTHORIZE_LABEL = "meshwarden.io/authorize"
LIMIT_LABEL = "meshwarden.io/limit"
IDENTITY_LABEL = "meshwarden.io/identity"
AT_SIDECAR = "sidecar"
FROM_GATEWAY = "gateway"

GATEWAY = "GATEWAY"
SIDECAR_OUTBOUND = "SIDECAR_OUTBOUND"
SIDECAR_INBOUND = "SIDECAR_INBOUND"


class ServicePorts(NamedTuple):
    """The ports of one of our services."""

    grpc: int
    streaming: int
    http: int


PORTS = {EXT_AUTHZ: ServicePorts(9001, 9003, 9002), RATELIMIT: ServicePorts(8081, 8083, 8080)}


def labels(name: str = "") -> dict[str, str]:
    """The labels of what belongs to us, and of one service where `name` is given."""
    return {**({NAME_LABEL: name} if name else {}), **PART_OF}


def document(
    api_version: str,
    kind: str,
    name: str,
    *,
    namespace: str = "",
    spec: Any = None,
    name_label: str = "",
) -> dict[str, Any]:
    """A Kubernetes object with our labels."""
    metadata: dict[str, Any] = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    metadata["labels"] = labels(name_label)
    result: dict[str, Any] = {"apiVersion": api_version, "kind": kind, "metadata": metadata}
    if spec is not None:
        result["spec"] = spec
    return result
