"""All files of an installation: what is applied (`base`), what may be applied besides
(`components`), and what Istio is installed with (`install`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from meshwarden.adapters.istio.enforcement import at_gateway, at_sidecars
from meshwarden.adapters.istio.facts import PolicyFacts
from meshwarden.adapters.istio.gateways import gateway_api, ingress
from meshwarden.adapters.istio.mesh_config import helm_values, operator
from meshwarden.adapters.istio.names import EXT_AUTHZ, RATELIMIT
from meshwarden.adapters.istio.options import IstioOptions
from meshwarden.adapters.istio.own_traffic import own_traffic
from meshwarden.adapters.istio.rights import accounts, ownership
from meshwarden.adapters.istio.workloads import namespace, workload

HEADER = (
    "# Rendered by `meshwarden render istio`. Edit the options and the policies, not this file.\n"
)
KUSTOMIZATION = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
COMPONENT = {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component"}

Documents = list[dict[str, Any]]


def files(options: IstioOptions, facts: PolicyFacts) -> dict[str, str]:
    """The text of each file by its name below `istio/`. Raises `Misconfigured` for limits that no
    proxy could ask for.
    """
    base = documents_by_file(options, facts)
    kustomization = {**KUSTOMIZATION, "resources": list(base)}
    result = {f"base/{name}": _text(*documents) for name, documents in base.items()}
    result["base/kustomization.yaml"] = _text(kustomization)
    components = {
        "ingress": ingress(options, facts),
        "gateway-api": gateway_api(options, facts),
    }
    for name, documents in components.items():
        if documents:
            result[f"components/{name}/gateway.yaml"] = _text(*documents)
            result[f"components/{name}/kustomization.yaml"] = _text(
                {**COMPONENT, "resources": ["gateway.yaml"]}
            )
    result["install/istiod-values.yaml"] = _text(helm_values(options, facts))
    result["install/istio-operator.yaml"] = _text(operator(options, facts))
    return result


def documents_by_file(options: IstioOptions, facts: PolicyFacts) -> dict[str, Documents]:
    """What is applied, by file, in the order of being applied."""
    owned = ownership(options, facts)
    return {
        "namespace.yaml": [namespace(options)],
        "accounts.yaml": accounts(options, facts),
        **({"ownership.yaml": owned} if owned else {}),
        "ext-authz.yaml": workload(options, facts, EXT_AUTHZ),
        "ratelimit.yaml": workload(options, facts, RATELIMIT),
        "own-traffic.yaml": own_traffic(options),
        "policies.yaml": _policies(options, facts),
        "gateway.yaml": at_gateway(options, facts),
        "sidecars.yaml": at_sidecars(options, facts),
    }


def _policies(options: IstioOptions, facts: PolicyFacts) -> Documents:
    """The folder's resources; what is shared by all namespaces stands in ours."""
    return [_placed(options, resource) for resource in facts.resources]


def _placed(options: IstioOptions, resource: Mapping[str, Any]) -> dict[str, Any]:
    metadata = dict(resource["metadata"])
    metadata["namespace"] = metadata.get("namespace") or options.namespace
    return {**resource, "metadata": metadata}


def _text(*documents: Mapping[str, Any]) -> str:
    return HEADER + yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=100)


class _Dumper(yaml.CSafeDumper):
    """Without anchors: the same value twice is written twice; a file's text line by line."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = "|" if "\n" in text else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)
