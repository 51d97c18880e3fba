"""Who reaches the gRPC server, and how: over a UNIX socket, and with a certificate of a name."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from meshwarden.adapters.client_names import REFUSAL
from meshwarden.adapters.settings import TlsSettings
from meshwarden.adapters.telemetry import Metrics
from meshwarden.adapters.tls import Certificates, require
from meshwarden.core.faults import Misconfigured
from tests.support.certificates import Authority, Issued
from tests.support.grpc_service import SERVICE, Client, Served, serving, transport  # noqa: F401
from tests.support.service_certificates import NAME, Mount, issued

pytestmark = pytest.mark.usefixtures("transport")
AUTHORITY = Authority()
SPIFFE = "spiffe://mesh/ns/edge/sa/envoy"


@asynccontextmanager
async def wanting(name: str, folder: Path) -> AsyncIterator[Served]:
    """A server whose clients must show a certificate that holds `name`."""
    mount = Mount(folder)
    mount.put(issued(AUTHORITY), AUTHORITY.certificate)
    settings = TlsSettings(
        certificate_file=mount.certificate,
        key_file=mount.key,
        client_ca_file=mount.ca,
        client_san=name,
    )
    certificates = Certificates(settings, metrics=Metrics(), clock=time.time)
    async with serving(certificates) as served:
        yield served


def channel(port: int, shown: Issued) -> aio.Channel:
    credentials = grpc.ssl_channel_credentials(AUTHORITY.certificate, shown.key, shown.certificate)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", NAME)]
    return aio.secure_channel(f"127.0.0.1:{port}", credentials, options)


async def status(port: int, shown: Issued) -> str:
    """What a call of a client that shows this certificate comes to."""
    async with channel(port, shown) as opened:
        try:
            await Client(opened).call("Echo", b"x")
        except aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
    return "OK"


@pytest.mark.parametrize(
    ("wanted", "matching", "other"),
    [
        (
            "envoy.mesh",
            issued(AUTHORITY, "a.mesh", "ENVOY.mesh"),
            issued(AUTHORITY, "x.envoy.mesh", "voy.mesh", "mesh"),
        ),
        ("envoy.mesh", issued(AUTHORITY, "*.mesh"), issued(AUTHORITY, "*.envoy.mesh")),
        ("a.envoy.mesh", issued(AUTHORITY, "*.envoy.mesh"), issued(AUTHORITY, "*.mesh")),
        ("10.0.0.1", issued(AUTHORITY, "10.0.0.1"), issued(AUTHORITY, "10.0.0.2")),
        (SPIFFE, AUTHORITY.issue(uris=(SPIFFE,)), AUTHORITY.issue(uris=(f"{SPIFFE}2",))),
        ("client", issued(AUTHORITY, "client"), AUTHORITY.issue(subject="client")),
    ],
)
async def test_only_a_client_whose_certificate_holds_the_name_may_call(
    wanted: str, matching: Issued, other: Issued, tmp_path: Path
):
    """The common name counts for nothing."""
    async with wanting(wanted, tmp_path) as served:
        assert await status(served.server.port, matching) == "OK"
        assert await status(served.server.port, other) == f"UNAUTHENTICATED: {REFUSAL}"


async def test_health_and_reflection_are_refused_to_other_clients_too(tmp_path: Path):
    async with (
        wanting("envoy.mesh", tmp_path) as served,
        channel(served.server.port, issued(AUTHORITY, "other.mesh")) as main,
        channel(served.server.streaming_port, issued(AUTHORITY, "other.mesh")) as streaming,
        channel(served.server.streaming_port, issued(AUTHORITY, "envoy.mesh")) as allowed,
    ):
        asked = health_pb2.HealthCheckRequest()
        listing = reflection_pb2.ServerReflectionRequest(list_services="")

        def calls(opened: aio.Channel) -> list[aio.StreamStreamCall]:
            """Of the second nothing is sent yet: of a stream that was refused grpc.aio may tell
            that it could not send, instead of why.
            """
            health = health_pb2_grpc.HealthStub(opened)
            reflection = reflection_pb2_grpc.ServerReflectionStub(opened)
            return [health.Watch(asked), reflection.ServerReflectionInfo()]

        for refused in (health_pb2_grpc.HealthStub(main).Check(asked), *calls(streaming)):
            with pytest.raises(aio.AioRpcError) as caught:
                await (refused if isinstance(refused, aio.UnaryUnaryCall) else refused.read())
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        watch, reflection = calls(allowed)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await reflection.write(listing)
        names = (await reflection.read()).list_services_response.service
        assert SERVICE in {service.name for service in names}
        watch.cancel()
        reflection.cancel()


def test_a_wanted_name_without_a_ca_of_clients_is_refused(tmp_path: Path):
    mount = Mount(tmp_path)
    mount.put(issued(AUTHORITY))
    settings = TlsSettings(certificate_file=mount.certificate, key_file=mount.key, client_san="a")
    with pytest.raises(Misconfigured, match=r"tls\.client_san: needs the CA that signs clients"):
        require(settings, now=time.time())


@pytest.mark.parametrize("kind", ["path", "abstract"])
async def test_a_socket_takes_the_main_ports_place(kind: str, tmp_path: Path):
    path = str(tmp_path / "ratelimit.sock")
    name = path if kind == "path" else f"@{path}"
    target = f"unix:{path}" if kind == "path" else f"unix-abstract:{path}"
    async with serving(socket=name) as served, aio.insecure_channel(target) as opened:
        assert await Client(opened).call("Echo", b"x") == b"echo x"
        assert served.server.port == 0
        with pytest.raises(Misconfigured, match="a server listens there"):
            await Served(socket=name).server.start()
        assert await Client(opened).call("Echo", b"y") == b"echo y"


async def test_a_socket_that_a_dead_server_left_is_taken_over_and_nothing_else(tmp_path: Path):
    left, file = tmp_path / "left.sock", tmp_path / "file"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(left))
    file.write_text("mine")
    async with serving(socket=str(left)), aio.insecure_channel(f"unix:{left}") as opened:
        assert await Client(opened).call("Echo", b"x") == b"echo x"
    for path, told in ((file, "something else lies there"), (tmp_path / "no" / "s", "no folder")):
        with pytest.raises(Misconfigured, match=told):
            await Served(socket=str(path)).server.start()
    assert file.read_text() == "mine"
