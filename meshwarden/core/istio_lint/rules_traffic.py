"""Rules on retries, time limits, and what holds a storm: VirtualServices and DestinationRules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from meshwarden.core.documents import Document, Path
from meshwarden.core.istio_lint.findings import Severity, Spot, rule
from meshwarden.core.istio_lint.mesh import Mesh, namespace
from meshwarden.core.istio_lint.values import at, items, mapping, seconds, text

IDEMPOTENT_METHODS = {"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"}
"""RFC 9110 section 9.2.2."""
NOTHING_EXECUTED = {"connect-failure", "refused-stream", "reset-before-request"}
"""Conditions under which the upstream has not begun with the request (Envoy's
`x-envoy-retry-on`).
"""
MOST_RETRIES = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Retried:
    """A route with retries."""

    document: Document
    path: Path
    route: dict[str, Any]

    @property
    def retries(self) -> dict[str, Any]:
        return mapping(self.route, "retries")

    @property
    def conditions(self) -> set[str]:
        return {one.strip() for one in text(self.retries, "retryOn").split(",")} - {""}

    @property
    def name(self) -> str:
        return text(self.route, "name") or f"http[{self.path[-1]}]"

    def hosts(self, mesh: Mesh) -> list[str]:
        """The full names of the hosts that the route leads to."""
        found = [text(one, "destination", "host") for one in items(self.route, "route")]
        return [mesh.resolved(host, namespace(self.document)) for host in found if host]


def retried(mesh: Mesh) -> Iterator[Retried]:
    """Every route that states retries and may retry at all."""
    for document in mesh.of("VirtualService"):
        for index, route in enumerate(items(document.value, "spec", "http")):
            attempts = at(route, "retries", "attempts")
            if "retries" in mapping(route) and attempts != 0:
                yield Retried(document, ("spec", "http", index), mapping(route))


def _takes_writes(route: dict[str, Any]) -> bool:
    """Whether a request whose method is not idempotent may match the route."""
    matches = items(route, "match")
    return not matches or not all(_only_idempotent(mapping(match)) for match in matches)


def _only_idempotent(match: dict[str, Any]) -> bool:
    method = mapping(match, "method")
    if "exact" in method:
        return method["exact"] in IDEMPOTENT_METHODS
    pattern = re.sub(r"^\^?\(?(\?:)?|\)?\$?$", "", text(method, "regex"))
    return bool(pattern) and set(pattern.split("|")) <= IDEMPOTENT_METHODS


@rule(
    70,
    Severity.ERROR,
    "Writes are sent again",
    why="After `5xx`, `reset`, `gateway-error` or a time limit the upstream may have executed the "
    "request: a POST is executed up to attempts + 1 times (tried: three executions of one POST).",
    fix="match idempotent methods only (GET|HEAD|OPTIONS|TRACE|PUT|DELETE), and let the route for "
    "the rest retry on connect-failure,refused-stream",
)
def retried_writes(mesh: Mesh) -> Iterator[Spot]:
    for found in retried(mesh):
        unsafe = sorted(found.conditions - NOTHING_EXECUTED)
        if unsafe and _takes_writes(found.route):
            what = f"route {found.name} takes any method and retries on {', '.join(unsafe)}"
            yield Spot(found.document, (*found.path, "retries", "retryOn"), what)


@rule(
    71,
    Severity.WARNING,
    "Retries whose conditions are not stated",
    why="Istio's default has `unavailable` and `cancelled`: a gRPC call that was executed may be "
    "executed again.",
    fix="set `retryOn`",
)
def unstated_conditions(mesh: Mesh) -> Iterator[Spot]:
    for found in retried(mesh):
        if not found.conditions and _takes_writes(found.route):
            what = f"route {found.name} does not state retryOn"
            yield Spot(found.document, (*found.path, "retries"), what)


@rule(
    72,
    Severity.ERROR,
    "Retries without a time limit for each try",
    why="Without `perTryTimeout` one try may take the route's whole time, and no other follows: a "
    "host that hangs is not left.",
    fix="set `perTryTimeout` to what the 99th percentile needs, below the route's timeout",
)
def no_per_try_timeout(mesh: Mesh) -> Iterator[Spot]:
    for found in retried(mesh):
        is_safe_alone = found.conditions and found.conditions <= NOTHING_EXECUTED
        if seconds(at(found.retries, "perTryTimeout")) is None and not is_safe_alone:
            what = f"route {found.name} states no perTryTimeout"
            yield Spot(found.document, (*found.path, "retries"), what)


@rule(
    73,
    Severity.ERROR,
    "A try that may take as long as the whole route",
    why="The route's timeout holds for all tries together: a try that takes it all leaves none.",
    fix="set `perTryTimeout` below half of `timeout`",
)
def try_beyond_the_route(mesh: Mesh) -> Iterator[Spot]:
    for found in retried(mesh):
        each = seconds(at(found.retries, "perTryTimeout"))
        whole = seconds(at(found.route, "timeout"))
        if each is not None and whole is not None and each >= whole:
            what = f"route {found.name}: a try may take {each:g} s of {whole:g} s"
            yield Spot(found.document, (*found.path, "retries", "perTryTimeout"), what)


@rule(
    74,
    Severity.WARNING,
    "Retries without a time limit for the route",
    why="Istio's default is none: the client may wait for all tries and their back-off.",
    fix="set `timeout` on the route",
)
def no_route_timeout(mesh: Mesh) -> Iterator[Spot]:
    for found in retried(mesh):
        if not seconds(at(found.route, "timeout")):
            yield Spot(found.document, found.path, f"route {found.name} states no timeout")


@rule(
    75,
    Severity.WARNING,
    "Retries that nothing holds",
    why="Limits are per proxy, and default to 4294967295: without a connection pool, outlier "
    "detection and a retry budget, retries multiply the load of a host that is failing.",
    fix="add a DestinationRule for the host with `connectionPool`, `outlierDetection` and "
    "`retryBudget`",
)
def unbounded_retries(mesh: Mesh) -> Iterator[Spot]:
    rules: dict[str, list[Document]] = {}
    for document in mesh.of("DestinationRule"):
        host = mesh.resolved(text(document.value, "spec", "host"), namespace(document))
        rules.setdefault(host, []).append(document)
    for found in retried(mesh):
        for host in dict.fromkeys(found.hosts(mesh)):
            policies = [mapping(d.value, "spec", "trafficPolicy") for d in rules.get(host, [])]
            lacking = _lacking(policies)
            if lacking:
                what = f"route {found.name}: {host} has no {', '.join(lacking)}"
                yield Spot(found.document, (*found.path, "retries"), what)


def _lacking(policies: list[dict[str, Any]]) -> list[str]:
    """What no policy of a host states; `maxRetries` bounds retries as well as a budget."""
    bounds = [at(policy, "connectionPool", "http", "maxRetries") for policy in policies]
    is_bounded = any(isinstance(bound, int) and 0 <= bound < MOST_RETRIES for bound in bounds)
    return [
        name
        for name in ("connectionPool", "outlierDetection", "retryBudget")
        if not any(policy.get(name) for policy in policies)
        and not (name == "retryBudget" and is_bounded)
    ]


@rule(
    76,
    Severity.ERROR,
    "Plain text to a port of TLS",
    why="A ServiceEntry that takes HTTP and leads to port 443 sends plain text, unless a "
    "DestinationRule originates TLS.",
    fix="add a DestinationRule for the host with `tls: {mode: SIMPLE, sni: HOST}`",
)
def plain_text_to_tls(mesh: Mesh) -> Iterator[Spot]:
    originated = set()
    for document in mesh.of("DestinationRule"):
        policy = mapping(document.value, "spec", "trafficPolicy")
        ports = items(policy, "portLevelSettings")
        modes = [text(policy, "tls", "mode"), *(text(port, "tls", "mode") for port in ports)]
        if {"SIMPLE", "MUTUAL"} & set(modes):
            originated.add(text(document.value, "spec", "host"))
    for host in [host for hosts in mesh.hosts.values() for host in hosts]:
        for index, port in enumerate(host.ports if host.is_external else ()):
            is_plain = text(port, "protocol").upper() in ("HTTP", "HTTP2", "GRPC")
            target = at(port, "targetPort") or at(port, "number")
            if is_plain and target == 443 and host.name not in originated:
                what = f"{host.name}:{at(port, 'number')} is sent in plain text to port 443"
                yield Spot(host.document, ("spec", "ports", index), what)


@rule(
    77,
    Severity.ERROR,
    "TLS whose certificate is not verified",
    why="Whoever can answer for the host reads what is sent, credentials included.",
    fix="remove `insecureSkipVerify`; name the authority by `caCertificates` or `credentialName`",
)
def unverified_tls(mesh: Mesh) -> Iterator[Spot]:
    for document in mesh.of("DestinationRule"):
        path: Path = ("spec", "trafficPolicy", "tls", "insecureSkipVerify")
        if at(document.value, *path) is True:
            host = text(document.value, "spec", "host")
            yield Spot(document, path, f"the certificate of {host} is not verified")
