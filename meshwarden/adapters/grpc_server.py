"""Unary gRPC behind a seam that knows nothing of grpcio, so that the transport can be changed.

    handler(message: bytes, metadata) -> bytes            answered at once
                                      -> Awaitable[bytes]  answered when it is ready

Here grpcio's grpc.aio serves the seam. The main port has the service's methods and
`grpc.health.v1.Health/Check`; the streaming port has reflection and the whole health service.

A call counts as in flight from its headers on, before its message is read, so that a flood is met
by the overload answer and not by memory growth. Health is answered even then: a busy service taken
for a dead one would leave the decision to its callers' failure mode. Known weakness: grpc.aio costs
150-230 us of CPU a call, nine tenths of it its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection_pb2_grpc
from grpc_reflection.v1alpha.reflection import ReflectionServicer

from meshwarden.adapters import ports
from meshwarden.adapters.client_names import OnlyClientsNamed
from meshwarden.adapters.fault_status import grpc_status
from meshwarden.adapters.logs import logger
from meshwarden.adapters.protobuf import pool
from meshwarden.adapters.settings import GrpcSettings
from meshwarden.adapters.telemetry import Metrics
from meshwarden.adapters.tls import Certificates
from meshwarden.adapters.tracing import Tracing
from meshwarden.core.faults import Fault, Misconfigured

Metadata = Sequence[tuple[str, str | bytes]]
Handler = Callable[[bytes, Metadata], bytes | Awaitable[bytes]]
CallObserver = Callable[[str, float], None]
"""Told the path of each call that ended, health checks included, and its seconds."""

MESSAGE_SECONDS_AT_MOST = 5.0
"""A call whose message does not come is ended: it counts as in flight meanwhile."""

HEALTH_CHECK = "/grpc.health.v1.Health/Check"


class GrpcFailure(Exception):
    """Ends a call with a gRPC status that is not one of the fault table's: `code` is a
    `grpc.StatusCode` value's number.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = next(status for status in grpc.StatusCode if status.value[0] == code)


@dataclass(frozen=True, slots=True)
class Method:
    """One unary method.

    `overloaded` gives the in-band answer when too many calls are in flight; without it the call
    ends with RESOURCE_EXHAUSTED. `trace_headers` finds the caller's `traceparent` in a message
    whose metadata has none.
    """

    path: str
    handler: Handler
    overloaded: Callable[[], bytes] | None = None
    trace_headers: Callable[[bytes], Mapping[str, str]] | None = None


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
        self._certificates = certificates
        self._shared_ports = shared_ports
        self._tracing = tracing
        self._observe_call = observe_call
        self._calls = metrics.tally(
            "grpc_calls", "Calls by method and gRPC status.", ["method", "code"]
        )
        self._seconds = metrics.durations(
            "grpc_call_seconds", "Seconds from a call's headers to its answer."
        )
        metrics.gauge("grpc_calls_in_flight", "Calls being answered.", lambda: self._in_flight)
        self._in_flight = 0
        self._health = health_aio.HealthServicer()
        health = Method(HEALTH_CHECK, self._check_health)
        self._methods = {method.path: method for method in (*methods, health)}
        self._servers: list[aio.Server] = []
        self.port = 0
        self.streaming_port = 0

    async def start(self) -> None:
        """Bind both ports and serve, on the health service not serving until `set_serving` says so.

        Raises `Misconfigured` when a port is taken.
        """
        await self.set_serving(False, ())
        # No `maximum_concurrent_rpcs`: beyond it grpc.aio answers with an error by itself, where a
        # flood must be answered in-band.
        guards = self._guards()
        main = aio.server(options=self._options(), interceptors=guards)
        main.add_generic_rpc_handlers((_Methods(self._methods, self._answer),))
        self.port = self._bind_main(main)
        streaming = aio.server(
            options=self._options(), interceptors=guards, maximum_concurrent_rpcs=1000
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, streaming)
        names = {path.split("/")[1] for path in self._methods}
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            ReflectionServicer(names, pool=_BothPools()), streaming
        )
        self.streaming_port = self._bind(streaming, self._settings.streaming_port)
        self._servers = [main, streaming]
        for server in self._servers:
            await server.start()

    async def set_serving(self, is_serving: bool, names: Sequence[str]) -> None:
        """Say on the health service, under "" and each of `names`, whether we serve."""
        serving = health_pb2.HealthCheckResponse.ServingStatus
        for name in ("", *names):
            await self._health.set(name, serving.SERVING if is_serving else serving.NOT_SERVING)

    async def stop(self, grace_seconds: float) -> None:
        """Take no new calls, let those in flight end within `grace_seconds`, then cut them."""
        await asyncio.gather(*(server.stop(grace_seconds) for server in self._servers))

    def _guards(self) -> list[aio.ServerInterceptor]:
        """What judges a call's client; none where every client may call."""
        wanted = "" if self._certificates is None else self._certificates.client_san
        return [OnlyClientsNamed(wanted)] if wanted else []

    def _bind_main(self, server: aio.Server) -> int:
        """Bind the main port, or the socket in its place: then there is none, 0."""
        socket = self._settings.socket
        if not socket:
            return self._bind(server, self._settings.port)
        ports.require_free_socket(socket)
        address = f"unix-abstract:{socket[1:]}" if socket[0] == "@" else f"unix:{socket}"
        self._listen(server, address, what=f"the socket {socket}")
        return 0

    def _bind(self, server: aio.Server, port: int) -> int:
        if not self._shared_ports:
            ports.require_free(self._settings.host, port)
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        return self._listen(server, f"{host}:{port}", what=f"port {port} on {host}")

    def _listen(self, server: aio.Server, address: str, *, what: str) -> int:
        try:
            if self._certificates is None:
                return int(server.add_insecure_port(address))
            return int(server.add_secure_port(address, self._certificates.grpc_credentials()))
        except RuntimeError:
            raise Misconfigured(f"{what} can't be bound by gRPC") from None

    def _options(self) -> list[tuple[str, int]]:
        settings = self._settings
        ping_milliseconds = _milliseconds(settings.ping_interval_at_least_seconds)
        return [
            ("grpc.so_reuseport", int(self._shared_ports)),
            ("grpc.max_receive_message_length", settings.message_bytes_at_most),
            ("grpc.max_metadata_size", settings.metadata_bytes_at_most),
            ("grpc.absolute_max_metadata_size", settings.metadata_bytes_at_most),
            ("grpc.max_connection_age_ms", _milliseconds(settings.connection_age_seconds)),
            (
                "grpc.max_connection_age_grace_ms",
                _milliseconds(settings.connection_age_grace_seconds),
            ),
            ("grpc.keepalive_time_ms", _milliseconds(settings.keepalive_interval_seconds)),
            ("grpc.keepalive_timeout_ms", 5000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", ping_milliseconds),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", ping_milliseconds),
            ("grpc.http2.max_ping_strikes", 3),
            # Far above `calls_at_most`: a refused stream is an error, where a flood must be
            # answered in-band.
            ("grpc.max_concurrent_streams", max(10_000, 2 * settings.calls_at_most)),
        ]

    async def _check_health(self, message: bytes, _metadata: Metadata) -> bytes:
        answer = await self._health.Check(
            health_pb2.HealthCheckRequest.FromString(message), _HealthContext()
        )
        return bytes(answer.SerializeToString())

    async def _answer(self, method: Method, context: Any) -> bytes:
        """One call: bounded, timed, its faults mapped to a status."""
        began = time.perf_counter()
        code = "OK"
        self._in_flight += 1
        try:
            if self._in_flight > self._settings.calls_at_most and method.path != HEALTH_CHECK:
                code = "OVERLOADED"
                if method.overloaded is None:
                    await context.abort(
                        grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls in flight"
                    )
                    raise AssertionError("abort returned")
                return method.overloaded()
            async with asyncio.timeout(MESSAGE_SECONDS_AT_MOST):
                message: bytes = await context.read()
            if message is aio.EOF:
                raise GrpcFailure(3, "the call has no message")
            metadata: Metadata = context.invocation_metadata() or ()
            if self._tracing.is_on:
                return await self._traced(method, message, metadata)
            answer = method.handler(message, metadata)
            return answer if isinstance(answer, bytes) else await answer
        except (Fault, GrpcFailure) as error:
            status = grpc_status(error) if isinstance(error, Fault) else error.code
            code = status.name
            await context.abort(status, str(error))
            raise AssertionError("abort returned") from None
        except TimeoutError:
            code = "DEADLINE_EXCEEDED"
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no message came in time")
            raise AssertionError("abort returned") from None
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except (aio.AbortError, GeneratorExit):
            raise
        except Exception as error:
            code = "INTERNAL"
            logger().error(
                "call_failed", method=method.path, error=type(error).__name__, exc_info=True
            )
            await context.abort(grpc.StatusCode.INTERNAL, "internal fault; see the service's log")
            raise AssertionError("abort returned") from None
        finally:
            self._in_flight -= 1
            self._calls.add(method.path, code)
            seconds = time.perf_counter() - began
            self._seconds.add(seconds)
            if self._observe_call is not None:
                self._observe_call(method.path, seconds)

    async def _traced(self, method: Method, message: bytes, metadata: Metadata) -> bytes:
        carrier = {name: value for name, value in metadata if isinstance(value, str)}
        if "traceparent" not in carrier and method.trace_headers is not None:
            carrier = dict(method.trace_headers(message))
        with self._tracing.span(method.path.lstrip("/"), carrier):
            answer = method.handler(message, metadata)
            return answer if isinstance(answer, bytes) else await answer


def _milliseconds(seconds: float) -> int:
    """As gRPC's options take it: 32 bits, their largest meaning never."""
    return int(min(seconds * 1000, 2**31 - 1))


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds a method by its path; messages stay bytes.

    The methods are registered as reading a stream, of which they take one message: that runs
    `_answer` as soon as the headers are there. On the wire it is the same, and it costs grpc.aio no
    more.
    """

    def __init__(
        self, methods: Mapping[str, Method], answer: Callable[[Method, Any], Awaitable[bytes]]
    ) -> None:
        self._handlers = {}
        for path, method in methods.items():

            async def behaviour(_messages: Any, context: Any, method: Method = method) -> bytes:
                return await answer(method, context)

            self._handlers[path] = grpc.stream_unary_rpc_method_handler(behaviour)

    def service(self, handler_call_details: Any) -> Any:
        return self._handlers.get(handler_call_details.method)


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
