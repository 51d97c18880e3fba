"""gRPC ports on grpcio's grpc.aio, which serves every kind of call.

Known weakness: it costs several times what nghttp2 does, nine tenths of it its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn

import grpc
from grpc import aio

from meshwarden.adapters import grpc_calls, ports
from meshwarden.adapters import grpc_refusals as refusals
from meshwarden.adapters.client_names import OnlyClientsNamed
from meshwarden.adapters.grpc_calls import Calls, Metadata, Method, status_of
from meshwarden.adapters.grpc_refusals import Refusal
from meshwarden.adapters.settings import GrpcSettings
from meshwarden.adapters.tls import Certificates
from meshwarden.core.faults import Misconfigured


class Listener:
    """Makes servers of grpc.aio as the settings want them, and binds them."""

    def __init__(
        self, settings: GrpcSettings, certificates: Certificates | None, *, shared_ports: bool
    ) -> None:
        self._settings = settings
        self._certificates = certificates
        self._shared_ports = shared_ports

    def server(self, *, maximum_concurrent_rpcs: int | None = None) -> aio.Server:
        """A server, not bound yet. Beyond `maximum_concurrent_rpcs` grpc.aio answers with an error
        by itself, so the main port, where a flood must be answered in-band, has none.
        """
        wanted = "" if self._certificates is None else self._certificates.client_san
        return aio.server(
            options=self._options(),
            interceptors=[OnlyClientsNamed(wanted)] if wanted else [],
            maximum_concurrent_rpcs=maximum_concurrent_rpcs,
        )

    def bind(self, server: aio.Server, port: int) -> int:
        """Bind to a port of the settings' host; which it is. Raises `Misconfigured`."""
        if not self._shared_ports:
            ports.require_free(self._settings.host, port)
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        return self._listen(server, f"{host}:{port}", what=f"port {port} on {host}")

    def bind_main(self, server: aio.Server) -> int:
        """Bind to the main port, or the socket in its place: then there is none, 0."""
        socket = self._settings.socket
        if not socket:
            return self.bind(server, self._settings.port)
        ports.require_free_socket(socket)
        address = f"unix-abstract:{socket[1:]}" if socket[0] == "@" else f"unix:{socket}"
        self._listen(server, address, what=f"the socket {socket}")
        return 0

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
            ("grpc.keepalive_timeout_ms", _milliseconds(grpc_calls.PING_SECONDS_AT_MOST)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", ping_milliseconds),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", ping_milliseconds),
            ("grpc.http2.max_ping_strikes", grpc_calls.PINGS_TOO_SOON_AT_MOST),
            ("grpc.max_concurrent_streams", settings.streams_at_most),
        ]


class GrpcioPort:
    """The main port: the methods, each call over `Calls`."""

    def __init__(self, methods: Mapping[str, Method], calls: Calls, listener: Listener) -> None:
        self._calls = calls
        self._listener = listener
        self._server = listener.server()
        self._server.add_generic_rpc_handlers((_Methods(methods, self._answer),))

    def bind(self) -> int:
        return self._listener.bind_main(self._server)

    async def start(self) -> None:
        await self._server.start()

    async def stop(self, grace_seconds: float) -> None:
        await self._server.stop(grace_seconds)

    async def _answer(self, method: Method, context: Any) -> bytes:
        """One call: bounded, timed, its faults mapped to a status."""
        calls = self._calls
        began = calls.begin()
        code = "OK"
        try:
            if calls.are_too_many(method):
                code = "OVERLOADED"
                if method.overloaded is None:
                    await _abort(context, refusals.TOO_MANY_CALLS)
                return method.overloaded()
            message = await _message(context)
            metadata: Metadata = context.invocation_metadata() or ()
            answer = calls.answer(method, message, metadata)
            return answer if isinstance(answer, bytes) else await answer
        except asyncio.CancelledError:
            code = "CANCELLED"
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            await _abort(context, refusals.GIVEN_UP)
        except (aio.AbortError, GeneratorExit):
            raise
        except Exception as error:
            refusal = status_of(method, error)
            code = refusal[0].name
            await _abort(context, refusal)
        finally:
            calls.end(method.path, code, began)


async def _message(context: Any) -> bytes:
    """The call's one message. Raises `GrpcFailure`."""
    try:
        async with asyncio.timeout(grpc_calls.MESSAGE_SECONDS_AT_MOST):
            message = await context.read()
    except TimeoutError:
        raise refusals.failure(refusals.NO_MESSAGE_IN_TIME) from None
    if message is aio.EOF:
        raise refusals.failure(refusals.NO_MESSAGE)
    return bytes(message)


async def _abort(context: Any, refusal: Refusal) -> NoReturn:
    await context.abort(*refusal)
    raise AssertionError("abort returned")


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
