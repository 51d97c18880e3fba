"""Our two services in a cluster: Deployment, Service, PodDisruptionBudget.

Times fit together: a Pod that is to stop is out of the endpoints for `DRAIN_SECONDS` before its
ports close, calls in flight have `STOP_SECONDS`, its sidecar outlives both, and Kubernetes waits
for the sidecar.
"""

from __future__ import annotations

from typing import Any

from meshwarden.adapters.istio.facts import PolicyFacts
from meshwarden.adapters.istio.names import (
    EXT_AUTHZ,
    NAME_LABEL,
    PORTS,
    RATELIMIT,
    document,
    labels,
)
from meshwarden.adapters.istio.options import IstioOptions
from meshwarden.adapters.istio.rights import asks_reviews, watching

DRAIN_SECONDS = 5
STOP_SECONDS = 8
SIDECAR_SECONDS = DRAIN_SECONDS + STOP_SECONDS + 2
GRACE_SECONDS = SIDECAR_SECONDS + 5
OTLP_PORT = 4318
USER = 65532
API_KEYS_ITEM, PEPPER_ITEM, SIGNING_KEYS_ITEM = "api-keys.json", "pepper", "signing-keys.json"
"""Of the Secret with the authorizer's keys."""

_MODULES = {EXT_AUTHZ: "ext_authz", RATELIMIT: "ratelimit_service"}
_PREFIXES = {EXT_AUTHZ: "EXT_AUTHZ", RATELIMIT: "RATELIMIT"}
_RESOURCES = {
    # Limits of memory alone: a CPU limit throttles, and a throttled decision is a late one.
    EXT_AUTHZ: {"requests": {"cpu": "500m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}},
    RATELIMIT: {"requests": {"cpu": "500m", "memory": "192Mi"}, "limits": {"memory": "512Mi"}},
}

Documents = list[dict[str, Any]]


def namespace(options: IstioOptions) -> dict[str, Any]:
    """The namespace: Pods without privileges only, and with sidecars.

    With sidecars, so that who asks is known by certificate and nobody else is heard; that costs
    each decision one more hop. `restricted` needs Istio's CNI plugin, which `install/` turns on:
    without it the sidecar's init container wants NET_ADMIN and is refused.
    """
    result = document("v1", "Namespace", options.namespace)
    result["metadata"]["labels"] |= {
        "istio-injection": "enabled",
        **{f"pod-security.kubernetes.io/{mode}": "restricted" for mode in _POD_SECURITY},
    }
    return result


_POD_SECURITY = ("enforce", "audit", "warn")


def workload(options: IstioOptions, facts: PolicyFacts, name: str) -> Documents:
    """Everything of one service but its ServiceAccount and its rights."""
    return [
        _deployment(options, facts, name),
        _service(options, name),
        _disruption_budget(options, name),
    ]


def _deployment(options: IstioOptions, facts: PolicyFacts, name: str) -> dict[str, Any]:
    selected = {NAME_LABEL: name}
    spec = {
        "replicas": options.replicas,
        "revisionHistoryLimit": 5,
        "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "selector": {"matchLabels": selected},
        "template": {
            "metadata": {
                # Istio's telemetry reads both; the selector must not have the version.
                "labels": {**labels(name), "app.kubernetes.io/version": options.version},
                "annotations": _annotations(name),
            },
            "spec": _pod(options, facts, name),
        },
    }
    return document(
        "apps/v1", "Deployment", name, namespace=options.namespace, spec=spec, name_label=name
    )


def _annotations(name: str) -> dict[str, str]:
    return {
        # Istio's agent scrapes us for Prometheus and serves it with its own, past mTLS.
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(PORTS[name].http),
        "prometheus.io/path": "/metrics",
        "proxy.istio.io/config": f"{{terminationDrainDuration: {SIDECAR_SECONDS}s}}",
    }


def _pod(options: IstioOptions, facts: PolicyFacts, name: str) -> dict[str, Any]:
    return {
        "serviceAccountName": name,
        "automountServiceAccountToken": True,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {NAME_LABEL: name}},
                "matchLabelKeys": ["pod-template-hash"],
            }
            for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
        ],
        "containers": [_container(options, facts, name)],
        "volumes": [{"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}],
    }


def _container(options: IstioOptions, facts: PolicyFacts, name: str) -> dict[str, Any]:
    ports = PORTS[name]
    return {
        "name": name,
        "image": options.image,
        "command": ["python", "-m", _MODULES[name]],
        "env": _environment(options, facts, name),
        "ports": [
            {"name": "grpc", "containerPort": ports.grpc},
            {"name": "grpc-streaming", "containerPort": ports.streaming},
            {"name": "http", "containerPort": ports.http},
        ],
        "startupProbe": _probe("/healthz", period=1, failures=60),
        "livenessProbe": _probe("/healthz", period=10, failures=3),
        "readinessProbe": _probe("/readyz", period=2, failures=2),
        "resources": _RESOURCES[name],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
    }


def _probe(path: str, *, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": 1,
        "failureThreshold": failures,
    }


def _environment(options: IstioOptions, facts: PolicyFacts, name: str) -> list[dict[str, Any]]:
    prefix = _PREFIXES[name]
    values = {
        f"{prefix}_DRAIN_SECONDS": str(DRAIN_SECONDS),
        f"{prefix}_STOP_SECONDS": str(STOP_SECONDS),
        **{
            f"{prefix}_CONFIGURATION__KUBERNETES__{key}": text
            for key, text in watching(options, facts, name).items()
        },
    }
    if options.otlp_service:
        values[f"{prefix}_TRACING__OTLP_ENDPOINT"] = (
            f"http://{options.otlp_service}:{OTLP_PORT}/v1/traces"
        )
        # Whether a trace is kept the proxy decides that asks us.
        values[f"{prefix}_TRACING__SAMPLE_RATIO"] = "0"
    if name == EXT_AUTHZ:
        values |= _secrets(options, facts)
        if asks_reviews(options, facts):
            values["EXT_AUTHZ_KUBERNETES_REVIEWS__ENABLED"] = "true"
    else:
        values["RATELIMIT_STORE__KIND"] = "redis"
    result: list[dict[str, Any]] = [{"name": key, "value": text} for key, text in values.items()]
    if name == RATELIMIT:
        result.append(_from_secret("RATELIMIT_REDIS__URL", options.redis_secret, "url"))
        result.append(
            _from_secret("RATELIMIT_REDIS__AUTH", options.redis_secret, "auth", optional=True)
        )
    return [*result, *(_from_pod(variable, path) for variable, path in _POD_FIELDS.items())]


_POD_FIELDS = {
    "POD_NAME": "metadata.name",
    "POD_NAMESPACE": "metadata.namespace",
    "POD_UID": "metadata.uid",
}


def _secrets(options: IstioOptions, facts: PolicyFacts) -> dict[str, str]:
    """Where the authorizer finds what the policies need: keys in one Secret, watched by name."""
    secret, result = options.keys_secret, {}
    if facts.reads_api_keys:
        result["EXT_AUTHZ_KEYS__FILE_SECRET"] = f"{secret}/{API_KEYS_ITEM}"
        result["EXT_AUTHZ_KEYS__PEPPER_SECRET"] = f"{secret}/{PEPPER_ITEM}"
    if facts.signs_tokens:
        result["EXT_AUTHZ_IDENTITY_TOKENS__KEYS_SECRET"] = f"{secret}/{SIGNING_KEYS_ITEM}"
        result["EXT_AUTHZ_IDENTITY_TOKENS__ISSUER"] = (
            f"http://{options.host(EXT_AUTHZ)}:{PORTS[EXT_AUTHZ].http}"
        )
    return result


def _from_pod(variable: str, path: str) -> dict[str, Any]:
    return {"name": variable, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _from_secret(variable: str, secret: str, key: str, *, optional: bool = False) -> dict[str, Any]:
    reference: dict[str, Any] = {"name": secret, "key": key}
    if optional:
        reference["optional"] = True
    return {"name": variable, "valueFrom": {"secretKeyRef": reference}}


def _service(options: IstioOptions, name: str) -> dict[str, Any]:
    """Istio reads the protocol from a port's name, and speaks HTTP/1.1 to one that says nothing."""
    ports = PORTS[name]
    named = [("grpc", ports.grpc), ("grpc-streaming", ports.streaming), ("http", ports.http)]
    spec = {
        "selector": {NAME_LABEL: name},
        "ports": [
            {
                "name": port_name,
                "port": port,
                "targetPort": port_name,
                "appProtocol": port_name.partition("-")[0],
            }
            for port_name, port in named
        ],
    }
    return document("v1", "Service", name, namespace=options.namespace, spec=spec, name_label=name)


def _disruption_budget(options: IstioOptions, name: str) -> dict[str, Any]:
    spec = {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": {NAME_LABEL: name}},
    }
    return document(
        "policy/v1",
        "PodDisruptionBudget",
        name,
        namespace=options.namespace,
        spec=spec,
        name_label=name,
    )
