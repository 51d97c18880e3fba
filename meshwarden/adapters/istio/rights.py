"""Whose word counts in the cluster, and what our services may read there: the ownership of hosts
and domains, the ServiceAccounts and their roles, and the settings that must agree with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from meshwarden.adapters.istio.access import Access, NamedFiles, access
from meshwarden.adapters.istio.facts import ClusterFile, PolicyFacts
from meshwarden.adapters.istio.names import EXT_AUTHZ, RATELIMIT, document
from meshwarden.adapters.istio.options import IstioOptions
from meshwarden.core.ownership import parse_ownership

OWNERSHIP = "meshwarden-ownership"
"""The ConfigMap that says which namespace may speak for which hosts and domains."""

Documents = list[dict[str, Any]]


def accounts(options: IstioOptions, facts: PolicyFacts) -> Documents:
    """The ServiceAccounts and their rights. Without a token by themselves: the Pod that needs one
    mounts it.
    """
    result = []
    for name in (EXT_AUTHZ, RATELIMIT):
        result += access(
            Access(
                name,
                installed_in=options.namespace,
                asks_reviews=name == EXT_AUTHZ and asks_reviews(options, facts),
                namespaces=options.watched_namespaces,
                files=_files(options, facts, name),
            )
        )
    for one in result:
        if one["kind"] == "ServiceAccount":
            one["automountServiceAccountToken"] = False
    return result


def ownership(options: IstioOptions, facts: PolicyFacts) -> Documents:
    """The ConfigMap of who owns what: as the options say, and what stands in the folder. A
    namespace that it does not name may claim nothing. None where any may claim what nobody holds.

    Raises `InvalidInput` for hosts that are none and for what two namespaces would own.
    """
    if options.open_claims:
        return []
    owned = {
        "hosts": _by_namespace(facts.host_owners, options.host_owners),
        "domains": _by_namespace(facts.domain_owners, options.domain_owners),
    }
    text = yaml.safe_dump(owned, sort_keys=True)
    parse_ownership("--set host_owners, domain_owners", text.encode())
    made = document("v1", "ConfigMap", OWNERSHIP, namespace=options.namespace)
    return [made | {"data": {"ownership.yaml": text}}]


def watching(options: IstioOptions, facts: PolicyFacts, service: str) -> Mapping[str, str]:
    """The settings of `configuration.kubernetes`, by their name."""
    result = {"ENABLED": "true", "SHARED_NAMESPACE": options.namespace}
    if options.watched_namespaces:
        result["NAMESPACES"] = ",".join(options.watched_namespaces)
    if not options.open_claims:
        result["OWNERSHIP"] = OWNERSHIP
    tenants = {file.namespace for file in _tenants_files(options, facts)} - {options.namespace}
    if tenants and service == EXT_AUTHZ:
        result["SECRET_NAMESPACES"] = ",".join(sorted(tenants))
    return result


def asks_reviews(options: IstioOptions, facts: PolicyFacts) -> bool:
    """Whether the authorizer asks the API server about tokens and accesses."""
    return options.kubernetes_reviews or facts.asks_kubernetes


def _files(options: IstioOptions, facts: PolicyFacts, service: str) -> dict[str, NamedFiles]:
    """What a service may read, by namespace: each Secret and ConfigMap by its name."""
    found: set[ClusterFile] = set()
    if not options.open_claims:
        found.add(ClusterFile(options.namespace, "configmap", OWNERSHIP))
    if service == EXT_AUTHZ:
        found.update(_tenants_files(options, facts))
        if facts.reads_api_keys or facts.signs_tokens:
            found.add(ClusterFile(options.namespace, "secret", options.keys_secret))
    return {
        namespace: NamedFiles(
            secrets=_names(found, namespace, "secret"),
            config_maps=_names(found, namespace, "configmap"),
        )
        for namespace in sorted({file.namespace for file in found})
    }


def _tenants_files(options: IstioOptions, facts: PolicyFacts) -> set[ClusterFile]:
    """What objects refer to: the folder's, and those that the options let come later."""
    referred = {
        file._replace(namespace=file.namespace or options.namespace) for file in facts.files
    }
    return referred | {ClusterFile(*text.split("/")) for text in options.readable_files}


def _names(files: Iterable[ClusterFile], namespace: str, sort: str) -> list[str]:
    return sorted(one.name for one in files if (one.namespace, one.sort) == (namespace, sort))


def _by_namespace(
    stated: Iterable[tuple[str, str]], chosen: Mapping[str, str]
) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for owned, namespace in dict.fromkeys((*stated, *chosen.items())):
        found.setdefault(namespace, []).append(owned)
    return found
