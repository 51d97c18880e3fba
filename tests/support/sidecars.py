"""The sidecars of workloads that stand on loopback, with certificates of the mesh's authority.

There is no Pod whose traffic would be redirected, so a Sidecar object says on which port a
workload's requests arrive, and where it finds the Services that it asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from tests.support.certificates import Authority
from tests.support.envoy import RunningEnvoy
from tests.support.istio_mesh import IstioMesh
from tests.support.ports import free_port
from tests.support.secret_discovery import serving_secrets, workload_certificate

OURS = "meshwarden-system"


@dataclass(frozen=True)
class SidecarOf:
    """A running sidecar: `port` at `inbound` takes the workload's requests, `outbound` is where it
    sends its own: an address of loopback on which each Service has the port that it has in the
    mesh.
    """

    envoy: RunningEnvoy
    port: int
    inbound: str
    outbound: str

    def asked(self, host: str) -> httpx2.Client:
        """A client that asks the workload for `host`, without a sidecar of its own."""
        return _client(self.inbound, self.port, host)

    def asking(self, host: str, port: int) -> httpx2.Client:
        """A client that asks the Service `host` as the workload does."""
        return _client(self.outbound, port, host)


def _client(address: str, port: int, host: str) -> httpx2.Client:
    return httpx2.Client(base_url=f"http://{address}:{port}", headers={"host": host}, timeout=10)


@contextmanager
def running_sidecar(
    mesh: IstioMesh,
    authority: Authority,
    name: str,
    namespace: str,
    *,
    labels: dict[str, str],
    workload_port: int,
    asks: Sequence[tuple[str, int, str]] = (),
    number: int,
    grpc_port: int = 0,
    asks_us: bool = True,
) -> Iterator[SidecarOf]:
    """The sidecar of the ServiceAccount `name`, before the workload on `workload_port`. `asks` are
    (host as Istio writes it, port, protocol) of Services; `number`, from 20, is this one's own.

    Its own port is any free one and speaks HTTP; with `grpc_port` it is that, as in a Pod, at an
    address of the sidecar's own. Unless it `asks_us` our services are hidden from it.
    """
    outbound = f"127.0.0.{number}"
    port, inbound = (grpc_port, f"127.0.1.{number}") if grpc_port else (free_port(), "127.0.0.1")
    protocol = "GRPC" if grpc_port else "HTTP"
    ours = [(f"{OURS}/*", 9001, "GRPC"), (f"{OURS}/*", 8081, "GRPC")] if asks_us else []
    mesh.apply(
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "Sidecar",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "workloadSelector": {"labels": labels},
                "ingress": [
                    {
                        "port": {"number": port, "protocol": protocol, "name": protocol.lower()},
                        "bind": inbound,
                        "defaultEndpoint": f"127.0.0.1:{workload_port}",
                    }
                ],
                "egress": [_listener(outbound, *asked) for asked in (*ours, *asks)],
            },
        }
    )
    with (
        serving_secrets(workload_certificate(authority, namespace, name)) as secrets,
        mesh.proxy("sidecar", name, namespace, labels, account=name, sds_port=secrets) as envoy,
    ):
        yield SidecarOf(envoy, port, inbound, outbound)


def _listener(address: str, host: str, port: int, protocol: str) -> dict[str, Any]:
    return {
        "port": {"number": port, "protocol": protocol, "name": f"{protocol.lower()}-{port}"},
        "bind": address,
        "captureMode": "NONE",
        "hosts": [host],
    }
