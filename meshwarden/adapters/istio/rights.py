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
from meshwarden.core.faults import InvalidInput, Misconfigured, Problem
from meshwarden.core.ownership import parse_ownership

OWNERSHIP = "meshwarden-ownership"
"""The ConfigMap that says which namespace may speak for which hosts and domains."""

Documents = list[dict[str, Any]]


def accounts(options: IstioOptions, facts: PolicyFacts) -> Documents:
    """The ServiceAccounts and their rights. Without a token by themselves: the Pod that needs one
    mounts it. Raises `Misconfigured` for namespaces that are named and not watched.
    """
    _require_watched(options, facts)
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
    namespace that it does not name may claim nothing; the services' own may claim anything. Empty
    where any may claim what nobody holds.

    Raises `Misconfigured` for hosts that are none and for what two namespaces would own.
    """
    if options.open_claims:
        return []
    owned = {
        "hosts": _by_namespace(options, facts.host_owners, options.host_owners),
        "domains": _by_namespace(options, facts.domain_owners, options.domain_owners),
    }
    text = yaml.safe_dump(owned, sort_keys=True)
    try:
        parse_ownership("", text.encode())
    except InvalidInput as error:
        whose = "of the folder, host_owners and domain_owners: "
        raise Misconfigured(
            [Problem("", 0, whose + one.what, one.hint) for one in error.problems]
        ) from error
    made = document("v1", "ConfigMap", OWNERSHIP, namespace=options.namespace)
    return [made | {"data": {"ownership.yaml": text}}]


def watching(options: IstioOptions, facts: PolicyFacts, service: str) -> Mapping[str, str]:
    """The settings of `configuration.kubernetes`, by their name."""
    result = {"ENABLED": "true", "SHARED_NAMESPACE": options.namespace}
    if options.watched_namespaces:
        result["NAMESPACES"] = ",".join(options.watched_namespaces)
    if not options.open_claims:
        result["OWNERSHIP"] = OWNERSHIP
    tenants = {file.namespace for file in _referred_files(options, facts)} - {options.namespace}
    if tenants and service == EXT_AUTHZ:
        result["SECRET_NAMESPACES"] = ",".join(sorted(tenants))
    return result


def asks_reviews(options: IstioOptions, facts: PolicyFacts) -> bool:
    """Whether the authorizer asks the API server about tokens and accesses."""
    return options.kubernetes_reviews or facts.asks_kubernetes


def _require_watched(options: IstioOptions, facts: PolicyFacts) -> None:
    """What stands in a namespace that is not watched is never read: its hosts would be free."""
    if not options.watched_namespaces:
        return
    named = {
        "the folder's resources": [one["metadata"].get("namespace") for one in facts.resources],
        "host_owners": options.host_owners.values(),
        "domain_owners": options.domain_owners.values(),
        "readable_files": [text.partition("/")[0] for text in options.readable_files],
    }
    seen = {"", None, options.namespace, *options.watched_namespaces}
    hint = "name it, too, in watched_namespaces"
    problems = [
        Problem("", 0, f"{where}: the namespace '{one}' is not watched", hint)
        for where, namespaces in named.items()
        for one in sorted({str(name) for name in namespaces if name not in seen})
    ]
    if problems:
        raise Misconfigured(problems)


def _files(options: IstioOptions, facts: PolicyFacts, service: str) -> dict[str, NamedFiles]:
    """What a service may read, by namespace: each Secret and ConfigMap by its name."""
    found: set[ClusterFile] = set()
    if not options.open_claims:
        found.add(ClusterFile(options.namespace, "configmap", OWNERSHIP))
    if service == EXT_AUTHZ:
        found.update(_referred_files(options, facts))
        if facts.reads_api_keys or facts.signs_tokens:
            found.add(ClusterFile(options.namespace, "secret", options.keys_secret))
    return {
        namespace: NamedFiles(
            secrets=_names(found, namespace, "secret"),
            config_maps=_names(found, namespace, "configmap"),
        )
        for namespace in sorted({file.namespace for file in found})
    }


def _referred_files(options: IstioOptions, facts: PolicyFacts) -> set[ClusterFile]:
    """What objects refer to: the folder's, and those that the options let come later."""
    referred = {
        file._replace(namespace=file.namespace or options.namespace) for file in facts.files
    }
    return referred | {ClusterFile(*text.split("/")) for text in options.readable_files}


def _names(files: Iterable[ClusterFile], namespace: str, sort: str) -> list[str]:
    return sorted(one.name for one in files if (one.namespace, one.sort) == (namespace, sort))


def _by_namespace(
    options: IstioOptions, stated: Iterable[tuple[str, str]], chosen: Mapping[str, str]
) -> dict[str, list[str]]:
    """Of tenants: the platform needs no leave."""
    found: dict[str, list[str]] = {}
    for owned, namespace in dict.fromkeys((*stated, *chosen.items())):
        if namespace != options.namespace:
            found.setdefault(namespace, []).append(owned)
    return found
