"""A tested gRPC service of a few methods, served by our server, and a client of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import cache, partial
from typing import Any

import pytest
from grpc import aio

from meshwarden.adapters import nghttp2_library, nghttp2_port
from meshwarden.adapters.grpc_calls import GrpcFailure, Metadata, Method
from meshwarden.adapters.grpc_server import GrpcServer
from meshwarden.adapters.nghttp2_session import Http2
from meshwarden.adapters.settings import GrpcSettings, TracingSettings
from meshwarden.adapters.telemetry import Metrics
from meshwarden.adapters.tls import Certificates
from meshwarden.adapters.tracing import Tracing
from meshwarden.core.faults import InvalidInput, Misconfigured, Unavailable
from tests.support.processes import until

SERVICE = "tested.v1.Echo"


def _libraries() -> dict[str, nghttp2_library.Library]:
    found = {}
    for path in nghttp2_library.candidates():
        with suppress(nghttp2_library.Unusable):
            library = nghttp2_library.opened(path)
            found[f"nghttp2 {library.version}"] = library
    return found


LIBRARIES = _libraries()
"""Each libnghttp2 that is here; pycurl's wheel brings one of them."""
TRANSPORTS = ["grpcio", *LIBRARIES]


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The test runs over each transport; this is which."""
    name = str(request.param)
    use(name, monkeypatch)
    return name


def use(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `Served` run over this one of `TRANSPORTS`."""
    monkeypatch.setattr(Served, "transport", name.partition(" ")[0])
    if name in LIBRARIES:
        monkeypatch.setattr(nghttp2_port, "http2", cache(partial(Http2, LIBRARIES[name])))


class Handlers:
    """What the tested methods answer; `gate` holds back those that wait."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.waiting = 0
        self.ended = 0

    def echo(self, message: bytes, _metadata: Metadata) -> bytes:
        return b"echo " + message

    async def later(self, message: bytes, _metadata: Metadata) -> bytes:
        self.waiting += 1
        try:
            await self.gate.wait()
            return b"later " + message
        finally:
            self.waiting -= 1
            self.ended += 1

    async def stubborn(self, message: bytes, metadata: Metadata) -> bytes:
        """Goes on when it is cancelled."""
        with suppress(asyncio.CancelledError):
            await self.later(message, metadata)
        return await self.later(message, metadata)

    async def giving_up(self, _message: bytes, _metadata: Metadata) -> bytes:
        raise asyncio.CancelledError

    def named(self, message: bytes, metadata: Metadata) -> bytes:
        return str(dict(metadata)[message.decode()]).encode()

    def mirror(self, name: str, message: bytes, metadata: Metadata) -> bytes:
        """Everything that a handler is given."""
        own = sorted((key, value) for key, value in metadata if key.startswith("x-"))
        return f"{name} {own} ".encode() + message

    async def mirror_later(self, message: bytes, metadata: Metadata) -> bytes:
        await asyncio.sleep(0)
        return self.mirror("MirrorLater", message, metadata)

    def failing(self, message: bytes, _metadata: Metadata) -> bytes:
        raise {
            b"input": InvalidInput("the descriptor is empty"),
            b"dependency": Unavailable("redis does not answer"),
            b"setup": Misconfigured("no key"),
            b"own": GrpcFailure(2, "as the reference says"),
            b"bug": ValueError("Bearer abc"),
        }[message]

    def methods(self) -> list[Method]:
        return [
            Method(f"/{SERVICE}/Echo", self.echo),
            Method(f"/{SERVICE}/Same", lambda message, _: message),
            Method(f"/{SERVICE}/Later", self.later),
            Method(f"/{SERVICE}/Stubborn", self.stubborn),
            Method(f"/{SERVICE}/GivingUp", self.giving_up),
            Method(f"/{SERVICE}/Named", self.named),
            Method(f"/{SERVICE}/Failing", self.failing),
            Method(f"/{SERVICE}/MirrorA", partial(self.mirror, "MirrorA")),
            Method(f"/{SERVICE}/MirrorB", partial(self.mirror, "MirrorB")),
            Method(f"/{SERVICE}/MirrorLater", self.mirror_later),
            Method(f"/{SERVICE}/InBand", self.later, overloaded=lambda: b"overloaded"),
        ]


class Served:
    """A running server, its handlers and its metrics."""

    transport = "auto"

    def __init__(self, certificates: Certificates | None = None, **settings: Any) -> None:
        self.handlers = Handlers()
        self.metrics = Metrics()
        self.server = GrpcServer(
            GrpcSettings(host="127.0.0.1", **({"transport": self.transport} | settings)),
            self.handlers.methods(),
            metrics=self.metrics,
            tracing=Tracing(TracingSettings(), "tested"),
            certificates=certificates,
        )

    @asynccontextmanager
    async def client(self, *options: tuple[str, int]) -> AsyncIterator[Client]:
        """A connection of its own to the main port."""
        own = [("grpc.use_local_subchannel_pool", 1), *options]
        async with aio.insecure_channel(f"127.0.0.1:{self.server.port}", own) as channel:
            yield Client(channel)

    @asynccontextmanager
    async def streaming(self) -> AsyncIterator[aio.Channel]:
        async with aio.insecure_channel(f"127.0.0.1:{self.server.streaming_port}") as channel:
            yield channel

    async def counts(self, name: str, value: float) -> None:
        """Fail unless the metric becomes `value`: a call is counted just after it is answered."""
        await until(lambda: self.metric(name) == value, f"{name} is {value}")

    def metric(self, name: str) -> float:
        for line in self.metrics.exposition().decode().splitlines():
            # A name, with some of its labels or none; of another name it is no beginning.
            if line.startswith(name) and not line[len(name)].isalnum() and line[len(name)] != "_":
                return float(line.rpartition(" ")[2])
        return 0


class Client:
    """Calls methods of the tested service with bytes."""

    def __init__(self, channel: aio.Channel) -> None:
        self.channel = channel

    def call(self, method: str, message: bytes = b"", **options: Any) -> Any:
        path = method if "/" in method else f"/{SERVICE}/{method}"
        return self.channel.unary_unary(path)(message, timeout=10, **options)

    async def failure(self, method: str, message: bytes = b"", **options: Any) -> aio.AioRpcError:
        with pytest.raises(aio.AioRpcError) as caught:
            await self.call(method, message, **options)
        return caught.value


@asynccontextmanager
async def serving(
    certificates: Certificates | None = None, **settings: Any
) -> AsyncIterator[Served]:
    """A server for the length of the block."""
    served = Served(certificates, **settings)
    await served.server.start()
    try:
        yield served
    finally:
        served.handlers.gate.set()
        await served.server.stop(1)
