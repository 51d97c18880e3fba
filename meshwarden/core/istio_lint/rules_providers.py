"""Rules on the authorizers that mesh configuration names, and on the services that proxies ask."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from meshwarden.core.documents import Document
from meshwarden.core.istio_lint.findings import Severity, Spot, rule
from meshwarden.core.istio_lint.mesh import DOMAIN, Mesh, namespace
from meshwarden.core.istio_lint.mesh_config import MANY_PROVIDERS
from meshwarden.core.istio_lint.values import at, items, mapping, seconds, text, texts

TIMEOUT_SECONDS_AT_MOST = 1.0
HTTP2_PORT_NAMES = ("grpc", "http2")
HTTP2_PROTOCOLS = {"grpc", "http2", "kubernetes.io/h2c"}


@rule(
    1,
    Severity.ERROR,
    "The name of one provider begins with the name of another",
    why="istiod lets the ext_authz filter run where the shadow rule's name begins with "
    "`istio-ext-authz-NAME`: `authz` is asked about requests that are meant for `authz-v2`, too.",
    fix="give the providers names of which none begins with another, such as `authz-v1` and "
    "`authz-v2`",
)
def prefixed_names(mesh: Mesh) -> Iterator[Spot]:
    for index, provider in enumerate(mesh.providers):
        for other_index, other in enumerate(mesh.providers):
            if index == other_index or not provider.name.startswith(other.name):
                continue
            if provider.config is not other.config:
                continue  # Two ways to install, of which one is used.
            if provider.name == other.name and index < other_index:
                continue
            what = f"the provider name '{provider.name}' begins with that of '{other.name}'"
            yield Spot(provider.document, provider.path[:-1], what)


@rule(
    2,
    Severity.ERROR,
    "A CUSTOM policy names a provider that mesh configuration lacks",
    why="istiod logs it and denies everything that the policy matches with 403 `RBAC: access "
    "denied`; neither the API server nor `istioctl validate` or `analyze` tells (istio#35165).",
    fix="name a provider of `meshConfig.extensionProviders`, or add it there",
)
def unknown_providers(mesh: Mesh) -> Iterator[Spot]:
    known = {provider.name for provider in mesh.providers}
    for policy in mesh.custom() if mesh.configs else ():
        name = text(policy.value, "spec", "provider", "name")
        if name not in known:
            told = ", ".join(sorted(known)) or "none"
            what = f"mesh configuration has no provider '{name}' (it has: {told})"
            yield Spot(policy, ("spec", "provider", "name"), what)


@rule(
    3,
    Severity.WARNING,
    "CUSTOM policies, but no mesh configuration to compare them with",
    why="Whether the provider exists, its time limit and its failure mode stand in mesh "
    "configuration only.",
    fix="check the ConfigMap `istio`, the IstioOperator or istiod's Helm values together with the "
    "policies: repeat `--istio`",
)
def no_mesh_configuration(mesh: Mesh) -> Iterator[Spot]:
    for policy in mesh.custom() if not mesh.configs else ():
        yield Spot(policy, ("spec", "provider"), "no mesh configuration was read")
        return


@rule(
    4,
    Severity.ERROR,
    "A provider without a time limit",
    why="Istio's default is 600 s: an authorizer that hangs holds every request for ten minutes.",
    fix="set `timeout`, such as 0.2s",
)
def no_timeout(mesh: Mesh) -> Iterator[Spot]:
    for provider in mesh.providers:
        if seconds(at(provider.spec, "timeout")) is None:
            what = f"the provider '{provider.name}' states no timeout"
            yield Spot(provider.document, provider.path, what)


@rule(
    5,
    Severity.WARNING,
    "A provider's time limit is long",
    why="Every request waits that long while the authorizer hangs, and holds its connection.",
    fix="set it to what the 99th percentile needs, with room: at most 1s",
)
def long_timeout(mesh: Mesh) -> Iterator[Spot]:
    for provider in mesh.providers:
        limit = seconds(at(provider.spec, "timeout"))
        if limit is not None and limit > TIMEOUT_SECONDS_AT_MOST:
            what = f"the provider '{provider.name}' may take {limit:g} s"
            yield Spot(provider.document, (*provider.path, "timeout"), what)


@rule(
    6,
    Severity.WARNING,
    "A provider's failure mode is not stated",
    why="What happens while the authorizer is away is a decision; unstated, the next reader has to "
    "know Istio's default.",
    fix="set `failOpen: false`",
)
def unstated_failure_mode(mesh: Mesh) -> Iterator[Spot]:
    for provider in mesh.providers:
        if "failOpen" not in provider.spec:
            what = f"the provider '{provider.name}' does not state failOpen"
            yield Spot(provider.document, provider.path, what)


@rule(
    7,
    Severity.ERROR,
    "A provider that lets requests pass while it is away",
    why="Whoever can overload or cut the authorizer switches authorization off.",
    fix="set `failOpen: false`",
)
def fails_open(mesh: Mesh) -> Iterator[Spot]:
    for provider in mesh.providers:
        if provider.spec.get("failOpen") is True:
            what = f"the provider '{provider.name}' fails open"
            yield Spot(provider.document, (*provider.path, "failOpen"), what)


@rule(
    8,
    Severity.WARNING,
    "A provider's status on error is not stated",
    why="The default is 403: a client takes an authorizer that is away for a denial, and nobody is "
    "called (istio#50881).",
    fix='set `statusOnError: "503"`',
)
def unstated_status(mesh: Mesh) -> Iterator[Spot]:
    for provider in mesh.providers:
        if "statusOnError" not in provider.spec and provider.spec.get("failOpen") is not True:
            what = f"the provider '{provider.name}' does not state statusOnError"
            yield Spot(provider.document, provider.path, what)


@rule(
    9,
    Severity.ERROR,
    "The port of a gRPC service is not known to speak HTTP/2",
    why="The proxy speaks HTTP/1.1 to a port that is neither named `grpc...` or `http2...` nor has "
    "such an `appProtocol`; every call fails (istio#48983, istio#40944).",
    fix="name the port `grpc`, or set `appProtocol: grpc`",
)
def port_not_grpc(mesh: Mesh) -> Iterator[Spot]:
    told = set()
    for _document, _path, name, number in mesh.called():
        for host in mesh.hosts.get(name, []):
            found = host.port(number)
            if found is None or (name, number) in told:
                continue
            index, port = found
            protocol = str(port.get("appProtocol") or port.get("protocol") or "").lower()
            if text(port, "name").split("-")[0] in HTTP2_PORT_NAMES or protocol in HTTP2_PROTOCOLS:
                continue
            told.add((name, number))
            what = f"port {number} of {name} ('{text(port, 'name')}') is asked by gRPC"
            yield Spot(host.document, ("spec", "ports", index), what)


@rule(
    10,
    Severity.ERROR,
    "A provider's service, or its port, is not there",
    why="A service that does not resolve has no cluster: everything that the policy matches is "
    "denied (istio#50881).",
    fix="write the Service's host in full, with a port of it, and check the Service's manifest "
    "together with this one",
)
def unresolved_service(mesh: Mesh) -> Iterator[Spot]:
    for provider in mesh.providers:
        path = (*provider.path, "service")
        if not provider.host:
            yield Spot(provider.document, path, f"the provider '{provider.name}' names no service")
        elif provider.host not in mesh.hosts:
            what = f"no Service or ServiceEntry in what was read is {provider.host}"
            yield Spot(provider.document, path, what)
        elif not any(host.port(provider.port) for host in mesh.hosts[provider.host]):
            what = f"{provider.host} has no port {provider.port}"
            yield Spot(provider.document, (*provider.path, "port"), what)


@rule(
    11,
    Severity.ERROR,
    "A Sidecar hides the authorizer from its workloads",
    why="A proxy whose Sidecar's egress lists lack the provider's service (or, for that egress "
    "port, its port) has no cluster for it: CUSTOM answers as if the authorizer were away.",
    fix="add `NAMESPACE/HOST` of the provider's service to an egress list without a port, or with "
    "that port",
)
def hidden_by_sidecar(mesh: Mesh) -> Iterator[Spot]:
    named = {text(policy.value, "spec", "provider", "name") for policy in mesh.custom()}
    for sidecar in mesh.of("Sidecar"):
        if not _may_be_guarded(mesh, sidecar):
            continue
        egress = items(sidecar.value, "spec", "egress")
        for provider in mesh.providers:
            if not egress or provider.name not in named or not provider.host:
                continue
            if not any(_reaches(entry, sidecar, provider.host, provider.port) for entry in egress):
                what = f"the egress lists lack {provider.host}, which '{provider.name}' needs"
                yield Spot(sidecar, ("spec", "egress"), what)


def _may_be_guarded(mesh: Mesh, sidecar: Document) -> bool:
    """Whether a CUSTOM policy is in force somewhere in the Sidecar's namespace."""
    places = {namespace(policy) for policy in mesh.custom()}
    return namespace(sidecar) in places or mesh.root_namespace in places


def _reaches(entry: object, sidecar: Document, host: str, port: object) -> bool:
    only = at(entry, "port", "number")
    if only is not None and only != port:
        return False
    own = host.removesuffix(f".{DOMAIN}").rpartition(".")[2] if host.endswith(DOMAIN) else ""
    for pattern in texts(entry, "hosts"):
        place, _, name = pattern.rpartition("/")
        place = namespace(sidecar) if place == "." else place
        if (place in ("*", own) or not own) and fnmatchcase(host, name):
            return True
    return False


@rule(
    12,
    Severity.ERROR,
    "Two providers on one workload",
    why="istiod takes one CUSTOM provider a workload and denies what the others match, unless "
    f"{MANY_PROVIDERS} is set (istio#34041, istio#55142, istio#57933).",
    fix=f"use one provider, or set {MANY_PROVIDERS}=true on istiod",
)
def two_providers(mesh: Mesh) -> Iterator[Spot]:
    told = set()
    for workload in mesh.workloads if not mesh.takes_many_providers else ():
        first = ""
        for policy in mesh.custom():
            name = text(mapping(policy.value, "spec", "provider"), "name")
            if not mesh.covers(policy, workload):
                continue
            first = first or name
            if name != first and id(policy) not in told:
                told.add(id(policy))
                what = f"'{first}' is asked for {workload.document.name} already"
                yield Spot(policy, ("spec", "provider", "name"), what)
