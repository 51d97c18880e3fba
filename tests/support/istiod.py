"""A real istiod that reads a Kubernetes API server, and the bootstraps of Envoys that it drives.

Stock Envoys stand for istio-proxy, so two features that only istio-proxy has are switched off
(`PILOT_ENABLE_ALPN_FILTER`, `PILOT_ENABLE_METADATA_EXCHANGE`); injection and istiod's own
authority are off as well: nobody starts Pods here.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2

from tests.support.kubernetes_api import KubernetesApi, tool
from tests.support.ports import free_ports
from tests.support.processes import wait_until

SYSTEM = "istio-system"
START_SECONDS = 60.0


class Istiod:
    """One istiod; it can be killed, paused and started again on its ports. Its mesh configuration
    is the ConfigMap `istio` in `istio-system`, which must be there before it starts. `environment`
    is set besides.
    """

    def __init__(
        self, api: KubernetesApi, folder: Path, *, environment: Mapping[str, str] | None = None
    ) -> None:
        self._api = api
        self._environment = dict(environment or {})
        self._log = folder / "istiod.log"
        self.xds_port, self._http_port, self._monitoring_port = free_ports(3)
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run, and return once it is ready."""
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                [
                    *(str(tool("bin/pilot-discovery")), "discovery"),
                    f"--kubeconfig={self._api.kubeconfig}",
                    *("--meshConfig=/nonexistent", "--networksConfig=/nonexistent"),
                    f"--grpcAddr=127.0.0.1:{self.xds_port}",
                    *("--secureGRPCAddr=", "--httpsAddr="),
                    f"--httpAddr=127.0.0.1:{self._http_port}",
                    f"--monitoringAddr=127.0.0.1:{self._monitoring_port}",
                    "--ctrlz_port=0",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    "POD_NAMESPACE": SYSTEM,
                    "POD_NAME": "istiod-of-the-tests",
                    "ENABLE_CA_SERVER": "false",
                    "PILOT_CERT_PROVIDER": "none",
                    "PILOT_ENABLE_ALPN_FILTER": "false",
                    "PILOT_ENABLE_METADATA_EXCHANGE": "false",
                    "PILOT_ENABLE_STATUS": "true",
                    "INJECT_ENABLED": "false",
                    "ENABLE_LEADER_ELECTION": "false",
                    "VALIDATION_WEBHOOK_CONFIG_NAME": "",
                    **self._environment,
                },
            )
        wait_until(self._is_ready, "istiod is ready", limit_seconds=START_SECONDS)

    def kill(self) -> None:
        """End it at once."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def pause(self) -> None:
        """Let it answer nothing while its connections stay open."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    @property
    def url(self) -> str:
        """Where it tells of itself: `/debug`, `/ready`."""
        return f"http://127.0.0.1:{self._http_port}"

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def proxies(self) -> list[dict[str, Any]]:
        """What istiod sent to each proxy and what that acknowledged: `/debug/syncz`."""
        answer = httpx2.get(f"{self.url}/debug/syncz", timeout=5)
        found: list[dict[str, Any]] = answer.json()
        return found

    def rejects(self) -> dict[str, float]:
        """How many updates proxies rejected, by type; empty where none was."""
        answer = httpx2.get(f"http://127.0.0.1:{self._monitoring_port}/metrics", timeout=5)
        found = {}
        for line in answer.text.splitlines():
            name, _, value = line.rpartition(" ")
            if name.startswith(("pilot_xds_", "pilot_total_xds_rejects")) and "reject" in name:
                found[name] = float(value)
        return {name: value for name, value in found.items() if value}

    def _is_ready(self) -> bool:
        if self._child is None or self._child.poll() is not None:
            raise AssertionError(f"istiod ended:\n{self.log[-3000:]}")
        try:
            answer = httpx2.get(f"{self.url}/ready", timeout=2)
        except httpx2.TransportError:
            return False
        return answer.status_code == 200

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None and self._child.poll() is None:
            os.kill(self._child.pid, number)


def proxy_bootstrap(
    xds_port: int,
    *,
    role: str,
    address: str,
    name: str,
    namespace: str,
    labels: dict[str, str],
    account: str = "default",
    sds_port: int = 0,
    locality: str = "",
    version: str = "1.31.0",
) -> dict[str, Any]:
    """The bootstrap of an Envoy whose listeners, clusters and routes come from istiod.

    `role` is `router` (a gateway), `sidecar` or `waypoint`. `address` is the proxy's own, which may
    be no endpoint's: istiod would take that endpoint's labels. `sds_port` serves its certificates;
    `locality` is REGION/ZONE, `version` Istio's, as the proxy tells it.
    """
    clusters = [_cluster("xds-grpc", xds_port)]
    if sds_port:
        clusters.append(_cluster("sds-grpc", sds_port))
    region, _, zone = locality.partition("/")
    own = {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"}
    return {
        "node": {
            "id": f"{role}~{address}~{name}.{namespace}~{namespace}.svc.cluster.local",
            "cluster": f"{name}.{namespace}",
            "locality": {"region": region, "zone": zone},
            "metadata": {
                "NAMESPACE": namespace,
                "CLUSTER_ID": "Kubernetes",
                "ISTIO_VERSION": version,
                "SERVICE_ACCOUNT": account,
                "LABELS": labels,
                "INTERCEPTION_MODE": "NONE",
            },
        },
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "dynamic_resources": {
            "lds_config": own,
            "cds_config": own,
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
            },
        },
        "static_resources": {"clusters": clusters},
    }


def _cluster(name: str, port: int) -> dict[str, Any]:
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            options: {
                "@type": f"type.googleapis.com/{options}",
                "explicit_http_config": {
                    "http2_protocol_options": {
                        "connection_keepalive": {"interval": "1s", "timeout": "1s"}
                    }
                },
            }
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
