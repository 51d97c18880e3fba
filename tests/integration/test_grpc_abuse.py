"""What a hostile client does to the port on libnghttp2: each attack ends in a closed connection,
and others are served meanwhile. Without its guard the same attack goes on: that is shown, too.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from hpack import Encoder

from meshwarden.adapters import nghttp2_lifetime, nghttp2_port
from meshwarden.adapters.nghttp2_patience import Patience
from tests.support import grpc_service
from tests.support.grpc_service import LIBRARIES, SERVICE, Served, serving
from tests.support.http2_frames import (
    CONTINUATION,
    DATA,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from tests.support.processes import until

END_STREAM = ACK = 1
END_HEADERS = 4
ENHANCE_YOUR_CALM = 11
FRAMES, AT_ONCE = 3000, 500
GROWTH_BYTES_AT_MOST = 48 << 20


def request_headers(*more: tuple[str, str], path: str = f"/{SERVICE}/Later") -> bytes:
    """Encoded without the peer's table, so that each block stands alone."""
    names = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x")]
    pairs = [*names, ("content-type", "application/grpc"), *more]
    return bytes(Encoder().encode([(name, value, True) for name, value in pairs]))


HEAD = request_headers()
MESSAGE = b"\0\0\0\0\1x"


def streams(body: Callable[[int], bytes]) -> list[bytes]:
    return [body(1 + 2 * number) for number in range(FRAMES)]


def opened(stream: int, *, flags: int = END_HEADERS, head: bytes = HEAD) -> bytes:
    return frame(HEADERS, head, flags=flags, stream=stream)


TABLE = b"\x40\x01a\x7f\xa1\x1e" + b"v" * 4000
NAMED = b"\xbe" * 4000
"""A large header that is put into the table, and how a block names it four thousand times."""
PLAIN = b"\0\1x\1y"

ATTACKS: dict[str, tuple[list[bytes], str]] = {
    "rapid reset": (
        streams(lambda n: opened(n) + frame(RST_STREAM, b"\0\0\0\x08", stream=n)),
        "is_over",
    ),
    "made you reset": (
        streams(lambda n: opened(n) + frame(WINDOW_UPDATE, b"\x7f\xff\xff\xff", stream=n)),
        "is_over",
    ),
    "settings": ([frame(SETTINGS)] * FRAMES, "is_over"),
    "priority": ([frame(PRIORITY, b"\0\0\0\0\x10", stream=1)] * FRAMES, "is_over"),
    "window update": ([frame(WINDOW_UPDATE, b"\0\0\0\1")] * 6 * FRAMES, "is_over"),
    "empty data": ([opened(1), *[frame(DATA, stream=1)] * FRAMES], "is_over"),
    "ping": ([frame(PING, b"12345678")] * 50, "is_over_pings"),
    "continuation": (
        [
            opened(1, flags=0)
            + frame(CONTINUATION, PLAIN, stream=1) * 60
            + frame(CONTINUATION, PLAIN, stream=1, flags=END_HEADERS)
        ],
        "",
    ),
    "hpack bomb": ([opened(1, head=HEAD + TABLE), opened(3, head=HEAD + NAMED)], "is_over_headers"),
}
"""What is sent, and the method of `Patience` that stops it, where the library does not."""
STOPPED_BY_THE_LIBRARY = {"continuation", "made you reset"}
"""What each library that may be used stops by itself, and what the newer do: Debian teaches the
older one such things without another version.
"""


@pytest.fixture(params=list(LIBRARIES))
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server runs on this library."""
    grpc_service.use(request.param, monkeypatch)


class Attacker:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.goaway: int | None = None
        self.answers: list[bytes] = []
        self.is_ponged = False

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def drain(self) -> None:
        """Wait until the kernel takes what was sent; fails when it takes nothing for long."""
        await asyncio.wait_for(self._writer.drain(), 5)

    async def read_to_the_end(self) -> None:
        """Read what comes until the server closes."""
        try:
            while await self.read_frame():
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    async def read_frame(self) -> bool:
        head = await self._reader.readexactly(9)
        body = await self._reader.readexactly(int.from_bytes(head[:3]))
        if head[3] == GOAWAY:
            self.goaway = int.from_bytes(body[4:8])
        if head[3] == DATA:
            self.answers.append(body)
        self.is_ponged = head[3] == PING and bool(head[4] & ACK) and body == b"are you?"
        return True

    async def is_alive(self) -> bool:
        """Whether the server still answers here."""
        self.send(frame(PING, b"are you?"))
        try:
            while not (await self.read_frame() and self.is_ponged):
                if self.goaway is not None:
                    return False
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        return True


@asynccontextmanager
async def attacking(served: Served, *, settings: bytes = b"") -> AsyncIterator[Attacker]:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
    attacker = Attacker(reader, writer)
    attacker.send(PREFACE + frame(SETTINGS, settings) + frame(SETTINGS, flags=ACK))
    try:
        yield attacker
    finally:
        writer.close()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def survives(attacker: Attacker, frames: list[bytes]) -> bool:
    """Send the frames, some at a time, taking what the server answers; whether it still does."""
    for place in range(0, len(frames), AT_ONCE):
        attacker.send(b"".join(frames[place : place + AT_ONCE]))
        if not await asyncio.wait_for(attacker.is_alive(), 20):
            return False
    return True


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", ATTACKS)
async def test_an_attack_ends_its_connection_and_nobody_elses(name: str):
    async with serving() as served, served.client() as other:
        assert await other.call("Echo", b"x") == b"echo x"
        before = resident_bytes()
        async with attacking(served) as attacker:
            assert not await survives(attacker, ATTACKS[name][0])
            await asyncio.wait_for(attacker.read_to_the_end(), 20)
            if name not in STOPPED_BY_THE_LIBRARY:
                assert attacker.goaway in {ENHANCE_YOUR_CALM, None}, "what is cut may get lost"
        assert resident_bytes() - before < GROWTH_BYTES_AT_MOST
        assert await other.call("Echo", b"x") == b"echo x"
        await until(lambda: served.metric("grpc_calls_in_flight") == 0, "nothing is in flight")


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", [name for name, (_, guard) in ATTACKS.items() if guard])
async def test_without_its_guard_the_attack_goes_on(name: str, monkeypatch: pytest.MonkeyPatch):
    attack, guard = ATTACKS[name]
    monkeypatch.setattr(Patience, guard, lambda *_: False)
    async with serving(ping_interval_at_least_seconds=1e-9) as served:
        async with attacking(served) as attacker:
            is_alive = await survives(attacker, attack)
        assert is_alive or name in STOPPED_BY_THE_LIBRARY


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds takes a tenth of one."""
    monkeypatch.setattr(nghttp2_port, "LOOK_INTERVAL_SECONDS", 0.05)
    for name in ("PREFACE_SECONDS_AT_MOST", "PING_SECONDS_AT_MOST", "SEND_SECONDS_AT_MOST"):
        monkeypatch.setattr(nghttp2_lifetime, name, 0.2)


@pytest.mark.usefixtures("library")
async def test_connections_beyond_the_bound_are_closed_and_the_others_served():
    """Half-open ones are counted in; a place that is left is taken by the next."""
    async with serving(connections_at_most=3) as served, served.client() as other:
        assert await other.call("Echo", b"x") == b"echo x"
        held = [await asyncio.open_connection("127.0.0.1", served.server.port) for _ in range(2)]
        await served.counts("grpc_connections", 3)
        reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
        assert await asyncio.wait_for(until_closed(reader), 10)
        writer.close()
        assert served.metric('grpc_connections_cut_total{reason="too_many_connections"}') == 1
        assert await other.call("Echo", b"x") == b"echo x"
        for _, writer in held:
            writer.close()
        await served.counts("grpc_connections", 1)
        async with served.client() as later:
            assert await later.call("Echo", b"x") == b"echo x"


@pytest.mark.usefixtures("library", "impatient")
async def test_who_never_greets_is_let_go():
    async with serving() as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
        writer.write(PREFACE[:10])
        assert await asyncio.wait_for(until_closed(reader), 10)
        writer.close()


@pytest.mark.usefixtures("library", "impatient")
async def test_who_is_silent_is_asked_and_let_go_without_an_answer():
    async with serving(keepalive_interval_seconds=0.1) as served, served.client() as lively:
        assert await lively.call("Echo", b"x") == b"echo x"
        async with attacking(served) as attacker:
            await asyncio.wait_for(attacker.read_to_the_end(), 10)
        assert await lively.call("Echo", b"x") == b"echo x"


NO_WINDOW = struct.pack(">HI", 4, 0)
"""SETTINGS_INITIAL_WINDOW_SIZE: nothing may be sent on a stream."""


@pytest.mark.usefixtures("library", "impatient")
async def test_who_hoards_answers_behind_a_closed_window_is_let_go():
    head = request_headers(path=f"/{SERVICE}/Echo")
    async with serving() as served, attacking(served, settings=NO_WINDOW) as attacker:
        for number in range(200):
            stream = 1 + 2 * number
            attacker.send(opened(stream, head=head))
            attacker.send(frame(DATA, MESSAGE, flags=END_STREAM, stream=stream))
        await asyncio.wait_for(attacker.read_to_the_end(), 10)
        assert attacker.goaway == ENHANCE_YOUR_CALM
        assert not attacker.answers


@pytest.mark.usefixtures("library", "impatient")
async def test_who_never_reads_is_let_go():
    """A kernel's buffers full of answers, and more behind them."""
    head = request_headers(path=f"/{SERVICE}/Echo")
    wide = struct.pack(">HI", 4, 2**31 - 1)
    async with serving() as served, attacking(served, settings=wide) as attacker:
        attacker.send(frame(WINDOW_UPDATE, struct.pack(">I", 2**31 - 1 - 65535)))
        large = b"\0" + (1 << 20).to_bytes(4) + bytes(1 << 20)
        chunks = [large[place : place + 16384] for place in range(0, len(large), 16384)]
        with suppress(ConnectionError, TimeoutError):
            for number in range(64):
                stream = 1 + 2 * number
                attacker.send(opened(stream, head=head))
                for chunk in chunks[:-1]:
                    attacker.send(frame(DATA, chunk, stream=stream))
                attacker.send(frame(DATA, chunks[-1], flags=END_STREAM, stream=stream))
                await attacker.drain()
                if served.metric("grpc_connections_cut_total"):
                    break
        await served.counts('grpc_connections_cut_total{reason="overdue"}', 1)


async def until_closed(reader: asyncio.StreamReader) -> bool:
    """Read what comes, to the end."""
    with suppress(ConnectionError):
        while await reader.read(65536):
            pass
    return True
