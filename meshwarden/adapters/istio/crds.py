"""The CustomResourceDefinitions of the resource kinds, made from the models that judge the files.

    model -> JSON Schema -> structural schema, with the service's additions -> CRD

A CRD refuses nothing that the model takes; what it can't check is left to the services, which write
`status`. Defaults are left out: the models fill them in, and one that stood here would be written
into the user's object, where a later release's default would not reach it.
Known weakness: the API server drops a field that it doesn't know, and only says so, unless the
client asks for strict validation, as kubectl does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pydantic
import yaml

from meshwarden.adapters.istio.structural_schema import Conversion
from meshwarden.core.schema_additions import Additions

GROUP = "meshwarden.io"
VERSION = "v1alpha1"
CATEGORY = "meshwarden"
HEADER = "# Rendered by `meshwarden render crds` from the models. Edit those, not this file.\n"
MESSAGE_CHARACTERS_AT_MOST = 32_768


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind as a cluster is told of it.

    `model` has `metadata` and `spec`; `levels` is how often a part that holds itself is written
    out; `columns` are those besides the status: name and JSON path. `has_status`: whether a
    condition tells that it was accepted.
    """

    model: type[pydantic.BaseModel]
    name: str
    plural: str
    short_name: str
    additions: Additions
    columns: Mapping[str, str] = field(default_factory=dict)
    levels: int = 1
    has_status: bool = True


def crd_files(kinds: Iterable[Kind]) -> dict[str, str]:
    """The text of each file by its name below `istio/crds`; kustomize takes the folder whole."""
    files = {f"{kind.plural}.yaml": HEADER + _text(crd(kind)) for kind in kinds}
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": sorted(files),
    }
    return {**files, "kustomization.yaml": HEADER + _text(kustomization)}


def crd(kind: Kind) -> dict[str, Any]:
    """The CustomResourceDefinition of one kind. Raises `ValueError` where its schema has what no
    structural schema can say.
    """
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _schema(kind)},
        "additionalPrinterColumns": _columns(kind),
    }
    if kind.has_status:
        version["subresources"] = {"status": {}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{kind.plural}.{GROUP}",
            "labels": {"app.kubernetes.io/part-of": "meshwarden"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": [kind.short_name],
                "categories": [CATEGORY],
            },
            "versions": [version],
        },
    }


def _schema(kind: Kind) -> dict[str, Any]:
    source = kind.model.model_json_schema(by_alias=True)
    definitions = source.get("$defs", {})
    additions = {model.__name__: found for model, found in kind.additions.items()}
    conversion = Conversion(definitions, additions, kind.levels)
    fields = {name: part for name, part in source["properties"].items() if name != "metadata"}
    schema = conversion.schema({**source, "properties": fields})
    schema["properties"] = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": _metadata(conversion.schema(source["properties"]["metadata"])),
        "spec": schema["properties"]["spec"],
    }
    schema["required"] = [name for name in schema.get("required", ()) if name == "spec"]
    if not schema["required"]:
        del schema["required"]
    if kind.has_status:
        schema["properties"]["status"] = STATUS
    return schema


def _metadata(model: Mapping[str, Any]) -> dict[str, Any]:
    """Kubernetes has a schema of its own for it, and lets a CRD add to the name alone."""
    name = model["properties"]["name"]
    kept = {keyword: name[keyword] for keyword in ("type", "maxLength") if keyword in name}
    is_bounded = name["maxLength"] <= NAME_CHARACTERS_AT_MOST
    return {"type": "object", **({"properties": {"name": kept}} if is_bounded else {})}


NAME_CHARACTERS_AT_MOST = 253
"""Of Kubernetes' own."""


def _columns(kind: Kind) -> list[dict[str, Any]]:
    """What `kubectl get` shows; `-o wide` the message, too."""
    condition = '.status.conditions[?(@.type=="Accepted")]'
    first = [_column(name, path) for name, path in kind.columns.items()]
    status = [
        _column("Accepted", f"{condition}.status"),
        _column("Reason", f"{condition}.reason"),
        {**_column("Message", f"{condition}.message"), "priority": 1},
        {**_column("Replicas", ".status.replicas.accepted"), "type": "integer"},
    ]
    age = {**_column("Age", ".metadata.creationTimestamp"), "type": "date"}
    return [*first, *(status if kind.has_status else []), age]


def _column(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "type": "string", "jsonPath": path}


def _said(kind: str, description: str, **keywords: Any) -> dict[str, Any]:
    return {"type": kind, "description": description, **keywords}


_NUMBER = {"format": "int64", "minimum": 0}
_CONDITION_FIELDS = {
    "type": _said("string", "What is told: Accepted.", minLength=1, maxLength=316),
    "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
    "reason": _said(
        "string",
        "Accepted, Refused, Conflict, NotYours or Pending.",
        pattern="^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        minLength=1,
        maxLength=1024,
    ),
    "message": _said("string", "What is wrong.", maxLength=MESSAGE_CHARACTERS_AT_MOST),
    "observedGeneration": _said("integer", "The generation that it is about.", **_NUMBER),
    "lastTransitionTime": _said("string", "Since when.", format="date-time"),
}
STATUS: dict[str, Any] = _said(
    "object",
    "What the services say of the object; written by them alone.",
    properties={
        "observedGeneration": _said("integer", "The generation last looked at.", **_NUMBER),
        "conditions": {
            "type": "array",
            "maxItems": 8,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
            "items": {
                "type": "object",
                "required": ["type", "status", "reason", "message", "lastTransitionTime"],
                "properties": _CONDITION_FIELDS,
            },
        },
        "replicas": _said(
            "object",
            "How many replicas of the service took it, of how many that are known.",
            properties={
                "accepted": {"type": "integer", **_NUMBER},
                "known": {"type": "integer", **_NUMBER},
            },
        ),
    },
)


def _text(document: Mapping[str, Any]) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=100)


class _Dumper(yaml.SafeDumper):
    """Without anchors: the same value twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True
