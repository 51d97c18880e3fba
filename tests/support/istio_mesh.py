"""A mesh without a cluster: an API server, istiod, and Envoys that istiod configures.

Where a Pod would be, a WorkloadEntry on loopback is: istiod makes it an endpoint of the Services
whose selectors it fits. Services of ours run as processes on ports of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import yaml

from tests.support.envoy import RunningEnvoy, running_envoy
from tests.support.istiod import SYSTEM, Istiod, proxy_bootstrap
from tests.support.kubernetes_api import APPLY, KubernetesApi, running_kubernetes, tool
from tests.support.processes import wait_until

GATEWAY_LABELS = {"istio": "ingressgateway"}
PROPAGATION_SECONDS = 10.0


@dataclass
class IstioMesh:
    """Kubernetes and istiod, running; what is applied comes into force at the proxies."""

    api: KubernetesApi
    istiod: Istiod
    _addresses: Iterator[int] = field(default_factory=lambda: count(9))

    def apply(self, *documents: Mapping[str, Any]) -> None:
        """Apply with strict validation."""
        self.api.apply(*map(dict, documents))

    @contextmanager
    def applied(self, *documents: Mapping[str, Any]) -> Iterator[None]:
        """Apply for the length of the block. What asks for mutual TLS may not stay: a proxy without
        certificates would wait for them.
        """
        self.apply(*documents)
        try:
            yield
        finally:
            text = yaml.safe_dump_all([dict(document) for document in documents])
            self.api.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=text)

    def workload(
        self,
        name: str,
        namespace: str,
        labels: Mapping[str, str],
        ports: Mapping[str, int],
        *,
        account: str = "default",
        address: str = "127.0.0.1",
        locality: str = "",
    ) -> None:
        """A WorkloadEntry on loopback: an endpoint of the Services that select `labels`. `ports`
        is by the names of the Services' ports, `locality` is REGION/ZONE.
        """
        self.apply(
            {
                "apiVersion": "networking.istio.io/v1",
                "kind": "WorkloadEntry",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {
                    "address": address,
                    "labels": dict(labels),
                    "ports": dict(ports),
                    "serviceAccount": account,
                    **({"locality": locality} if locality else {}),
                },
            }
        )

    def leave(self, name: str, namespace: str) -> None:
        """Take a WorkloadEntry away."""
        self.api.kubectl("delete", "workloadentry", name, "-n", namespace, "--ignore-not-found")

    @contextmanager
    def gateway(self, *, namespace: str = SYSTEM, sds_port: int = 0) -> Iterator[RunningEnvoy]:
        """An Envoy as ingress gateway."""
        with self.proxy(
            "router", "istio-ingressgateway", namespace, GATEWAY_LABELS, sds_port=sds_port
        ) as envoy:
            yield envoy

    @contextmanager
    def proxy(
        self,
        role: str,
        name: str,
        namespace: str,
        labels: dict[str, str],
        *,
        account: str = "default",
        sds_port: int = 0,
        locality: str = "",
        version: str = "1.31.0",
    ) -> Iterator[RunningEnvoy]:
        """An Envoy of that role, up once istiod has given it its listeners."""
        document = proxy_bootstrap(
            self.istiod.xds_port,
            role=role,
            address=f"127.0.0.{next(self._addresses)}",
            name=name,
            namespace=namespace,
            labels=labels,
            account=account,
            sds_port=sds_port,
            locality=locality,
            version=version,
        )
        with running_envoy(document) as envoy:
            yield envoy

    def require_no_rejects(self, *envoys: RunningEnvoy) -> None:
        """Fail where a proxy rejected an update, by what it says and by what istiod says."""
        for envoy in envoys:
            told = rejected(envoy)
            assert not told, told
        assert not self.istiod.rejects(), self.istiod.rejects()


def rejected(envoy: RunningEnvoy) -> dict[str, int]:
    """The counters of updates that an Envoy rejected; empty where it took all."""
    answer = httpx2.get(
        f"{envoy.admin}/stats", params={"format": "json", "filter": "update_rejected$"}
    )
    found = {one["name"]: int(one["value"]) for one in answer.json()["stats"] if "name" in one}
    return {name: value for name, value in found.items() if value}


def config_dump(envoy: RunningEnvoy) -> Any:
    return httpx2.get(f"{envoy.admin}/config_dump", timeout=10).json()


def http_filters(envoy: RunningEnvoy, port: int) -> list[str]:
    """The names of the HTTP filters of the listener on `port`, in order."""
    for part in config_dump(envoy)["configs"]:
        for listener in part.get("dynamic_listeners", []):
            state = listener.get("active_state", {}).get("listener", {})
            if state.get("address", {}).get("socket_address", {}).get("port_value") != port:
                continue
            for chain in [*state.get("filter_chains", []), state.get("default_filter_chain", {})]:
                for one in chain.get("filters", []):
                    config = one.get("typed_config", {})
                    if "http_filters" in config:
                        return [part["name"] for part in config["http_filters"]]
    raise AssertionError(f"no HTTP listener on port {port}")


def namespace(name: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


@contextmanager
def running_istio(
    mesh_config: Mapping[str, Any],
    *,
    gateway_api: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Iterator[IstioMesh]:
    """Kubernetes with Istio's CRDs, and istiod with `mesh_config`, for the length of the block.
    `environment` is istiod's, beside what it always has.
    """
    with ExitStack() as stack:
        api = stack.enter_context(running_kubernetes())
        crds = ["istio", *(["gateway-api"] if gateway_api else [])]
        for name in crds:
            api.kubectl(*APPLY, "-f", tool(f"crds/{name}"))
        api.kubectl("wait", "crd", "--all", "--for=condition=Established", "--timeout=30s")
        api.apply(namespace(SYSTEM), mesh_config_map(mesh_config))
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="meshwarden-test-")))
        istiod = Istiod(api, folder, environment=environment)
        stack.callback(istiod.kill)
        istiod.start()
        yield IstioMesh(api, istiod)


def mesh_config_map(mesh_config: Mapping[str, Any]) -> dict[str, Any]:
    """The ConfigMap that istiod follows."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "istio", "namespace": SYSTEM},
        "data": {"mesh": yaml.safe_dump(dict(mesh_config))},
    }


def wait_for_status(client: httpx2.Client, path: str, status: int, **options: Any) -> None:
    """Return once `path` is answered with `status`: until then istiod's pushes are under way."""

    def answers() -> bool:
        try:
            return client.get(path, **options).status_code == status
        except httpx2.TransportError:
            return False

    wait_until(answers, f"{path} is answered {status}", limit_seconds=PROPAGATION_SECONDS)
