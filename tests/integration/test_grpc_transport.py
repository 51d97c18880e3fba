"""Which transport serves the main port, and what each does with deadlines and packed messages."""

from __future__ import annotations

import asyncio
import logging

import grpc
import pytest

from meshwarden.adapters import nghttp2_library
from meshwarden.adapters.nghttp2_session import http2
from meshwarden.core.faults import Misconfigured
from tests.support import grpc_service
from tests.support.grpc_service import LIBRARIES, SERVICE, Served, serving, transport  # noqa: F401
from tests.support.grpc_sessions import PATHS, Answer, HttpClient, SentCall, expected
from tests.support.processes import until

KINDS = grpc.Compression
MESSAGE = b"\0\0\0\0\1x"


@pytest.fixture
def nothing_found(monkeypatch: pytest.MonkeyPatch):
    """A machine without libnghttp2."""
    monkeypatch.setattr(nghttp2_library, "candidates", lambda: iter(["/nowhere/libnghttp2.so"]))
    for remembered in (nghttp2_library.load, http2):
        remembered.cache_clear()
    yield
    for remembered in (nghttp2_library.load, http2):
        remembered.cache_clear()


@pytest.mark.usefixtures("nothing_found")
async def test_without_the_library_grpcio_serves_and_the_log_says_why(
    capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    async with serving(transport="auto") as served, served.client() as client:
        assert served.server.transport.startswith("grpcio ")
        assert await client.call("Echo", b"x") == b"echo x"
    told = capsys.readouterr().out + caplog.text
    assert "transport_not_found" in told
    assert "/nowhere/libnghttp2.so" in told
    assert "install libnghttp2-14" in told


@pytest.mark.usefixtures("nothing_found")
async def test_a_transport_that_is_asked_for_and_not_there_is_a_fault_of_the_settings():
    served = Served(transport="nghttp2")
    with pytest.raises(Misconfigured, match=r"grpc\.transport is nghttp2: .*/nowhere/"):
        await served.server.start()
    await served.server.stop(0)


async def test_auto_takes_the_library_that_is_here():
    async with serving(transport="auto") as served:
        assert served.server.transport in LIBRARIES


def test_a_library_that_was_not_tested_or_lacks_a_guard_is_refused(monkeypatch: pytest.MonkeyPatch):
    path = next(iter(LIBRARIES.values())).path
    monkeypatch.setattr(nghttp2_library, "NEEDED", ("nghttp2_option_set_nothing",))
    with pytest.raises(nghttp2_library.Unusable, match="without nghttp2_option_set_nothing"):
        nghttp2_library.opened(path)
    monkeypatch.setattr(nghttp2_library, "OLDEST", (1, 98))
    monkeypatch.setattr(nghttp2_library, "NEWEST", (1, 99))
    with pytest.raises(nghttp2_library.Unusable, match=r"1\.98 to 1\.99 were tested"):
        nghttp2_library.opened(path)


@pytest.mark.usefixtures("transport")
async def test_a_handler_ends_with_its_callers_deadline():
    async with serving() as served, served.client() as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.channel.unary_unary("/tested.v1.Echo/Later")(b"x", timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: served.handlers.ended == 1, "the handler ended")
        await served.counts("grpc_calls_in_flight", 0)


async def answer_to(served: Served, call: SentCall, *, window: int = 65_535) -> Answer:
    """What the one call of a connection gets."""
    client = HttpClient([call], window=window)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
    client.connection.initiate_connection()
    for _ in range(2):
        client.step(0)
    writer.write(client.connection.data_to_send())
    while not client.is_done:
        client.read(await asyncio.wait_for(reader.read(65536), 10))
        writer.write(client.connection.data_to_send())
    writer.close()
    return client.answers[1]


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("left", [b"20m", b"0m"])
async def test_at_its_deadline_a_call_is_ended_whatever_its_handler_does(
    name: str, left: bytes, monkeypatch: pytest.MonkeyPatch
):
    grpc_service.use(name, monkeypatch)
    call = SentCall(f"/{SERVICE}/Stubborn", [("grpc-timeout", left)], [MESSAGE])
    async with serving() as served:
        assert (await answer_to(served, call)).code == "4"
        assert served.metric("grpc_calls_in_flight") == 0
        assert served.handlers.waiting == (left != b"0m"), "what is late is not begun"
        served.handlers.gate.set()
        await until(lambda: served.handlers.waiting == 0, "the handler ended")
        assert served.metric('grpc_calls_total{code="DEADLINE_EXCEEDED"') == 1
        assert served.metric('grpc_calls_total{code="OK"') == 0


@pytest.mark.usefixtures("transport")
async def test_a_handler_that_gives_up_ends_its_call():
    async with serving() as served:
        call = SentCall(f"/{SERVICE}/GivingUp", [], [MESSAGE])
        assert (await answer_to(served, call)).code == "1"


@pytest.mark.usefixtures("transport")
async def test_a_packed_message_is_unpacked_and_bounded():
    async with serving(message_bytes_at_most=2048) as served, served.client() as client:
        assert (
            await client.call("Echo", b"x" * 2000, compression=KINDS.Gzip) == b"echo " + b"x" * 2000
        )
        refused = await client.failure("Echo", b"x" * 100_000, compression=KINDS.Gzip)
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("name", LIBRARIES)
async def test_a_packing_that_is_not_known_is_refused_by_name(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    grpc_service.use(name, monkeypatch)
    async with serving() as served, served.client() as client:
        refused = await client.failure("Echo", b"x" * 2000, compression=KINDS.Deflate)
        assert refused.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "deflate" in str(refused.details())


@pytest.mark.usefixtures("transport")
async def test_many_calls_at_once_over_one_connection_are_each_answered():
    """Answered at once and later, large and small, in whatever order they are done."""
    async with serving() as served, served.client() as client:
        sizes = [0, 1, 100, 70_000]
        served.handlers.gate.set()
        calls = [
            client.call(method, bytes([number % 251]) * sizes[number % 4])
            for number in range(400)
            for method in ("Echo", "Later")
        ]
        answers = await asyncio.gather(*calls)
        for number in range(400):
            message = bytes([number % 251]) * sizes[number % 4]
            assert answers[2 * number] == b"echo " + message
            assert answers[2 * number + 1] == b"later " + message


@pytest.mark.parametrize("name", LIBRARIES)
async def test_what_one_read_brings_is_answered_with_one_write(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    """Twenty calls arrive together; a peer that reads as they are written gets one piece."""
    grpc_service.use(name, monkeypatch)
    calls = [SentCall(PATHS[0], [], [MESSAGE]) for _ in range(20)]
    client = HttpClient(calls)
    async with serving() as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
        client.connection.initiate_connection()
        writer.write(client.connection.data_to_send())
        client.read(await reader.read(65536))
        for number in range(20):
            client.step(number)
            client.step(number)
        writer.write(client.connection.data_to_send())
        pieces = []
        while not client.is_done:
            pieces.append(await reader.read(65536))
            client.read(pieces[-1])
        writer.close()
    assert sum(b"MirrorA" in piece for piece in pieces) == 1


@pytest.mark.usefixtures("transport")
async def test_a_narrow_window_gets_the_answer_bit_by_bit():
    """The client lets 1,000 bytes through at a time; the answer has 20,000."""
    call = SentCall(PATHS[0], [], [b"\0" + (20_000).to_bytes(4) + bytes(20_000)])
    async with serving() as served:
        got = await answer_to(served, call, window=1000)
    assert (got.status, got.code, got.body) == expected(call)
