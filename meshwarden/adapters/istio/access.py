"""What the services may do at the Kubernetes API server: watch their own kinds and write the
statuses of these, read single Secrets and ConfigMaps by name, write their reports and take their
Lease; and, where policies have them ask, review tokens and accesses. Nothing about Secrets is
granted for a whole cluster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from meshwarden.core.documents import API_VERSION

READING = ["get", "list", "watch"]
RBAC = "rbac.authorization.k8s.io"
RESOURCES = {
    "ext-authz": ["tokenissuers", "accessroles", "accessrolebindings", "accesspolicies"],
    "ratelimit": ["ratelimits"],
}
"""The collections that each service watches."""
REVIEWS = "meshwarden-reviews"
REVIEWS_ROLE = "system:auth-delegator"
"""Kubernetes' own ClusterRole: to create TokenReviews and SubjectAccessReviews, no more."""

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class NamedFiles:
    """Secrets and ConfigMaps of one namespace that a service may read."""

    secrets: Sequence[str] = ()
    config_maps: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Access:
    """What one service (`ext-authz` or `ratelimit`) may read.

    `namespaces`: where it watches, besides the installation's own; empty: everywhere, by a
    ClusterRole on our own kinds. `asks_reviews`: it may ask who a token's bearer is, and what
    somebody may do. `files`: by namespace, what it may read there.
    """

    service: str
    installed_in: str = "meshwarden-system"
    asks_reviews: bool = False
    namespaces: Sequence[str] = ()
    files: Mapping[str, NamedFiles] = field(default_factory=dict)


def access(wanted: Access) -> list[Manifest]:
    """The ServiceAccount, the roles and their bindings."""
    account = _named("v1", "ServiceAccount", wanted, wanted.installed_in)
    group = API_VERSION.partition("/")[0]
    watching = {
        "apiGroups": [group],
        "resources": list(RESOURCES[wanted.service]),
        "verbs": READING,
    }
    telling = {
        "apiGroups": [group],
        "resources": [f"{resource}/status" for resource in RESOURCES[wanted.service]],
        "verbs": ["patch"],
    }
    made = [account]
    by_namespace: dict[str, list[Manifest]] = {wanted.installed_in: _reporting(wanted)}
    if wanted.namespaces:
        for namespace in sorted({*wanted.namespaces, wanted.installed_in}):
            by_namespace[namespace] = [watching, telling, *by_namespace.get(namespace, [])]
    else:
        made += _granted(wanted, "", [watching, telling])
    for namespace, files in sorted(wanted.files.items()):
        rules = by_namespace.setdefault(namespace, [])
        for resource, names in (("secrets", files.secrets), ("configmaps", files.config_maps)):
            if names:
                # `list` and `watch` of one name: the client sends it as a field selector.
                rules.append(
                    {
                        "apiGroups": [""],
                        "resources": [resource],
                        "resourceNames": sorted(names),
                        "verbs": READING,
                    }
                )
    for namespace, rules in sorted(by_namespace.items()):
        if rules:
            made += _granted(wanted, namespace, rules)
    if wanted.asks_reviews:
        made.append(_bound(wanted, "", "ClusterRole", name=REVIEWS, role=REVIEWS_ROLE))
    return made


def _reporting(wanted: Access) -> list[Manifest]:
    """What a replica does in the installation's namespace: its report, and its candidacy."""
    lease = f"meshwarden-{wanted.service}"
    return [
        {
            "apiGroups": [API_VERSION.partition("/")[0]],
            "resources": ["replicareports"],
            "verbs": [*READING, "create", "patch", "delete"],
        },
        # A name can't be asked for where the object is only to be made.
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": [lease],
            "verbs": ["get", "update"],
        },
    ]


def _granted(wanted: Access, namespace: str, rules: list[Manifest]) -> list[Manifest]:
    """A role and its binding; without a namespace a ClusterRole."""
    sort = "Role" if namespace else "ClusterRole"
    role = _named(f"{RBAC}/v1", sort, wanted, namespace) | {"rules": rules}
    name = role["metadata"]["name"]
    return [role, _bound(wanted, namespace, sort, name=name, role=name)]


def _bound(wanted: Access, namespace: str, sort: str, *, name: str, role: str) -> Manifest:
    """The binding `name` of the service's account to a role of this sort."""
    made = _named(f"{RBAC}/v1", f"{sort}Binding", wanted, namespace) | {
        "roleRef": {"apiGroup": RBAC, "kind": sort, "name": role},
        "subjects": [
            {
                "kind": "ServiceAccount",
                "name": wanted.service,
                "namespace": wanted.installed_in,
            }
        ],
    }
    made["metadata"]["name"] = name
    return made


def _named(api_version: str, kind: str, wanted: Access, namespace: str) -> Manifest:
    is_account = kind == "ServiceAccount"
    metadata: Manifest = {
        "name": wanted.service if is_account else f"meshwarden-{wanted.service}",
        "labels": {
            "app.kubernetes.io/name": wanted.service,
            "app.kubernetes.io/part-of": "meshwarden",
        },
    }
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}
