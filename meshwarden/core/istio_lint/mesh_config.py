"""Where an installation's mesh configuration stands, and the authorizers that it names.

It is read from the ConfigMap `istio` (key `mesh`), an IstioOperator, Helm values of istiod
(`meshConfig`), or a file of MeshConfig itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from meshwarden.core.documents import Document, Path, parse
from meshwarden.core.faults import InvalidInput
from meshwarden.core.istio_lint.values import at, items, mapping, text

MANY_PROVIDERS = "PILOT_ENABLE_MULTIPLE_CUSTOM_AUTHZ_PROVIDERS"
_OWN_FIELDS = {"extensionProviders", "pathNormalization", "rootNamespace", "defaultConfig"}
_IN_VALUES = (("meshConfig",), ("istiod", "meshConfig"))
_IN_OPERATOR = (("spec", "meshConfig"), ("spec", "values", "meshConfig"))


@dataclass(frozen=True, slots=True)
class MeshConfig:
    """One mesh configuration: `path` leads to it in `document`, which is the text within the
    ConfigMap `outer` where it comes from one.
    """

    document: Document
    path: Path
    outer: Document

    @property
    def value(self) -> dict[str, Any]:
        return mapping(self.document.value, *self.path)


@dataclass(frozen=True, slots=True)
class Provider:
    """An external authorizer as mesh configuration names it; `spec` is its
    `envoyExtAuthzGrpc` or `envoyExtAuthzHttp`.
    """

    config: MeshConfig
    path: Path
    name: str
    is_grpc: bool
    spec: dict[str, Any]

    @property
    def document(self) -> Document:
        return self.config.document

    @property
    def host(self) -> str:
        """Its service without the namespace that may stand before it."""
        return text(self.spec, "service").rpartition("/")[2]

    @property
    def port(self) -> Any:
        return at(self.spec, "port")


def mesh_configs(documents: Iterable[Document]) -> list[MeshConfig]:
    """Every mesh configuration in `documents`."""
    return [found for document in documents for found in _within(document)]


def _within(document: Document) -> Iterator[MeshConfig]:
    value = document.value
    if document.kind == "ConfigMap" and document.name.split("-")[0] == "istio":
        inner = _embedded(document, ("data", "mesh"))
        if inner is not None:
            yield MeshConfig(inner, (), document)
    elif document.kind == "IstioOperator":
        yield from (MeshConfig(document, p, document) for p in _IN_OPERATOR if at(value, *p))
    elif not document.kind and isinstance(value, dict):
        yield from (MeshConfig(document, p, document) for p in _IN_VALUES if at(value, *p))
        if _OWN_FIELDS & value.keys():
            yield MeshConfig(document, (), document)


def _embedded(document: Document, path: Path) -> Document | None:
    """The document within a string, its lines counted in the file: right for a block (`|`), else
    the line where the string begins.
    """
    content = text(document.value, *path)
    try:
        found = parse(document.file, content.encode(), takes_scalar_keys=True)
    except InvalidInput:
        return None
    if not found:
        return None
    start = document.line(path)
    later = [line for line in document.lines.values() if line > start]
    is_block = not later or min(later) - start >= content.count("\n")
    shifted = {p: start + line if is_block else start for p, line in found[0].lines.items()}
    return Document(
        document.file,
        found[0].value,
        shifted,
        document.kind,
        document.name,
        document.namespace,
    )


def providers(configs: Iterable[MeshConfig]) -> list[Provider]:
    """Every external authorizer in mesh configuration."""
    found = []
    for config in configs:
        for index, entry in enumerate(items(config.value, "extensionProviders")):
            for field in ("envoyExtAuthzGrpc", "envoyExtAuthzHttp"):
                if at(entry, field) is None:
                    continue
                place = (*config.path, "extensionProviders", index, field)
                is_grpc = field.endswith("Grpc")
                spec = mapping(entry, field)
                found.append(Provider(config, place, text(entry, "name"), is_grpc, spec))
    return found


def takes_many_providers(documents: Iterable[Document]) -> bool:
    """Whether istiod is told to take several CUSTOM providers on one workload."""
    for document in documents:
        value = document.value
        candidates = [
            at(value, "pilot", "env", MANY_PROVIDERS),
            at(value, "env", MANY_PROVIDERS),
            at(value, "spec", "values", "pilot", "env", MANY_PROVIDERS),
        ]
        lists = [items(value, "spec", "components", "pilot", "k8s", "env")]
        if document.kind == "Deployment":
            pods = items(value, "spec", "template", "spec", "containers")
            lists += [items(container, "env") for container in pods]
        for entry in (entry for found in lists for entry in found):
            if at(entry, "name") == MANY_PROVIDERS:
                candidates.append(at(entry, "value"))
        if any(str(candidate).lower() == "true" for candidate in candidates):
            return True
    return False
