"""The gRPC server as clients of grpcio see it: answers, bounds, health, reflection, stop."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from meshwarden.adapters import grpc_calls
from meshwarden.core.faults import Misconfigured
from tests.support.grpc_service import SERVICE, Served, serving, transport  # noqa: F401
from tests.support.http2_frames import GOAWAY, PING, PREFACE, SETTINGS, frame
from tests.support.ports import free_port
from tests.support.processes import until

pytestmark = pytest.mark.usefixtures("transport")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_handler_answers_at_once_or_when_it_is_ready():
    async with serving() as served, served.client() as client:
        assert await client.call("Echo", b"hi") == b"echo hi"
        waiting = client.call("Later", b"you")
        await until(lambda: served.handlers.waiting, "the call waits")
        assert await client.call("Echo", b"meanwhile") == b"echo meanwhile"
        served.handlers.gate.set()
        assert await waiting == b"later you"
        await served.counts('grpc_calls_total{code="OK",method="/tested.v1.Echo/Echo"}', 2)
        await served.counts("grpc_call_seconds_count", 3)


async def test_a_handler_sees_the_metadata_of_its_call():
    async with serving() as served, served.client() as client:
        assert await client.call("Named", b"x-who", metadata=(("x-who", "rita"),)) == b"rita"


@pytest.mark.parametrize(
    ("message", "code", "details"),
    [
        (b"input", "INVALID_ARGUMENT", "the descriptor is empty"),
        (b"dependency", "UNAVAILABLE", "redis does not answer"),
        (b"setup", "FAILED_PRECONDITION", "no key"),
        (b"own", "UNKNOWN", "as the reference says"),
        (b"bug", "INTERNAL", "internal fault; see the service's log"),
    ],
)
async def test_a_fault_ends_the_call_with_its_status(message: bytes, code: str, details: str):
    """And an exception that is no fault tells the caller nothing of itself."""
    async with serving() as served, served.client() as client:
        failure = await client.failure("Failing", message)
        assert (failure.code().name, failure.details()) == (code, details)
        await served.counts(f'grpc_calls_total{{code="{code}"', 1)
        assert await client.call("Echo") == b"echo "


async def test_an_unknown_method_is_unimplemented():
    async with serving() as served, served.client() as client:
        for method in ("Nothing", "/other.v1.Service/Echo", "/"):
            assert (await client.failure(method)).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_call_without_a_message_is_refused():
    async def nothing() -> AsyncIterator[bytes]:
        for message in ():
            yield message

    async with serving() as served, served.client() as client:
        call = client.channel.stream_unary(f"/{SERVICE}/Echo")(nothing(), timeout=10)
        with pytest.raises(aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_message_or_metadata_that_is_too_large_is_refused():
    async with (
        serving(message_bytes_at_most=2048, metadata_bytes_at_most=4096) as served,
        served.client() as client,
    ):
        assert await client.call("Echo", b"x" * 2000)
        refused = await client.failure("Echo", b"x" * 3000)
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        large = (("x-large", "x" * 5000),)
        refused = await client.failure("Echo", metadata=large)
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await client.call("Echo", metadata=(("x-small", "x" * 3000),))
        assert served.handlers.ended == 0


async def test_beyond_the_bound_each_call_gets_the_overload_answer_in_band():
    """Thirty at a bound of three, over several connections: not one ends in a gRPC error."""
    async with (
        serving(calls_at_most=3) as served,
        served.client() as one,
        served.client() as two,
        served.client() as three,
    ):
        held = [one.call("InBand") for _ in range(3)]
        await until(lambda: served.handlers.waiting == 3, "three calls are in flight")
        flood = [client.call("InBand") for client in (one, two, three) for _ in range(10)]
        assert await asyncio.gather(*flood) == [b"overloaded"] * 30
        served.handlers.gate.set()
        assert await asyncio.gather(*held) == [b"later "] * 3
        assert await one.call("InBand") == b"later "
        await served.counts('grpc_calls_total{code="OVERLOADED"', 30)


async def test_a_flood_at_once_is_answered_in_band_too():
    """Twenty times the bound in one burst: grpcio must not refuse any of them by itself."""
    async with serving(calls_at_most=2) as served, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(served.client()) for _ in range(12)]
        await asyncio.gather(*(client.channel.channel_ready() for client in clients))
        gathered = asyncio.gather(*(c.call("InBand") for c in clients for _ in range(4)))
        refused = 'grpc_calls_total{code="OVERLOADED"'
        await until(lambda: gathered.done() or served.metric(refused) == 46, "46 are refused")
        served.handlers.gate.set()
        assert sorted(await gathered) == [b"later "] * 2 + [b"overloaded"] * 46


async def test_health_is_answered_when_all_else_is_refused():
    """A busy service that fails its health check is taken out, and its callers' failure mode, which
    may be to allow, decides.
    """
    async with serving(calls_at_most=1) as served, served.client() as client:
        await served.server.set_serving(True, [])
        held = client.call("InBand")
        await until(lambda: served.handlers.waiting, "a call is in flight")
        check = health_pb2_grpc.HealthStub(client.channel).Check
        assert (await check(health_pb2.HealthCheckRequest())).status == SERVING
        served.handlers.gate.set()
        await held


async def test_without_an_overload_answer_the_call_ends_as_exhausted():
    async with serving(calls_at_most=1) as served, served.client() as client:
        held = client.call("Later")
        await until(lambda: served.handlers.waiting, "a call is in flight")
        failure = await client.failure("Echo")
        assert failure.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert failure.details() == "too many calls in flight"
        served.handlers.gate.set()
        await held


async def test_a_cancelled_call_is_no_longer_in_flight():
    async with serving() as served, served.client() as client:
        call = client.call("Later")
        await until(lambda: served.metric("grpc_calls_in_flight") == 1, "the call is in flight")
        call.cancel()
        await until(lambda: served.metric("grpc_calls_in_flight") == 0, "it is not")
        assert served.handlers.ended == 1
        await served.counts('grpc_calls_total{code="CANCELLED"', 1)


async def test_health_follows_readiness_on_both_ports():
    """Not serving from the first moment, before anybody said so."""
    async with serving() as served, served.client() as client, served.streaming() as streaming:
        check = health_pb2_grpc.HealthStub(client.channel).Check
        watch = health_pb2_grpc.HealthStub(streaming).Watch(health_pb2.HealthCheckRequest())
        assert (await check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
        assert (await watch.read()).status == NOT_SERVING
        for is_serving, status in ((True, SERVING), (False, NOT_SERVING)):
            await served.server.set_serving(is_serving, [SERVICE])
            assert (await check(health_pb2.HealthCheckRequest())).status == status
            named = health_pb2.HealthCheckRequest(service=SERVICE)
            assert (await check(named)).status == status
            assert (await watch.read()).status == status
        with pytest.raises(aio.AioRpcError) as caught:
            await check(health_pb2.HealthCheckRequest(service="nobody"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        watch.cancel()


async def test_reflection_lists_our_services_and_describes_envoys_messages():
    async with serving() as served:
        address = f"127.0.0.1:{served.server.streaming_port}"

        def reflect() -> tuple[set[str], Any]:
            with grpc.insecure_channel(address) as channel:
                database = ProtoReflectionDescriptorDatabase(channel)
                found = DescriptorPool(database).FindMessageTypeByName(
                    "envoy.service.auth.v3.CheckRequest"
                )
                return set(database.get_services()), found

        services, check_request = await asyncio.to_thread(reflect)
        assert services == {SERVICE, "grpc.health.v1.Health"}
        assert [field.name for field in check_request.fields] == ["attributes"]


async def _goaway(port: int, frames: bytes) -> tuple[int, bytes]:
    """The error and the text of the first GOAWAY that a connection with `frames` is sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(PREFACE + frame(SETTINGS) + frames)
        while True:
            head = await asyncio.wait_for(reader.readexactly(9), 10)
            body = await reader.readexactly(int.from_bytes(head[:3], "big"))
            if head[3] == GOAWAY:
                return int.from_bytes(body[4:8], "big"), body[8:]
    finally:
        writer.close()


async def test_a_client_that_pings_too_often_is_disconnected():
    async with serving(ping_interval_at_least_seconds=60) as served:
        pings = frame(PING, b"12345678") * 6
        error, text = await _goaway(served.server.port, pings)
        assert (error, text) == (11, b"too_many_pings")


async def test_an_old_connection_is_replaced_without_a_failed_call():
    """The server asks with GOAWAY; the client goes on over a new connection."""
    async with (
        serving(connection_age_seconds=0.3, connection_age_grace_seconds=5) as served,
        served.client() as client,
    ):
        asked = asyncio.create_task(_goaway(served.server.port, b""))
        ports: set[int] = set()
        deadline = time.monotonic() + 10
        while not (asked.done() and len(ports) >= 4) and time.monotonic() < deadline:
            assert await client.call("Echo", b"x") == b"echo x"
            ports |= _client_ports(served.server.port)
        assert (await asked)[0] == 0
        assert len(ports) >= 4, "one of this test, and three of the client, one after the other"


def _client_ports(server_port: int) -> set[int]:
    """The ports from which connections to `server_port` come (Linux; gRPC's are in tcp6)."""
    tables = [Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table.splitlines()]
    return {
        int(row[1].rpartition(":")[2], 16)
        for row in rows
        if row[2].endswith(f":{server_port:04X}") and row[3] == "01"
    }


async def test_a_call_in_flight_survives_the_stop_and_new_ones_are_turned_away():
    async with serving() as served, served.client() as client, served.client() as late:
        waiting = client.call("Later", b"you")
        await until(lambda: served.handlers.waiting, "the call waits")
        stopping = asyncio.create_task(served.server.stop(10))
        await until(lambda: not _accepts(served.server.port), "no new connection is accepted")
        assert (await late.failure("Echo")).code() is grpc.StatusCode.UNAVAILABLE
        served.handlers.gate.set()
        assert await waiting == b"later you"
        await asyncio.wait_for(stopping, 5)


async def test_what_does_not_end_within_the_grace_is_cut():
    """The bound holds for both ports together, also while somebody watches the health."""
    async with serving() as served, served.client() as client, served.streaming() as streaming:
        watch = health_pb2_grpc.HealthStub(streaming).Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        call = client.call("Later")
        await until(lambda: served.handlers.waiting, "the call waits")
        began = time.monotonic()
        await served.server.stop(0.5)
        assert time.monotonic() - began < 0.9
        with pytest.raises(aio.AioRpcError):
            await call
        await served.counts("grpc_calls_in_flight", 0)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("name", ["port", "streaming_port"])
async def test_a_taken_port_is_named(name: str):
    taken = free_port()
    with socket.create_server(("127.0.0.1", taken)):
        served = Served(**{name: taken})
        with pytest.raises(Misconfigured, match=f"port {taken} on 127.0.0.1 can't be bound"):
            await served.server.start()
        await served.server.stop(0)


async def test_a_call_whose_message_never_comes_is_ended(monkeypatch: pytest.MonkeyPatch):
    """A thousand such calls would fill the bound for ever."""
    monkeypatch.setattr(grpc_calls, "MESSAGE_SECONDS_AT_MOST", 0.1)
    async with serving(calls_at_most=1) as served, served.client() as client:
        call = client.channel.stream_unary(f"/{SERVICE}/Echo")()
        await until(lambda: served.metric("grpc_calls_in_flight") == 1, "the call is in flight")
        with pytest.raises(aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await client.call("Echo") == b"echo "
