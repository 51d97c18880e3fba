"""What the manifests say together: services by host, workloads by labels, which policy covers
which workload.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from meshwarden.core.documents import Document, Path
from meshwarden.core.istio_lint import mesh_config
from meshwarden.core.istio_lint.mesh_config import MeshConfig, Provider
from meshwarden.core.istio_lint.values import (
    at,
    items,
    labels,
    mapping,
    selects,
    text,
    texts,
    walked,
)

ISTIO = "istio.io"
GATEWAY_API = "gateway.networking.k8s.io"
GATEWAY_NAME_LABEL = "gateway.networking.k8s.io/gateway-name"
WAYPOINT_CLASS = "istio-waypoint"
OPERATORS_GATEWAY = {"istio": "ingressgateway", "app": "istio-ingressgateway"}
"""The labels of the ingress gateway that the profiles `default` and `demo` install."""
DOMAIN = "svc.cluster.local"
_TEMPLATES = {"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Rollout"}

TypedFault = tuple[str, Path, str]
"""`type` or `field`; where, from the patch's value; what is wrong."""
TypedCheck = Callable[[str, Any], Iterable[TypedFault]]
"""What is wrong with the value of a patch that is applied to (`HTTP_FILTER`, ...), by Envoy's own
types.
"""


@dataclass(frozen=True, slots=True)
class Workload:
    """Something with a proxy, or that would have one: its Pods' labels, and whether a sidecar is
    injected or it is a gateway.
    """

    document: Document
    path: Path
    namespace: str
    labels: dict[str, str]
    is_injected: bool = False
    is_gateway: bool = False


@dataclass(frozen=True, slots=True)
class Host:
    """A Service or one host of a ServiceEntry, with its ports as they stand there."""

    document: Document
    name: str
    ports: tuple[dict[str, Any], ...]
    is_external: bool = False

    def port(self, number: Any) -> tuple[int, dict[str, Any]] | None:
        """The port of that number, with its index."""
        for index, port in enumerate(self.ports):
            if at(port, "port") == number or at(port, "number") == number:
                return index, port
        return None


def _nothing_typed(_applies_to: str, _value: Any) -> Iterable[TypedFault]:
    return ()


@dataclass(frozen=True)
class Mesh:
    """All documents that are checked together."""

    documents: tuple[Document, ...]
    typed: TypedCheck = field(default=_nothing_typed)

    def of(self, kind: str, group: str = ISTIO) -> list[Document]:
        """The documents of a kind whose API group ends with `group`; `` is Kubernetes' core."""
        return [d for d in self.documents if d.kind == kind and _group(d).endswith(group)]

    @cached_property
    def configs(self) -> list[MeshConfig]:
        return mesh_config.mesh_configs(self.documents)

    @cached_property
    def providers(self) -> list[Provider]:
        return mesh_config.providers(self.configs)

    @cached_property
    def takes_many_providers(self) -> bool:
        return mesh_config.takes_many_providers(self.documents)

    @cached_property
    def root_namespace(self) -> str:
        named = [text(config.value, "rootNamespace") for config in self.configs]
        return next((name for name in named if name), "istio-system")

    @cached_property
    def hosts(self) -> dict[str, list[Host]]:
        """Services and ServiceEntries by full host name."""
        found: dict[str, list[Host]] = {}
        for host in [*self._services(), *self._entries()]:
            found.setdefault(host.name, []).append(host)
        return found

    def _services(self) -> Iterator[Host]:
        for document in self.documents:
            if document.kind == "Service" and not _group(document):
                name = full_name(document.name, namespace(document))
                yield Host(document, name, tuple(items(document.value, "spec", "ports")))

    def _entries(self) -> Iterator[Host]:
        for document in self.of("ServiceEntry"):
            is_external = text(document.value, "spec", "location") != "MESH_INTERNAL"
            ports = tuple(items(document.value, "spec", "ports"))
            for name in texts(document.value, "spec", "hosts"):
                yield Host(document, name, ports, is_external)

    def resolved(self, host: str, where: str) -> str:
        """A host as a route or a DestinationRule in namespace `where` may write it (`name`,
        `name.namespace`, in full), in full.
        """
        candidates = (host, full_name(host, where), f"{host}.{DOMAIN}", f"{host}.cluster.local")
        return next((name for name in candidates if name in self.hosts), candidates[1])

    @cached_property
    def injected_namespaces(self) -> set[str]:
        """Namespaces whose Pods get a sidecar, or are in the ambient mesh."""
        found = set()
        for document in self.documents:
            if document.kind == "Namespace":
                own = labels(document.value, "metadata", "labels")
                if (
                    own.get("istio-injection") == "enabled"
                    or ("istio.io/rev" in own and own.get("istio-injection") != "disabled")
                    or own.get("istio.io/dataplane-mode") == "ambient"
                ):
                    found.add(document.name)
        return found

    @cached_property
    def workloads(self) -> list[Workload]:
        """Workloads of their own manifests, and gateways that a Gateway says must be there."""
        own = [found for document in self.documents for found in self._own(document)]
        return own + [
            gateway
            for gateway in self._gateways()
            if not any(selects(gateway.labels, one.labels) for one in own)
        ]

    def _own(self, document: Document) -> Iterator[Workload]:
        paths: dict[str, Path] = {
            **dict.fromkeys(_TEMPLATES, ("spec", "template", "metadata", "labels")),
            "Pod": ("metadata", "labels"),
            "WorkloadEntry": ("spec", "labels"),
            "WorkloadGroup": ("spec", "metadata", "labels"),
        }
        if document.kind not in paths:
            return
        path = paths[document.kind]
        own = labels(document.value, *path)
        where = namespace(document)
        switch = own.get("sidecar.istio.io/inject", "")
        annotated = mapping(document.value, *path[:-1], "annotations")
        is_gateway = annotated.get("inject.istio.io/templates") == "gateway"
        is_injected = switch == "true" or (switch != "false" and where in self.injected_namespaces)
        yield Workload(document, path[:-1], where, own, is_injected or is_gateway, is_gateway)

    def _gateways(self) -> Iterator[Workload]:
        for document in self.documents:
            profile = text(document.value, "spec", "profile") or "default"
            if document.kind == "IstioOperator" and profile in ("default", "demo"):
                where = namespace(document)
                yield Workload(document, (), where, dict(OPERATORS_GATEWAY), is_gateway=True)
        for document in self.of("Gateway"):
            own = labels(document.value, "spec", "selector")
            path: Path = ("spec", "selector")
            yield Workload(document, path, namespace(document), own, is_gateway=True)
        for document in self.of("Gateway", GATEWAY_API):
            is_waypoint = text(document.value, "spec", "gatewayClassName") == WAYPOINT_CLASS
            # With addresses it stands on Pods of their own, which other manifests show.
            if not is_waypoint and not items(document.value, "spec", "addresses"):
                own = {GATEWAY_NAME_LABEL: document.name}
                yield Workload(document, (), namespace(document), own, is_gateway=True)

    @cached_property
    def policies(self) -> list[Document]:
        return self.of("AuthorizationPolicy")

    def custom(self) -> Iterator[Document]:
        """The AuthorizationPolicies that ask an external authorizer."""
        return (d for d in self.policies if text(d.value, "spec", "action") == "CUSTOM")

    def in_reach(self, document: Document) -> list[Workload]:
        """The workloads of a resource's namespace; of every one where it is the root namespace."""
        where = namespace(document)
        return [one for one in self.workloads if where in (one.namespace, self.root_namespace)]

    def covers(self, document: Document, workload: Workload) -> bool:
        """Whether a resource with `selector`, `workloadSelector` or `targetRefs` is for a
        workload.
        """
        where = namespace(document)
        spec = mapping(document.value, "spec")
        refs = [
            *items(spec, "targetRefs"),
            *([at(spec, "targetRef")] if "targetRef" in spec else []),
        ]
        if refs:
            own = workload.labels.get(GATEWAY_NAME_LABEL)
            named = {text(ref, "name") for ref in refs if text(ref, "kind") == "Gateway"}
            return where == workload.namespace and own in named
        is_everywhere = where == self.root_namespace
        return (is_everywhere or where == workload.namespace) and selects(
            selector_of(document)[1], workload.labels
        )

    @cached_property
    def typed_faults(self) -> list[tuple[str, Document, Path, str]]:
        """What Envoy's types say about the patches: `type` or `field`, where, and what."""
        found = []
        for document in self.of("EnvoyFilter"):
            for index, patch in enumerate(items(document.value, "spec", "configPatches")):
                place = ("spec", "configPatches", index, "patch", "value")
                value = at(patch, "patch", "value")
                for kind, path, what in self.typed(text(patch, "applyTo"), value):
                    found.append((kind, document, (*place, *path), what))
        return found

    def called(self) -> Iterator[tuple[Document, Path, str, Any]]:
        """Every gRPC service that proxies are told to ask: where it is said, its host, its port."""
        for provider in self.providers:
            if provider.is_grpc and provider.host:
                yield provider.document, (*provider.path, "service"), provider.host, provider.port
        for document, path, name in self.called_clusters():
            parts = name.split("|")
            if len(parts) == 4 and parts[0] == "outbound" and parts[1].isdigit():
                yield document, path, parts[3], int(parts[1])

    def called_clusters(self) -> Iterator[tuple[Document, Path, str]]:
        """Every cluster that an EnvoyFilter tells a filter to ask by gRPC."""
        for document in self.of("EnvoyFilter"):
            for path, found in _walked_patches(document):
                name = text(found, "envoy_grpc", "cluster_name")
                name = name or text(found, "envoyGrpc", "clusterName")
                if name:
                    yield document, (*path, "envoy_grpc", "cluster_name"), name


def _walked_patches(document: Document) -> Iterator[tuple[Path, dict[str, Any]]]:
    for index, patch in enumerate(items(document.value, "spec", "configPatches")):
        place = ("spec", "configPatches", index, "patch", "value")
        yield from walked(at(patch, "patch", "value"), place)


def namespace(document: Document) -> str:
    return document.namespace or "default"


def full_name(host: str, where: str) -> str:
    """A Service's name in full; what has a dot is taken for full."""
    return f"{host}.{where}.{DOMAIN}" if host and host != "*" and "." not in host else host


def selector_of(document: Document) -> tuple[Path, dict[str, str]]:
    """The labels by which a resource chooses workloads, and where they stand."""
    paths: tuple[Path, ...] = (
        ("spec", "selector", "matchLabels"),
        ("spec", "workloadSelector", "labels"),
    )
    for path in paths:
        found = labels(document.value, *path)
        if found:
            return path, found
    return (), {}


def _group(document: Document) -> str:
    group, separator, _ = text(document.value, "apiVersion").partition("/")
    return group if separator else ""
