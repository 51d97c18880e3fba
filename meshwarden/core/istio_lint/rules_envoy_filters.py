"""Rules on EnvoyFilters: what a patch says, apart from where it lands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from meshwarden.core.documents import Document, Path
from meshwarden.core.istio_lint.findings import Severity, Spot, rule
from meshwarden.core.istio_lint.mesh import Mesh, namespace, selector_of
from meshwarden.core.istio_lint.values import at, items, mapping, text, walked

NOT_SHIPPED = {
    "envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
    "envoy.extensions.filters.http.custom_response.v3.CustomResponse",
    "xds.type.matcher.v3.HttpAttributesCelMatchInput",
    "xds.type.matcher.v3.CelMatcher",
}
DOUBTFUL = {"envoy.extensions.common.matching.v3.ExtensionWithMatcher"}
DYNAMIC_MODULES = "envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter"
RATELIMIT = "envoy.extensions.filters.http.ratelimit.v3.RateLimit"
STRIPPING = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
ORDERED = ("INSERT_BEFORE", "INSERT_AFTER", "INSERT_FIRST")
_OLDER = re.compile(r"1\\?\.(\d+)")
_CLUSTER = re.compile(r"outbound\|(\d+)\|[^|]*\|([^|]+)")


def patches(document: Document) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each patch of an EnvoyFilter, and where it stands."""
    for index, patch in enumerate(items(document.value, "spec", "configPatches")):
        yield ("spec", "configPatches", index), mapping(patch)


def operation(patch: dict[str, Any]) -> str:
    return text(patch, "patch", "operation")


def type_of(config: dict[str, Any]) -> str:
    return text(config, "@type").rpartition("/")[2]


def _typed(mesh: Mesh) -> Iterator[tuple[Document, Path, dict[str, Any], dict[str, Any]]]:
    """Every mapping with an `@type` in a patch: its document, its path, itself, its patch."""
    for document in mesh.of("EnvoyFilter"):
        for place, patch in patches(document):
            value_path = (*place, "patch", "value")
            for path, config in walked(at(patch, "patch", "value"), value_path):
                if "@type" in config:
                    yield document, path, config, patch


@rule(
    40,
    Severity.ERROR,
    "A filter that istio-proxy does not ship",
    why="istiod accepts every type that Envoy has; istio-proxy, which is built with fewer, refuses "
    "the whole update and goes on with what it had.",
    fix="use a filter that istio-proxy has: ext_authz, ratelimit, lua, header_mutation, wasm, ...",
)
def not_shipped(mesh: Mesh) -> Iterator[Spot]:
    for document, path, config, patch in _typed(mesh):
        name = type_of(config)
        if name in NOT_SHIPPED:
            yield Spot(document, (*path, "@type"), f"istio-proxy has no {name}")
        elif name == DYNAMIC_MODULES and _is_for_older(patch, 31):
            what = "istio-proxy has dynamic modules from 1.31 on, and this is for others, too"
            yield Spot(document, (*path, "@type"), what)


def _is_for_older(patch: dict[str, Any], minor: int) -> bool:
    """Whether the patch may reach a proxy older than 1.`minor`."""
    versions = _OLDER.findall(text(patch, "match", "proxy", "proxyVersion"))
    return not versions or any(int(version) < minor for version in versions)


@rule(
    41,
    Severity.WARNING,
    "A filter that istio-proxy may not ship",
    why="It is not certain that istio-proxy has it; one that lacks it refuses the whole update.",
    fix="try it on a proxy of the version in use, and see `listener_manager.lds.update_rejected`",
)
def doubtful(mesh: Mesh) -> Iterator[Spot]:
    for document, path, config, _patch in _typed(mesh):
        if type_of(config) in DOUBTFUL:
            yield Spot(document, (*path, "@type"), f"istio-proxy may lack {type_of(config)}")


@rule(
    42,
    Severity.WARNING,
    "An order that depends on when the filter was created",
    why="Without `priority` patches apply in the order of creation: the same manifests give "
    "another filter chain in the next cluster (Istio's analyzer: IST0151).",
    fix="set `spec.priority`; patches apply from the lowest to the highest",
)
def no_priority(mesh: Mesh) -> Iterator[Spot]:
    for document in mesh.of("EnvoyFilter"):
        orders = any(operation(patch) in ORDERED for _, patch in patches(document))
        if orders and at(document.value, "spec", "priority") is None:
            yield Spot(document, ("spec",), "it inserts relative to other filters without priority")


@rule(
    43,
    Severity.ERROR,
    "A filter in front of the one that strips headers",
    why="The INSERT_FIRST that is applied last stands first. A filter in front of the stripping "
    "reads what the client sent, and what it adds is stripped.",
    fix="give the EnvoyFilter that strips the highest priority of those that insert first",
)
def in_front_of_stripping(mesh: Mesh) -> Iterator[Spot]:
    first = [
        (document, place, patch)
        for document in mesh.of("EnvoyFilter")
        for place, patch in patches(document)
        if operation(patch) == "INSERT_FIRST" and text(patch, "applyTo") == "HTTP_FILTER"
    ]
    for document, place, patch in first:
        if _strips(patch):
            continue
        for other, _other_place, stripping in first:
            if not (_strips(stripping) and _may_meet(mesh, document, patch, other, stripping)):
                continue
            if _priority(document) >= _priority(other):
                what = f"it is inserted in front of, or beside, the stripping of {other.name}"
                yield Spot(document, (*place, "patch", "operation"), what)
                break


def _strips(patch: dict[str, Any]) -> bool:
    config = mapping(patch, "patch", "value", "typed_config")
    mutations = items(config, "mutations", "request_mutations")
    return type_of(config) == STRIPPING and any("remove" in mapping(one) for one in mutations)


def _may_meet(
    mesh: Mesh, one: Document, patch: dict[str, Any], other: Document, stripping: dict[str, Any]
) -> bool:
    """Whether both may land in one filter chain."""
    contexts = {text(patch, "match", "context"), text(stripping, "match", "context")}
    if len(contexts - {"", "ANY"}) > 1:
        return False
    places = {namespace(one), namespace(other)}
    if len(places) > 1 and mesh.root_namespace not in places:
        return False
    left, right = selector_of(one)[1], selector_of(other)[1]
    return all(right.get(key, value) == value for key, value in left.items())


def _priority(document: Document) -> int:
    found = at(document.value, "spec", "priority")
    return found if isinstance(found, int) else 0


@rule(
    44,
    Severity.WARNING,
    "A patch for every version of the proxy",
    why="istiod's filters and their names change between versions: while an upgrade is under way "
    "the patch reaches both (istio#52673, istio#33313, istio#35398).",
    fix="set `match.proxy.proxyVersion`, such as `^1\\.31.*`, one patch for each version tried",
)
def no_proxy_version(mesh: Mesh) -> Iterator[Spot]:
    for document in mesh.of("EnvoyFilter"):
        for place, patch in patches(document):
            if not text(patch, "match", "proxy", "proxyVersion"):
                yield Spot(document, place, "the patch states no proxyVersion")
                break


@rule(
    45,
    Severity.WARNING,
    "A rate limit filter whose time limit or failure mode is not stated",
    why="Both have defaults (20 ms, pass) that nobody chose; 20 ms is short for a store of "
    "counters beyond the node, and what was not answered in time passes uncounted (istio#20952).",
    fix="set `timeout` and `failure_mode_deny`",
)
def unstated_limiter(mesh: Mesh) -> Iterator[Spot]:
    for document, path, config, patch in _typed(mesh):
        if type_of(config) != RATELIMIT or operation(patch) == "MERGE":
            continue
        lacking = [
            name
            for name, other in (
                ("timeout", "timeout"),
                ("failure_mode_deny", "failureModeDeny"),
            )
            if name not in config and other not in config
        ]
        if lacking:
            what = f"the rate limit filter does not state {' and '.join(lacking)}"
            yield Spot(document, path, what)


@rule(
    46,
    Severity.ERROR,
    "A cluster that istiod does not make",
    why="A filter that asks a cluster which is not there fails on every call: ext_authz denies, "
    "the rate limit passes. istiod's clusters are named `outbound|PORT|SUBSET|HOST`, and mutual "
    "TLS holds for those.",
    fix="write `outbound|PORT||NAME.NAMESPACE.svc.cluster.local` of a Service with that port, or "
    "add the cluster by a CLUSTER patch",
)
def unknown_cluster(mesh: Mesh) -> Iterator[Spot]:
    added = {
        text(patch, "patch", "value", "name")
        for document in mesh.of("EnvoyFilter")
        for _, patch in patches(document)
        if text(patch, "applyTo") == "CLUSTER" and operation(patch) == "ADD"
    }
    for document, path, name in mesh.called_clusters():
        if name in added:
            continue
        matched = _CLUSTER.fullmatch(name)
        if not matched:
            what = f"'{name}' is not of the form outbound|PORT||HOST"
            yield Spot(document, path, what)
            continue
        number, host = int(matched[1]), matched[2]
        if not any(found.port(number) for found in mesh.hosts.get(host, [])):
            what = f"no Service in what was read is {host} with port {number}"
            yield Spot(document, path, what)


def _typed_faults(mesh: Mesh, kind: str) -> Iterator[Spot]:
    for found, document, path, what in mesh.typed_faults:
        if found == kind:
            yield Spot(document, path, what)


@rule(
    47,
    Severity.ERROR,
    "A type that Envoy does not have",
    why="istiod leaves the patch out, and says so in its log alone.",
    fix="write the type as Envoy's API reference does",
)
def unknown_type(mesh: Mesh) -> Iterator[Spot]:
    yield from _typed_faults(mesh, "type")


@rule(
    48,
    Severity.ERROR,
    "A field that Envoy's type does not have, or a value that it does not take",
    why="`istioctl validate` warns at most, with exit status 0; istiod leaves the field out and "
    "applies the rest, or the proxy refuses the update (istio#38358).",
    fix="write the field as Envoy's API reference does",
)
def unknown_field(mesh: Mesh) -> Iterator[Spot]:
    yield from _typed_faults(mesh, "field")


@rule(
    49,
    Severity.ERROR,
    "An EnvoyFilter for a waypoint",
    why="Waypoints don't support EnvoyFilters (istio#54391, istio#57350): most are ignored, and "
    "what arrives lacks the limiter's cluster and, beside an HTTPRoute, its descriptors.",
    fix="enforce limits in ext_authz, or at the ingress gateway",
)
def for_a_waypoint(mesh: Mesh) -> Iterator[Spot]:
    waypoints = {
        (document.name, namespace(document))
        for document in mesh.of("Gateway", "gateway.networking.k8s.io")
        if text(document.value, "spec", "gatewayClassName") == "istio-waypoint"
    }
    for document in mesh.of("EnvoyFilter"):
        for index, ref in enumerate(items(document.value, "spec", "targetRefs")):
            if (text(ref, "name"), namespace(document)) in waypoints:
                what = f"{text(ref, 'name')} is a waypoint"
                yield Spot(document, ("spec", "targetRefs", index), what)
