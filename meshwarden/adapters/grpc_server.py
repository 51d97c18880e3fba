"""The gRPC ports of one service process. Two transports can serve the main one, over one seam:

    nghttp2   libnghttp2 through cffi: unary calls, a fifth of the cost   `nghttp2_port`
    grpcio    grpc.aio: whatever calls                                   `grpcio_port`

`transport` chooses; `auto` takes nghttp2 where the library is found. The main port has the
service's methods and `grpc.health.v1.Health/Check`; the streaming port, always grpc.aio's, has
reflection and the whole health service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

import grpc
from google.protobuf import descriptor_pool
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection_pb2_grpc
from grpc_reflection.v1alpha.reflection import ReflectionServicer

from meshwarden.adapters.grpc_calls import (
    HEALTH_CHECK,
    CallObserver,
    Calls,
    GrpcFailure,
    Metadata,
    Method,
)
from meshwarden.adapters.grpcio_port import GrpcioPort, Listener
from meshwarden.adapters.logs import logger
from meshwarden.adapters.nghttp2_library import Unusable
from meshwarden.adapters.nghttp2_port import Nghttp2Port
from meshwarden.adapters.protobuf import pool
from meshwarden.adapters.settings import GrpcSettings
from meshwarden.adapters.telemetry import Metrics
from meshwarden.adapters.tls import Certificates
from meshwarden.adapters.tracing import Tracing
from meshwarden.core.faults import Misconfigured

STREAMING_CALLS_AT_MOST = 1000


class MainPort(Protocol):
    """What a transport is to us: `bind` gives the port, 0 for a UNIX socket, and raises
    `Misconfigured` where it is taken.
    """

    def bind(self) -> int: ...
    async def start(self) -> None: ...
    async def stop(self, grace_seconds: float) -> None: ...


class GrpcServer:
    """The main port and the streaming port of one service process."""

    def __init__(
        self,
        settings: GrpcSettings,
        methods: Sequence[Method],
        *,
        metrics: Metrics,
        tracing: Tracing,
        certificates: Certificates | None = None,
        shared_ports: bool = False,
        observe_call: CallObserver | None = None,
    ) -> None:
        """With `certificates` both ports speak TLS and nothing else."""
        self._settings = settings
        self._metrics = metrics
        self._certificates = certificates
        self._shared_ports = shared_ports
        self._listener = Listener(settings, certificates, shared_ports=shared_ports)
        self._calls = Calls(
            settings.calls_at_most, metrics=metrics, tracing=tracing, observe=observe_call
        )
        self._health = health_aio.HealthServicer()
        health = Method(HEALTH_CHECK, self._check_health)
        self._methods = {method.path: method for method in (*methods, health)}
        self._ports: list[MainPort | aio.Server] = []
        self.port = 0
        self.streaming_port = 0
        self.transport = ""
        """What serves the main port, with the library's version."""

    async def start(self) -> None:
        """Bind both ports and serve, on the health service not serving until `set_serving` says so.

        Raises `Misconfigured` when a port is taken.
        """
        await self.set_serving(False, ())
        main = self._main_port()
        self.port = main.bind()
        streaming = self._listener.server(maximum_concurrent_rpcs=STREAMING_CALLS_AT_MOST)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, streaming)
        names = {path.split("/")[1] for path in self._methods}
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            ReflectionServicer(names, pool=_BothPools()), streaming
        )
        self._ports = [main]
        self.streaming_port = self._listener.bind(streaming, self._settings.streaming_port)
        self._ports.append(streaming)
        for port in self._ports:
            await port.start()

    def _main_port(self) -> MainPort:
        """The main port on the transport that the settings want and the machine has."""
        wanted = self._settings.transport
        if wanted != "grpcio":
            try:
                port = Nghttp2Port(
                    self._settings,
                    self._methods,
                    self._calls,
                    metrics=self._metrics,
                    certificates=self._certificates,
                    shared_ports=self._shared_ports,
                )
            except Unusable as reason:
                if wanted == "nghttp2":
                    raise Misconfigured(f"grpc.transport is nghttp2: {reason}") from None
                logger().warning("transport_not_found", transport="nghttp2", reason=str(reason))
            else:
                self.transport = f"nghttp2 {port.version}"
                return port
        self.transport = f"grpcio {grpc.__version__}"
        return GrpcioPort(self._methods, self._calls, self._listener)

    async def set_serving(self, is_serving: bool, names: Sequence[str]) -> None:
        """Say on the health service, under "" and each of `names`, whether we serve."""
        serving = health_pb2.HealthCheckResponse.ServingStatus
        for name in ("", *names):
            await self._health.set(name, serving.SERVING if is_serving else serving.NOT_SERVING)

    async def stop(self, grace_seconds: float) -> None:
        """Take no new calls, let those in flight end within `grace_seconds`, then cut them."""
        await asyncio.gather(*(port.stop(grace_seconds) for port in self._ports))

    async def _check_health(self, message: bytes, _metadata: Metadata) -> bytes:
        answer = await self._health.Check(
            health_pb2.HealthCheckRequest.FromString(message), _HealthContext()
        )
        return bytes(answer.SerializeToString())


class _HealthContext:
    """What the health servicer needs of a call's context."""

    async def abort(self, code: grpc.StatusCode, details: str = "") -> None:
        raise GrpcFailure(code.value[0], details or "unknown service")

    def set_code(self, code: grpc.StatusCode) -> None:
        raise GrpcFailure(code.value[0], "unknown service")


class _BothPools:
    """Our pool of Envoy's descriptors, then the default one, which holds health and reflection."""

    def __getattr__(self, name: str) -> Any:
        def find(*arguments: Any) -> Any:
            try:
                return getattr(pool(), name)(*arguments)
            except KeyError:
                return getattr(descriptor_pool.Default(), name)(*arguments)

        return find
