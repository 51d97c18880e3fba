"""`python -m ratelimit_service` run as a process on free ports, and how to ask it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx2
from grpc_health.v1 import health_pb2

from meshwarden.adapters.protobuf import message_class
from tests.support.ports import free_ports
from tests.support.processes import Running, running

METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
Request = message_class("envoy.service.ratelimit.v3.RateLimitRequest")
Response = message_class("envoy.service.ratelimit.v3.RateLimitResponse")


@dataclass(frozen=True)
class Served:
    """A running service and how to speak to it."""

    process: Running
    folder: Path
    grpc_port: int
    http: str
    debug: str

    def ask(self, key: str, value: str = "x", *, domain: str = "domain") -> Any:
        """The response to one descriptor."""
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel:
            call = channel.unary_unary(METHOD)
            return Response.FromString(call(request(key, value, domain=domain), timeout=5))

    def health(self, name: str = "ratelimit") -> str:
        """What `grpc.health.v1.Health/Check` says about `name`."""
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel:
            call = channel.unary_unary("/grpc.health.v1.Health/Check")
            message = health_pb2.HealthCheckRequest(service=name).SerializeToString()
            answer = health_pb2.HealthCheckResponse.FromString(call(message, timeout=5))
            return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    def is_ready(self) -> bool:
        try:
            return httpx2.get(f"{self.http}/readyz").status_code == 200
        except httpx2.TransportError:
            return False

    def lines(self, path: str) -> list[str]:
        """The lines of a page of the debug port."""
        return httpx2.get(f"{self.debug}{path}").text.splitlines()

    def metric(self, text: str) -> bool:
        return text in httpx2.get(f"{self.http}/metrics").text


def request(key: str, value: str, *, domain: str = "domain") -> bytes:
    message = Request(domain=domain)
    message.descriptors.add().entries.add(key=key, value=value)
    return bytes(message.SerializeToString())


def command(folder: Path, ports: Sequence[int]) -> list[str]:
    """The service on loopback, on ports for gRPC, its streams, HTTP and the debug pages."""
    words = [sys.executable, "-m", "ratelimit_service", "--configuration.folder", str(folder)]
    names = ("grpc.port", "grpc.streaming-port", "http.port", "debug.port")
    for name, port in zip(names, ports, strict=True):
        words += [f"--{name}", str(port)]
    for section in ("grpc", "http", "debug"):
        words += [f"--{section}.host", "127.0.0.1"]
    return words


@contextmanager
def served(
    folder: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    waits_for_ready: bool = True,
    is_measured: bool = True,
) -> Iterator[Served]:
    """Run the service on free ports with the limits in `folder`; `is_measured` as of `running`."""
    ports = free_ports(4)
    main, _, http, debug = ports
    words = [*command(folder, ports), *arguments]
    with running(words, environment=environment, is_measured=is_measured) as process:
        service = Served(
            process, folder, main, f"http://127.0.0.1:{http}", f"http://127.0.0.1:{debug}"
        )
        process.wait_until(lambda: '"started"' in process.output, "the ports are open")
        if waits_for_ready:
            process.wait_until(service.is_ready, "the service is ready")
        yield service
