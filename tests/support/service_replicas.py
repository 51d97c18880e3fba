"""Replicas of our services in the mesh, as processes that can be killed, paused and started again.

A replica keeps its ports, so that one which comes back is the endpoint that it was.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2

from tests.support import authz_service, limit_service
from tests.support.authz_service import PEPPER
from tests.support.istio_mesh import IstioMesh
from tests.support.ports import free_ports
from tests.support.processes import Running, running
from tests.support.shop_mesh import AUTHZ_LABELS, LIMITER_LABELS, OURS


class ServiceReplica:
    """One process of a service; `labels` are those that its Service selects."""

    def __init__(
        self, name: str, words: Sequence[str], *, grpc_port: int, http_port: int, labels: Any
    ) -> None:
        self.name = name
        self.grpc_port = grpc_port
        self._http_port = http_port
        self._words = words
        self._labels = labels
        self._running: Any = None
        self.process: Running

    def start(self) -> None:
        """Run, and return once it is ready."""
        self._running = running(self._words, is_measured=False)
        self.process = self._running.__enter__()
        self.process.wait_until(self._is_ready, f"{self.name} is ready", limit_seconds=30)

    def join(self, mesh: IstioMesh) -> None:
        """Become an endpoint of the Service."""
        mesh.workload(self.name, OURS, self._labels, {"grpc": self.grpc_port})

    def leave(self, mesh: IstioMesh) -> None:
        """Be none any more."""
        mesh.leave(self.name, OURS)

    def kill(self) -> None:
        """End as a crash does."""
        self.process.child.kill()
        self.stop()

    def pause(self) -> None:
        """Hang: its connections stay open, and nothing is answered."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End as Kubernetes ends it, calls under way first; nothing where it has ended."""
        if self._running is not None:
            with suppress(ProcessLookupError):
                self.resume()
            self._running, ended = None, self._running
            ended.__exit__(None, None, None)

    def _is_ready(self) -> bool:
        try:
            url = f"http://127.0.0.1:{self._http_port}/readyz"
            return httpx2.get(url, timeout=1).status_code == 200
        except httpx2.TransportError:
            return False


@contextmanager
def authorizer_replica(
    name: str, folder: Path, *resources: Any, keys: Sequence[Mapping[str, Any]] = ()
) -> Iterator[ServiceReplica]:
    """ext_authz over `resources`, ready; not yet in the mesh."""
    service = authz_service.Service(folder, free_ports(3))
    (folder / "config").mkdir(parents=True)
    (folder / "pepper").write_bytes(PEPPER)
    (folder / "keys.json").write_text(json.dumps({"keys": list(keys)}))
    service.configure(*resources)
    replica = ServiceReplica(
        name,
        authz_service.command(service, keeps_keys=True),
        grpc_port=service.grpc_port,
        http_port=service.http_port,
        labels=AUTHZ_LABELS,
    )
    with service.channel:
        yield from _started(replica)


@contextmanager
def limiter_replica(name: str, folder: Path, *options: str) -> Iterator[ServiceReplica]:
    """ratelimit_service over the limits in `folder`, ready; not yet in the mesh."""
    ports = free_ports(4)
    words = limit_service.command(folder, ports)
    replica = ServiceReplica(
        name, [*words, *options], grpc_port=ports[0], http_port=ports[2], labels=LIMITER_LABELS
    )
    yield from _started(replica)


def _started(replica: ServiceReplica) -> Iterator[ServiceReplica]:
    replica.start()
    try:
        yield replica
    finally:
        replica.stop()
