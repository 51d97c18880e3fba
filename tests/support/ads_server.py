"""An ADS server for tests: says what it is told to say, and remembers what it was asked.

A real gRPC server with threads of its own, so that a test without an event loop can use it, too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import grpc
from google.protobuf import any_pb2

from meshwarden.adapters.ads_source import METHOD
from meshwarden.adapters.protobuf import message_class
from ratelimit_service.adapters.rate_limit_config import TYPE_URL, rate_limit_config
from tests.support.processes import wait_until

Request = message_class("envoy.service.discovery.v3.DiscoveryRequest")
Response = message_class("envoy.service.discovery.v3.DiscoveryResponse")

_END = object()


class AdsStream:
    """One stream as the server sees it."""

    def __init__(self, metadata: dict[str, str | bytes]) -> None:
        self.metadata = metadata
        self.requests: list[Any] = []
        self.to_send: SimpleQueue[Any] = SimpleQueue()

    def end(self) -> None:
        """End it from the server's side."""
        self.to_send.put(_END)


class AdsServer:
    """`answer` says what a new stream gets first: bytes to send, a status to end it with, or
    nothing.
    """

    def __init__(self, port: int = 0, credentials: grpc.ServerCredentials | None = None) -> None:
        self.streams: list[AdsStream] = []
        self.on_open: Callable[[], bytes | grpc.StatusCode | None] = lambda: None
        self._nonce = 0
        self._server = grpc.server(
            ThreadPoolExecutor(16),
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 1),
            ],
        )
        handler = grpc.stream_stream_rpc_method_handler(self._serve)
        service, method = METHOD.lstrip("/").split("/")
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {method: handler}),)
        )
        address = f"127.0.0.1:{port}"
        self.port = (
            self._server.add_insecure_port(address)
            if credentials is None
            else self._server.add_secure_port(address, credentials)
        )
        self._server.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def stream(self) -> AdsStream:
        """The newest stream."""
        return self.streams[-1]

    def _serve(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        stream = AdsStream(dict(context.invocation_metadata()))
        first = self.on_open()
        if isinstance(first, grpc.StatusCode):
            context.abort(first, "not today")
        if first is not None:
            stream.to_send.put(first)

        def listen() -> None:
            try:
                for message in requests:
                    stream.requests.append(Request.FromString(message))
            except grpc.RpcError:
                pass
            stream.to_send.put(_END)

        # Reading ends with the stream, whichever side ends it.
        threading.Thread(target=listen, daemon=True).start()
        self.streams.append(stream)
        while (message := stream.to_send.get()) is not _END:
            yield message

    def response(self, version: str, *resources: Any, type_url: str = TYPE_URL) -> bytes:
        """The bytes of a response, with a nonce that no other has."""
        self._nonce += 1
        message = Response(version_info=version, type_url=type_url, nonce=f"n{self._nonce}")
        for resource in resources:
            packed = resource if isinstance(resource, any_pb2.Any) else any_of(resource)
            message.resources.add(type_url=packed.type_url, value=packed.value)
        return bytes(message.SerializeToString())

    def send(self, version: str, *resources: Any, type_url: str = TYPE_URL) -> Any:
        """Send a response on the newest stream; the answer to it (a DiscoveryRequest)."""
        return self.send_bytes(self.response(version, *resources, type_url=type_url))

    def send_bytes(self, message: bytes) -> Any:
        wait_until(lambda: self.streams and self.stream.requests, "a client asks")
        self.stream.to_send.put(message)
        return self.answer(Response.FromString(message).nonce)

    def answer(self, nonce: str) -> Any:
        """The answer to the response with this nonce."""
        wait_until(lambda: self._answers(nonce), f"response {nonce} is answered")
        return self._answers(nonce)[0]

    def _answers(self, nonce: str) -> list[Any]:
        return [r for s in self.streams for r in s.requests if r.response_nonce == nonce]

    def stop(self) -> None:
        for stream in self.streams:
            stream.end()
        self._server.stop(0).wait()


def any_of(resource: Any, type_url: str = TYPE_URL) -> any_pb2.Any:
    """A resource as a response holds it."""
    return any_pb2.Any(type_url=type_url, value=resource.SerializeToString())


def config(name: str, domain: str, *descriptors: dict[str, Any]) -> Any:
    """A `RateLimitConfig` of descriptors as protobuf's Python takes them."""
    return rate_limit_config()(name=name, domain=domain, descriptors=descriptors)


def limited(key: str, requests_per_unit: int = 1, unit: str = "YEAR") -> dict[str, Any]:
    """A descriptor with a limit."""
    return {"key": key, "rate_limit": {"unit": unit, "requests_per_unit": requests_per_unit}}


def stream_arguments(server: str, **settings: object) -> list[str]:
    """The command line of a service, node `edge`, that takes its limits from `server`."""
    given = {"configuration.source": "xds", "xds.server": server, "xds.node-id": "edge"} | settings
    return [part for name, value in given.items() for part in (f"--{name}", str(value))]


@contextmanager
def ads_server(
    port: int = 0, credentials: grpc.ServerCredentials | None = None
) -> Iterator[AdsServer]:
    """A server for the length of the block."""
    server = AdsServer(port, credentials)
    try:
        yield server
    finally:
        server.stop()
