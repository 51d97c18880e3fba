"""Connection pools, ejection, retries and time limits in Istio's own terms, with the numbers of the
edge proxy (`meshwarden.adapters.envoy.clusters`, `routes`).

`docs/explanation/resilience_numbers.md` says how to choose them. Where the edge proxy asks each
host for its health, a sidecar has only requests to find a dead one by: so an endpoint rests for one
second at first, and not for ten.
"""

from __future__ import annotations

from typing import Any

import yaml

from meshwarden.adapters.envoy.clusters import (
    EJECTED_PERCENT_AT_MOST,
    FAILURES_IN_A_ROW,
    RETRIES_ALWAYS_ALLOWED,
    UPSTREAM_IDLE_SECONDS,
)
from meshwarden.adapters.envoy.routes import (
    BACK_OFF_SECONDS,
    IDEMPOTENT_METHODS,
    RETRIED_STATUSES,
    RETRY_ALWAYS_ON,
    RETRY_IDEMPOTENT_ON,
)
from meshwarden.adapters.istio.names import document
from meshwarden.adapters.istio.resilience_options import ResilienceOptions

NETWORKING = "networking.istio.io/v1"
FAULT_HEADER = "x-meshwarden-fault"
HEADER = "# Rendered by `meshwarden render resilience`. Edit the options, not this file.\n"
TLS_PORT = 443

EXAMPLES = {
    "service.yaml": ResilienceOptions(failover=("europe-west>europe-north",)),
    "external-api.yaml": ResilienceOptions(
        name="payments",
        host="api.payments.example",
        port=80,
        timeout_seconds=10,
        per_try_timeout_seconds=3,
        connections_at_most=64,
        requests_at_most=64,
        ejection_seconds=5,
    ),
}

Documents = list[dict[str, Any]]


def for_service(options: ResilienceOptions, *, faults: bool = False) -> Documents:
    """What a Service of the mesh is given; with `faults`, requests with the header
    `x-meshwarden-fault` meet them.
    """
    return [_destination_rule(options, tls=None), _virtual_service(options, faults=faults)]


def for_external_api(options: ResilienceOptions) -> Documents:
    """What an API outside of the mesh is given: workloads call it in plain text on `port`, and
    their sidecar originates TLS, so that it sees what it retries.
    """
    entry = document(
        NETWORKING,
        "ServiceEntry",
        options.name,
        namespace=options.namespace,
        spec={
            "hosts": [options.host],
            "location": "MESH_EXTERNAL",
            "resolution": "DNS",
            "exportTo": ["."],
            "ports": [
                {"name": "http", "number": options.port, "protocol": "HTTP", "targetPort": TLS_PORT}
            ],
        },
    )
    # Without caCertificates istio-proxy verifies by the system's authorities (Istio 1.20 and on).
    tls = {"mode": "SIMPLE", "sni": options.host, "subjectAltNames": [options.host]}
    rule = _destination_rule(options, tls=tls)
    rule["spec"]["exportTo"] = ["."]
    routes = _virtual_service(options, faults=False)
    routes["spec"]["exportTo"] = ["."]
    return [entry, rule, routes]


def example_files() -> dict[str, str]:
    """The text of each file of `istio/resilience`, by name."""
    service, external = EXAMPLES["service.yaml"], EXAMPLES["external-api.yaml"]
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(EXAMPLES),
    }
    return {
        "service.yaml": to_text(for_service(service)),
        "external-api.yaml": to_text(for_external_api(external)),
        "kustomization.yaml": to_text([kustomization]),
        # Instead of the VirtualService of service.yaml, whose name it has.
        "faults/service.yaml": to_text(for_service(service, faults=True)[1:]),
    }


def to_text(documents: Documents) -> str:
    return HEADER + yaml.safe_dump_all(documents, sort_keys=False, width=100)


def _destination_rule(options: ResilienceOptions, *, tls: dict[str, Any] | None) -> dict[str, Any]:
    policy: dict[str, Any] = {
        "connectionPool": {
            "tcp": {
                "maxConnections": options.connections_at_most,
                "connectTimeout": _duration(options.connect_timeout_seconds),
            },
            "http": {
                "http1MaxPendingRequests": options.requests_at_most,
                "http2MaxRequests": options.requests_at_most,
                "idleTimeout": _duration(UPSTREAM_IDLE_SECONDS),
            },
        },
        "outlierDetection": {
            # Not split by origin: with each connection that opens and is then reset a success would
            # stand between two failures, and such an endpoint would never rest.
            "consecutiveGatewayErrors": FAILURES_IN_A_ROW,
            # A 500 is the workload's answer to one request, and no sign that the endpoint is sick.
            "consecutive5xxErrors": 0,
            # How often is looked for endpoints that have rested long enough.
            "interval": "0.5s",
            "baseEjectionTime": _duration(options.ejection_seconds),
            "maxEjectionPercent": EJECTED_PERCENT_AT_MOST,
            # Fewer are healthy: ask them all the same.
            "minHealthPercent": 100 - EJECTED_PERCENT_AT_MOST,
        },
        "retryBudget": {
            "percent": options.retry_budget_percent,
            "minRetryConcurrency": RETRIES_ALWAYS_ALLOWED,
        },
        "loadBalancer": {"simple": "LEAST_REQUEST", "localityLbSetting": _locality(options)},
    }
    if tls is not None:
        policy["tls"] = tls
        del policy["loadBalancer"]["localityLbSetting"]
    return document(
        NETWORKING,
        "DestinationRule",
        options.name,
        namespace=options.namespace,
        spec={"host": options.host, "trafficPolicy": policy},
    )


def _locality(options: ResilienceOptions) -> dict[str, Any]:
    """Own zone, then own region, then the one that takes over; it needs outlier detection."""
    pairs = [pair.split(">") for pair in options.failover]
    failover = [{"from": one.strip(), "to": other.strip()} for one, other in pairs]
    return {"enabled": True, **({"failover": failover} if failover else {})}


def _virtual_service(options: ResilienceOptions, *, faults: bool) -> dict[str, Any]:
    """Two routes that differ in what is sent again: a method that is not idempotent only where
    the endpoint has not begun with it.
    """
    idempotent: dict[str, Any] = {
        "name": "idempotent",
        "match": [{"method": {"regex": IDEMPOTENT_METHODS}}],
        "timeout": _duration(options.timeout_seconds),
        "retries": _retries(options, _istio_conditions(), per_try=True),
    }
    other = {
        "name": "not-idempotent",
        "timeout": _duration(options.timeout_seconds),
        "retries": _retries(options, RETRY_ALWAYS_ON, per_try=False),
    }
    routes = [*(_faults() if faults else []), idempotent, other]
    return document(
        NETWORKING,
        "VirtualService",
        options.name,
        namespace=options.namespace,
        spec={
            "hosts": [options.host],
            "gateways": list(options.gateways),
            "http": [{**route, "route": _destination(options)} for route in routes],
        },
    )


def _destination(options: ResilienceOptions) -> Documents:
    return [{"destination": {"host": options.host, "port": {"number": options.port}}}]


def _istio_conditions() -> str:
    """The edge's conditions as Istio writes them: a status is a condition itself."""
    kept = [one for one in RETRY_IDEMPOTENT_ON.split(",") if one != "retriable-status-codes"]
    return ",".join([*kept, *map(str, RETRIED_STATUSES)])


def _retries(options: ResilienceOptions, conditions: str, *, per_try: bool) -> dict[str, Any]:
    """Istio makes the longest pause ten times the first, as the edge does."""
    if not options.retries_at_most:
        return {"attempts": 0}
    limit = {"perTryTimeout": _duration(options.per_try_timeout_seconds)} if per_try else {}
    return {
        "attempts": options.retries_at_most,
        **limit,
        "retryOn": conditions,
        "backoff": _duration(BACK_OFF_SECONDS),
        "retryIgnorePreviousHosts": True,
    }


def _faults() -> Documents:
    """Routes that fail on purpose, for requests that ask for it. Envoy's fault filter stands before
    the router, so that what it answers is not retried: it shows what callers do, not what Envoy
    does.
    """
    return [
        {
            "name": "fault-delay",
            "match": [{"headers": {FAULT_HEADER: {"exact": "delay"}}}],
            "fault": {"delay": {"percentage": {"value": 100}, "fixedDelay": "3s"}},
            "retries": {"attempts": 0},
        },
        {
            "name": "fault-abort",
            "match": [{"headers": {FAULT_HEADER: {"exact": "abort"}}}],
            "fault": {"abort": {"percentage": {"value": 100}, "httpStatus": 503}},
            "retries": {"attempts": 0},
        },
    ]


def _duration(count: float) -> str:
    """Seconds as Istio takes them: `0.5s`."""
    return f"{count:g}s"
