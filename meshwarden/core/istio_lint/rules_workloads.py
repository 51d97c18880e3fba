"""Rules on what guards a workload at all: a policy, mutual TLS, limits that can apply."""

from __future__ import annotations

from collections.abc import Iterator

from meshwarden.core.documents import Document
from meshwarden.core.istio_lint.findings import Severity, Spot, rule
from meshwarden.core.istio_lint.mesh import Mesh, Workload, namespace, selector_of
from meshwarden.core.istio_lint.rules_policies import JOINING, is_open
from meshwarden.core.istio_lint.values import at, items, mapping, selects, text, walked

AUTHORIZERS_WORD = "envoy.filters.http.ext_authz"
"""The namespace of dynamic metadata in which Envoy keeps what the authorizer tells."""
OPEN_MODES = ("PERMISSIVE", "DISABLE")
OUR_MODES = ("ISTIO_MUTUAL", "")


@rule(
    30,
    Severity.ERROR,
    "A workload that no policy covers",
    why="Without an AuthorizationPolicy a proxy lets everything pass; one that allows `{}` or only "
    "audits is the same.",
    fix="add an AuthorizationPolicy for it (CUSTOM, or an ALLOW of nothing for its namespace)",
)
def left_open(mesh: Mesh) -> Iterator[Spot]:
    restricting = [policy for policy in mesh.policies if not is_open(policy)]
    for workload in mesh.workloads:
        if not (workload.is_injected or workload.is_gateway):
            continue
        if not any(mesh.covers(policy, workload) for policy in restricting):
            kind = "gateway" if workload.is_gateway else "workload"
            what = f"the {kind} {workload.document.name} ({workload.namespace}) is open to everyone"
            yield Spot(workload.document, workload.path, what)


@rule(
    31,
    Severity.ERROR,
    "Plain text is taken beside mutual TLS",
    why="A caller in plain text has no identity: rules on principals and namespaces can be passed "
    "by not using TLS, and what a sidecar would add or strip is not.",
    fix="set the mode to STRICT",
)
def plain_text_taken(mesh: Mesh) -> Iterator[Spot]:
    for document in mesh.of("PeerAuthentication"):
        if text(document.value, "spec", "mtls", "mode") in OPEN_MODES:
            mode = text(document.value, "spec", "mtls", "mode")
            yield Spot(document, ("spec", "mtls", "mode"), f"the mode is {mode}")
        for port, setting in mapping(document.value, "spec", "portLevelMtls").items():
            if text(setting, "mode") in OPEN_MODES:
                what = f"the mode of port {port} is {text(setting, 'mode')}"
                yield Spot(document, ("spec", "portLevelMtls", port, "mode"), what)


@rule(
    32,
    Severity.WARNING,
    "Mutual TLS is not required",
    why="Without a PeerAuthentication the mode is PERMISSIVE: plain text is taken.",
    fix="add a PeerAuthentication with `mtls: {mode: STRICT}` in the root namespace",
)
def mutual_tls_not_required(mesh: Mesh) -> Iterator[Spot]:
    for workload in mesh.workloads:
        if workload.is_injected and not any(
            namespace(document) in (workload.namespace, mesh.root_namespace)
            and selects(selector_of(document)[1], workload.labels)
            for document in mesh.of("PeerAuthentication")
        ):
            what = f"no PeerAuthentication is for {workload.document.name} ({workload.namespace})"
            yield Spot(workload.document, workload.path, what)


@rule(
    33,
    Severity.ERROR,
    "A DestinationRule takes mutual TLS away from a service of the mesh",
    why="`tls` in a DestinationRule wins over automatic mutual TLS: the callee sees no identity, "
    "or refuses, where it is STRICT (istio#52673, istio#33313, istio#35398).",
    fix="use `mode: ISTIO_MUTUAL`, or leave `tls` out",
)
def mutual_tls_taken_away(mesh: Mesh) -> Iterator[Spot]:
    for document in mesh.of("DestinationRule"):
        host = mesh.resolved(text(document.value, "spec", "host"), namespace(document))
        if not any(not found.is_external for found in mesh.hosts.get(host, [])):
            continue
        mode = text(document.value, "spec", "trafficPolicy", "tls", "mode")
        if mode not in OUR_MODES:
            path = ("spec", "trafficPolicy", "tls", "mode")
            yield Spot(document, path, f"TLS to {host} is {mode}")


@rule(
    34,
    Severity.WARNING,
    "A workload that is not in the mesh, in a namespace that is",
    why='A Pod label `sidecar.istio.io/inject: "false"` takes the workload out: no policy, no '
    "limit and no identity there.",
    fix="remove the label, or say why it is right",
)
def taken_out(mesh: Mesh) -> Iterator[Spot]:
    for workload in mesh.workloads:
        if (
            workload.namespace in mesh.injected_namespaces
            and workload.labels.get("sidecar.istio.io/inject") == "false"
        ):
            what = f"{workload.document.name} is taken out of the mesh"
            yield Spot(workload.document, workload.path, what)


@rule(
    50,
    Severity.ERROR,
    "Limits that count by what no authorizer tells",
    why="An action that reads the authorizer's metadata makes no descriptor where it was not "
    "asked: the limit never applies there, and nothing says so.",
    fix="let a CUSTOM policy cover the workload (of ours: the Pod label `meshwarden.io/authorize: "
    "sidecar` beside `meshwarden.io/limit: sidecar`), or count by something else",
)
def limits_without_authorizer(mesh: Mesh) -> Iterator[Spot]:
    asked = list(mesh.custom())
    for workload in mesh.workloads:
        has_joined = any(label.startswith(JOINING) for label in workload.labels)
        has_proxy = workload.is_injected or workload.is_gateway or has_joined
        if not has_proxy or any(mesh.covers(policy, workload) for policy in asked):
            continue
        for document in mesh.of("EnvoyFilter"):
            if mesh.covers(document, workload) and _reads_authorizers_word(document, workload):
                what = (
                    f"{workload.document.name} ({workload.namespace}) has limits by "
                    f"{document.name}, which read what the authorizer tells, and no CUSTOM policy"
                )
                yield Spot(workload.document, workload.path, what)
                break


def _reads_authorizers_word(document: Document, workload: Workload) -> bool:
    """Whether limits that an EnvoyFilter gives such a workload have descriptors made of the
    authorizer's metadata, and nothing in its place.
    """
    other = "SIDECAR_" if workload.is_gateway else "GATEWAY"
    return any(
        text(found.get("metadata_key") or found.get("metadataKey"), "key") == AUTHORIZERS_WORD
        and not (found.get("default_value") or found.get("defaultValue"))
        for patch in items(document.value, "spec", "configPatches")
        if not text(patch, "match", "context").startswith(other)
        for _, limits in walked(at(patch, "patch", "value"), ())
        for _, found in walked(limits.get("rate_limits") or limits.get("rateLimits"), ())
    )
