"""Rules on where an EnvoyFilter's patches land: one that matches nothing is silent in Istio
(istio#38358, istio#35345, istio#32381).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from meshwarden.core.documents import Document, Path
from meshwarden.core.istio_lint.findings import Severity, Spot, rule
from meshwarden.core.istio_lint.mesh import GATEWAY_API, Mesh, namespace, selector_of
from meshwarden.core.istio_lint.rules_envoy_filters import patches
from meshwarden.core.istio_lint.values import at, items, mapping, text, texts

CONNECTION_MANAGER = "envoy.filters.network.http_connection_manager"
ALWAYS_EMITTED = {
    "envoy.filters.http.router",
    "envoy.filters.http.cors",
    "envoy.filters.http.fault",
    "envoy.filters.http.grpc_stats",
    "envoy.filters.http.grpc_web",
    "envoy.filters.http.stateful_session",
    "istio.alpn",
    "istio.metadata_exchange",
    "istio.stats",
}
EMITTED_FOR = {
    "envoy.filters.http.ext_authz": "a CUSTOM AuthorizationPolicy",
    "envoy.filters.http.rbac": "an AuthorizationPolicy",
    "envoy.filters.http.jwt_authn": "a RequestAuthentication",
}
EXTENSIONS = ("extenstions.istio.io/", "extensions.istio.io/")
"""How istiod names the filters of WasmPlugins; the misspelling is its own."""

SPECIAL_HOSTS = ("allow_any", "block_all", "blackhole:80")
_HOST = re.compile(r"(inbound\|.*)|(.+):(\d+)")


@rule(
    60,
    Severity.ERROR,
    "A patch beside a filter that istiod does not emit",
    why="`subFilter.name` is compared with the names in the proxy's own chain; `envoy.ext_authz`, "
    "or `envoy.filters.http.ext_authz` where no CUSTOM policy is, is not there, and the patch does "
    "nothing.",
    fix="name a filter of the chain, such as envoy.filters.http.router; see `istioctl proxy-config "
    "listeners`",
)
def unknown_sub_filter(mesh: Mesh) -> Iterator[Spot]:
    inserted = _inserted(mesh)
    for document in mesh.of("EnvoyFilter"):
        for place, patch in patches(document):
            path: Path = ("match", "listener", "filterChain", "filter", "subFilter", "name")
            name = text(patch, *path)
            if not name or name in ALWAYS_EMITTED | inserted or name.startswith(EXTENSIONS):
                continue
            if name not in EMITTED_FOR:
                what = f"istiod emits no HTTP filter '{name}'"
                yield Spot(document, (*place, *path), what)
            elif not _is_emitted(mesh, name, document):
                what = f"'{name}' is there only with {EMITTED_FOR[name]} for the same workloads"
                yield Spot(document, (*place, *path), what)


def _inserted(mesh: Mesh) -> set[str]:
    return {
        text(patch, "patch", "value", "name")
        for document in mesh.of("EnvoyFilter")
        for _, patch in patches(document)
        if text(patch, "patch", "operation").startswith(("INSERT", "ADD"))
    } - {""}


def _is_emitted(mesh: Mesh, name: str, document: Document) -> bool:
    """Whether something asks istiod for the filter at a workload that the EnvoyFilter is for."""
    if name.endswith("jwt_authn"):
        asking = mesh.of("RequestAuthentication")
    else:
        asking = list(mesh.custom()) if name.endswith("ext_authz") else mesh.policies
    meant = [workload for workload in mesh.workloads if mesh.covers(document, workload)]
    if not meant:
        return bool(asking)
    return any(mesh.covers(one, workload) for one in asking for workload in meant)


@rule(
    61,
    Severity.ERROR,
    "A patch of an HTTP filter that does not name the HTTP connection manager",
    why="Under another network filter's name there are no HTTP filters: the patch does nothing.",
    fix=f"write `filter: {{name: {CONNECTION_MANAGER}}}`",
)
def unknown_network_filter(mesh: Mesh) -> Iterator[Spot]:
    for document in mesh.of("EnvoyFilter"):
        for place, patch in patches(document):
            path: Path = ("match", "listener", "filterChain", "filter", "name")
            name = text(patch, *path)
            if text(patch, "applyTo") == "HTTP_FILTER" and name not in ("", CONNECTION_MANAGER):
                yield Spot(document, (*place, *path), f"'{name}' holds no HTTP filters")


@rule(
    62,
    Severity.ERROR,
    "A patch on a route that is not there",
    why="Routes are named by `http[].name` of a VirtualService; a name that none has matches "
    "nothing, and the limit is not enforced.",
    fix="name the route in the VirtualService, and write the same name here",
)
def unknown_route(mesh: Mesh) -> Iterator[Spot]:
    known = {
        text(entry, "name")
        for document in mesh.of("VirtualService")
        for entry in items(document.value, "spec", "http")
    }
    generated = [
        f"{namespace(document)}.{document.name}."
        for kind in ("HTTPRoute", "GRPCRoute")
        for document in mesh.of(kind, GATEWAY_API)
    ]
    for document in mesh.of("EnvoyFilter"):
        for place, patch in patches(document):
            path: Path = ("match", "routeConfiguration", "vhost", "route", "name")
            name = text(patch, *path)
            if not name or name in known | {"default"}:
                continue
            if not any(name.startswith(one) for one in generated):
                told = ", ".join(sorted(known - {""})) or "none"
                what = f"no route in what was read has the name '{name}' (named: {told})"
                yield Spot(document, (*place, *path), what)


@rule(
    63,
    Severity.ERROR,
    "A patch on a virtual host that is not there",
    why="istiod names virtual hosts `HOST:PORT`, by a host of a VirtualService or Service and the "
    "port of the Gateway or Service; any other name matches nothing.",
    fix="write `HOST:PORT`, such as `api.example.com:443`; see `istioctl proxy-config routes`",
)
def unknown_virtual_host(mesh: Mesh) -> Iterator[Spot]:
    hosts, ports = _known_hosts(mesh), _known_ports(mesh)
    for document in mesh.of("EnvoyFilter"):
        for place, patch in patches(document):
            path: Path = ("match", "routeConfiguration", "vhost", "name")
            name = text(patch, *path)
            if not name or name in SPECIAL_HOSTS:
                continue
            matched = _HOST.fullmatch(name)
            if not matched:
                yield Spot(document, (*place, *path), f"'{name}' is not of the form HOST:PORT")
            elif matched[2] and (matched[2] not in hosts or int(matched[3]) not in ports):
                part = "host" if matched[2] not in hosts else "port"
                what = f"nothing in what was read has the {part} of '{name}'"
                yield Spot(document, (*place, *path), what)


def _known_hosts(mesh: Mesh) -> set[str]:
    found = {"*", *mesh.hosts}
    for document in mesh.of("VirtualService"):
        for host in texts(document.value, "spec", "hosts"):
            found |= {host, mesh.resolved(host, namespace(document))}
    for kind in ("HTTPRoute", "GRPCRoute"):
        for document in mesh.of(kind, GATEWAY_API):
            found.update(texts(document.value, "spec", "hostnames"))
    for gateway in mesh.of("Gateway", GATEWAY_API):
        for listener in items(gateway.value, "spec", "listeners"):
            found.add(text(listener, "hostname"))
    return found


def _known_ports(mesh: Mesh) -> set[Any]:
    ports = [port for hosts in mesh.hosts.values() for host in hosts for port in host.ports]
    found = {at(port, field) for port in ports for field in ("port", "number")}
    for gateway in mesh.of("Gateway"):
        for server in items(gateway.value, "spec", "servers"):
            found.add(at(server, "port", "number"))
    for gateway in mesh.of("Gateway", GATEWAY_API):
        for listener in items(gateway.value, "spec", "listeners"):
            found.add(at(listener, "port"))
    return found


@rule(
    64,
    Severity.ERROR,
    "A patch for gateways on workloads that are none, or the other way",
    why="`context: GATEWAY` matches gateways only, `SIDECAR_INBOUND` and `SIDECAR_OUTBOUND` "
    "sidecars only; with a selector of the other kind the patch does nothing.",
    fix="use the context of the workloads that are selected",
)
def wrong_context(mesh: Mesh) -> Iterator[Spot]:
    for document in mesh.of("EnvoyFilter"):
        meant = [workload for workload in mesh.workloads if mesh.covers(document, workload)]
        if not selector_of(document)[1] or not meant:
            continue
        gateways = _gateway_labels(mesh)
        are_gateways = {
            workload.is_gateway or any(own.items() <= workload.labels.items() for own in gateways)
            for workload in meant
        }
        for place, patch in patches(document):
            context = text(patch, "match", "context")
            if (context == "GATEWAY" and are_gateways == {False}) or (
                context.startswith("SIDECAR") and are_gateways == {True}
            ):
                what = f"the context {context} does not fit the workloads that are selected"
                yield Spot(document, (*place, "match", "context"), what)


def _gateway_labels(mesh: Mesh) -> list[dict[str, str]]:
    found = [mapping(gateway.value, "spec", "selector") for gateway in mesh.of("Gateway")]
    return [selector for selector in found if selector]
