"""What a Kubernetes API server says of our resources, asked directly: strict, and as a dry run.

Quicker than kubectl by far, so that hundreds can be asked.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import yaml

from tests.support.kubernetes_api import KubernetesApi
from tests.support.processes import CHECKOUT, wait_until

NAMESPACE = "default"
ASKED = "asked"
"""Where it is asked, apart from what tests store: a name that is taken would be a refusal."""
PLURALS = {
    "TokenIssuer": "tokenissuers",
    "AccessRole": "accessroles",
    "AccessRoleBinding": "accessrolebindings",
    "AccessPolicy": "accesspolicies",
    "RateLimit": "ratelimits",
}


def apply_crds(api: KubernetesApi) -> None:
    """Apply `istio/crds` as a user does, and return once every kind is served."""
    api.kubectl(*("apply", "--server-side", "--validate=strict", "-k", CHECKOUT / "istio" / "crds"))
    api.kubectl("create", "namespace", ASKED)
    api.kubectl("wait", "crd", "--all", "--for=condition=Established", "--timeout=30s")
    # Established is written before the last server goroutine serves the kind.
    with strict_api(api) as ask:
        wait_until(
            lambda: all(ask.is_served(plural) for plural in PLURALS.values()), "kinds are served"
        )


class StrictApi:
    """Asks with the administrator's token."""

    def __init__(self, client: httpx2.Client) -> None:
        self._client = client

    def is_served(self, plural: str) -> bool:
        return self._client.get(_path(plural)).status_code == 200

    def refusals(self, resource: dict[str, Any], *, stores: bool = False) -> list[str]:
        """Why `resource` is refused, each fault by itself; none: it is taken."""
        answer = self._post(resource, stores=stores)
        if answer.status_code == 201:
            return []
        status = answer.json()
        causes = status.get("details", {}).get("causes", [])
        told = [f"{cause.get('field', '')}: {cause['message']}" for cause in causes]
        return told or [status["message"]]

    def taken(self, resource: dict[str, Any]) -> Any:
        """`resource` as it would be stored."""
        answer = self._post(resource, stores=False)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def _post(self, resource: dict[str, Any], *, stores: bool) -> httpx2.Response:
        return self._client.post(
            _path(PLURALS[resource["kind"]]),
            params={"fieldValidation": "Strict"} | ({} if stores else {"dryRun": "All"}),
            json=placed(resource, ASKED),
        )


def placed(resource: dict[str, Any], namespace: str = NAMESPACE) -> dict[str, Any]:
    """`resource` as it stands in a cluster: in a namespace."""
    return {**resource, "metadata": {**resource["metadata"], "namespace": namespace}}


def _path(plural: str) -> str:
    return f"/apis/meshwarden.io/v1alpha1/namespaces/{ASKED}/{plural}"


@contextmanager
def strict_api(api: KubernetesApi) -> Iterator[StrictApi]:
    """A way to ask `api`, for the length of the block."""
    user = yaml.safe_load(api.kubeconfig.read_text())["users"][0]["user"]
    with httpx2.Client(
        base_url=api.url,
        headers={"authorization": f"Bearer {user['token']}"},
        verify=ssl.create_default_context(cafile=str(api.authority)),
        timeout=60,
    ) as client:
        yield StrictApi(client)
