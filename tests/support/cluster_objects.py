"""Objects for the tests that run against a Kubernetes API server: kinds, namespaces, Secrets."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meshwarden.adapters.istio.access import Access, access
from meshwarden.core.documents import API_VERSION
from tests.support.kubernetes_api import KubernetesApi

PLATFORM = "meshwarden-system"
KINDS = {
    "TokenIssuer": "tokenissuers",
    "AccessRole": "accessroles",
    "AccessRoleBinding": "accessrolebindings",
    "AccessPolicy": "accesspolicies",
    "RateLimit": "ratelimits",
}


def definitions() -> list[dict[str, Any]]:
    """Our kinds as custom resources that take any content, so that the services' own validation is
    tested.
    """
    group, version = API_VERSION.split("/")
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return [
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{plural}.{group}"},
            "spec": {
                "group": group,
                "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
                "versions": [
                    {
                        "name": version,
                        "served": True,
                        "storage": True,
                        "schema": {"openAPIV3Schema": anything},
                        "subresources": {"status": {}},
                    }
                ],
            },
        }
        for kind, plural in KINDS.items()
    ]


def install_kinds(api: KubernetesApi) -> None:
    """Apply `definitions`, and return once they are served."""
    api.apply(*definitions())
    group = API_VERSION.partition("/")[0]
    names = [f"crd/{plural}.{group}" for plural in KINDS.values()]
    api.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)


def namespace(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def of_kind(kind: str, namespace: str, name: str, spec: Any = None) -> dict[str, Any]:
    """A resource of ours."""
    whole: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
    }
    return whole if spec is None else whole | {"spec": spec}


def secret(namespace: str, name: str, **files: str | bytes) -> dict[str, Any]:
    """A Secret; a key's `_` stands for `.`."""
    texts = {key: text.encode() if isinstance(text, str) else text for key, text in files.items()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "data": {
            key.replace("_", "."): base64.b64encode(text).decode() for key, text in texts.items()
        },
    }


def config_map(namespace: str, name: str, **files: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": {key.replace("_", "."): text for key, text in files.items()},
    }


def grant(api: KubernetesApi, *wanted: Access) -> Path:
    """The kubeconfig of a service's ServiceAccount, which may do what `access` says."""
    manifests = [manifest for one in wanted for manifest in access(one)]
    api.apply(*manifests)
    return api.account(wanted[0].installed_in, wanted[0].service)


def watching(kubeconfig: Path, *more: str, namespaces: Sequence[str] = ()) -> tuple[str, ...]:
    """The options of a service that watches."""
    start = "--configuration.kubernetes."
    return (
        f"{start}enabled",
        f"{start}kubeconfig={kubeconfig}",
        *([f"{start}namespaces={','.join(namespaces)}"] if namespaces else []),
        *more,
    )
