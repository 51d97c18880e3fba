"""What a hostile client does to the port on libnghttp2: each attack ends in a closed connection,
and others are served meanwhile. Without its guard the same attack goes on: that is shown, too.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hpack import Encoder

from meshwarden.adapters import (
    nghttp2_connection,
    nghttp2_lifetime,
    nghttp2_port,
    nghttp2_session,
)
from meshwarden.adapters.nghttp2_connection import Connection
from meshwarden.adapters.nghttp2_lifetime import Lifetime
from meshwarden.adapters.nghttp2_patience import Patience
from meshwarden.adapters.nghttp2_port import Nghttp2Port
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
LOOK_SECONDS, WAIT_SECONDS = 0.05, 0.2


def request_headers(*more: tuple[str, str], path: str = f"/{SERVICE}/Later") -> bytes:
    """Encoded without the peer's table, so that each block stands alone."""
    names = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x")]
    pairs = [*names, ("content-type", "application/grpc"), *more]
    return bytes(Encoder().encode([(name, value, True) for name, value in pairs]))


HEAD = request_headers()
ECHO = request_headers(path=f"/{SERVICE}/Echo")
MESSAGE = b"\0\0\0\0\1x"


def streams(body: Callable[[int], bytes]) -> list[bytes]:
    return [body(1 + 2 * number) for number in range(FRAMES)]


def opened(stream: int, *, flags: int = END_HEADERS, head: bytes = HEAD) -> bytes:
    return frame(HEADERS, head, flags=flags, stream=stream)


def data_of(stream: int, message: bytes) -> list[bytes]:
    """Frames of the usual size, of which none is the last."""
    starts = range(0, len(message), 16384)
    return [frame(DATA, message[at : at + 16384], stream=stream) for at in starts]


def whole(stream: int, message: bytes) -> bytes:
    return b"".join(data_of(stream, message)) + frame(DATA, flags=END_STREAM, stream=stream)


TABLE = b"\x40\x01a\x7f\xa1\x1e" + b"v" * 4000
NAMED = b"\xbe" * 4000
"""A large header that is put into the table, and how a block names it four thousand times."""
PLAIN = b"\0\1x\1y"

LARGE = 1 << 20
NEVER_WHOLE = b"\0" + LARGE.to_bytes(4) + bytes(LARGE - 16)
"""A message of which the end is missing."""


def never(*_: Any) -> bool:
    return False


PATIENCE = (Patience, "is_over", never)
Guard = tuple[object, str, Any]
"""What stops an attack, and what stands in its place where it is taken away."""

ATTACKS: dict[str, tuple[list[bytes], Guard]] = {
    "rapid reset": (
        streams(lambda n: opened(n) + frame(RST_STREAM, b"\0\0\0\x08", stream=n)),
        PATIENCE,
    ),
    "made you reset": (
        streams(lambda n: opened(n) + frame(WINDOW_UPDATE, b"\x7f\xff\xff\xff", stream=n)),
        PATIENCE,
    ),
    "settings": ([frame(SETTINGS)] * FRAMES, PATIENCE),
    "headers that are ignored": ([opened(3), *[opened(1)] * FRAMES], PATIENCE),
    "priority": ([frame(PRIORITY, b"\0\0\0\0\x10", stream=1)] * FRAMES, PATIENCE),
    "window update": ([frame(WINDOW_UPDATE, b"\0\0\0\1")] * 6 * FRAMES, PATIENCE),
    "empty data": ([opened(1), *[frame(DATA, stream=1)] * FRAMES], PATIENCE),
    "ping": ([frame(PING, b"12345678")] * 50, (Patience, "is_over_pings", never)),
    "continuation": (
        [
            opened(1, flags=0)
            + frame(CONTINUATION, PLAIN, stream=1) * 60
            + frame(CONTINUATION, PLAIN, stream=1, flags=END_HEADERS)
        ],
        (nghttp2_session, "CONTINUATIONS_AT_MOST", 1000),
    ),
    "hpack bomb": (
        [opened(1, head=HEAD + TABLE), opened(3, head=HEAD + NAMED)],
        (Patience, "is_over_headers", never),
    ),
    "messages that never end": (
        [piece for n in range(1, 49, 2) for piece in (opened(n), *data_of(n, NEVER_WHOLE))],
        (nghttp2_connection, "WINDOW_BESIDES_A_MESSAGE", 1 << 30),
    ),
}
"""What is sent, and what stops it."""
ALSO_STOPPED_BY_THE_LIBRARY = {"made you reset"}
"""By the newer ones at least: Debian teaches the older one such things without another version."""
WITHOUT_A_WORD = {"continuation", "made you reset", "messages that never end"}
"""The library ends these in words of its own."""
REASONS = {
    "is_over": "too_many_frames_without_work",
    "is_over_pings": "too_many_pings",
    "is_over_headers": "headers",
}


def pings_at_will(name: str) -> dict[str, float]:
    """`survives` pings: that must not be what ends another attack."""
    return {} if name == "ping" else {"ping_interval_at_least_seconds": 1e-9}


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
async def attacking(served: Served, *, settings: bytes | None = b"") -> AsyncIterator[Attacker]:
    """A connection that greets with the settings, or only begins to."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
    attacker = Attacker(reader, writer)
    attacker.send(PREFACE[:10])
    if settings is not None:
        attacker.send(PREFACE[10:] + frame(SETTINGS, settings) + frame(SETTINGS, flags=ACK))
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
    attack, (_, guard, _) = ATTACKS[name]
    async with serving(**pings_at_will(name)) as served, served.client() as other:
        assert await other.call("Echo", b"x") == b"echo x"
        before = resident_bytes()
        async with attacking(served) as attacker:
            assert not await survives(attacker, attack)
            await asyncio.wait_for(attacker.read_to_the_end(), 20)
            if name not in WITHOUT_A_WORD:
                reason = f'grpc_connections_cut_total{{reason="{REASONS[guard]}"}}'
                assert served.metric(reason) == 1
                assert attacker.goaway in {ENHANCE_YOUR_CALM, None}, "what is cut may get lost"
        assert resident_bytes() - before < GROWTH_BYTES_AT_MOST
        assert await other.call("Echo", b"x") == b"echo x"
        await until(lambda: served.metric("grpc_calls_in_flight") == 0, "nothing is in flight")


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", ATTACKS)
async def test_without_its_guard_the_attack_goes_on(name: str, monkeypatch: pytest.MonkeyPatch):
    attack, guard = ATTACKS[name]
    monkeypatch.setattr(*guard)
    async with serving(**pings_at_will(name)) as served:
        async with attacking(served) as attacker:
            is_alive = await survives(attacker, attack)
        assert is_alive or name in ALSO_STOPPED_BY_THE_LIBRARY


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds takes a tenth of one."""
    monkeypatch.setattr(nghttp2_port, "LOOK_INTERVAL_SECONDS", LOOK_SECONDS)
    for name in ("PREFACE_SECONDS_AT_MOST", "PING_SECONDS_AT_MOST", "SEND_SECONDS_AT_MOST"):
        monkeypatch.setattr(nghttp2_lifetime, name, WAIT_SECONDS)


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


@pytest.mark.usefixtures("library")
async def test_without_that_bound_each_connection_is_held():
    async with serving() as served:
        held = [await asyncio.open_connection("127.0.0.1", served.server.port) for _ in range(50)]
        await served.counts("grpc_connections", 50)
        for _, writer in held:
            writer.close()
        await served.counts("grpc_connections", 0)


NO_WINDOW = struct.pack(">HI", 4, 0)
WIDE = struct.pack(">HI", 4, 2**31 - 1)
"""SETTINGS_INITIAL_WINDOW_SIZE: nothing may be sent on a stream, or all."""


async def send_nothing(_attacker: Attacker) -> None:
    """To be silent is the attack."""


async def ask_much(attacker: Attacker) -> None:
    for stream in range(1, 401, 2):
        attacker.send(opened(stream, head=ECHO) + whole(stream, MESSAGE))


async def ask_and_never_read(attacker: Attacker) -> None:
    """Answers that fill the kernel's buffers, and more behind them."""
    attacker.send(frame(WINDOW_UPDATE, struct.pack(">I", 2**31 - 1 - 65535)))
    large = b"\0" + LARGE.to_bytes(4) + bytes(LARGE)
    for stream in range(1, 129, 2):
        attacker.send(opened(stream, head=ECHO) + whole(stream, large))
        await attacker.drain()


@dataclass(frozen=True)
class Wait:
    """An attack that lasts: after a greeting with `greeting`, or none."""

    attack: Callable[[Attacker], Any]
    guard: Guard
    reason: str
    greeting: bytes | None = b""
    settings: dict[str, float] = field(default_factory=dict)


OVERDUE = (Lifetime, "is_overdue", never)
WAITS = {
    "no greeting": Wait(send_nothing, OVERDUE, "overdue", greeting=None),
    "no answer to a ping": Wait(
        send_nothing, OVERDUE, "overdue", settings={"keepalive_interval_seconds": 0.1}
    ),
    "a window that stays shut": Wait(
        ask_much, (Patience, "is_over_waiting", never), "answers_are_not_taken", NO_WINDOW
    ),
    "answers that are not read": Wait(ask_and_never_read, OVERDUE, "overdue", WIDE),
}


@asynccontextmanager
async def waiting(wait: Wait) -> AsyncIterator[tuple[Served, Attacker]]:
    """The attack goes on for as long as the server lets it."""
    async with (
        serving(**wait.settings) as served,
        attacking(served, settings=wait.greeting) as attacker,
    ):
        task = asyncio.create_task(wait.attack(attacker))
        yield served, attacker
        task.cancel()
        with suppress(asyncio.CancelledError, ConnectionError):
            await task


@pytest.mark.usefixtures("library", "impatient")
@pytest.mark.parametrize("name", WAITS)
async def test_who_lets_us_wait_is_let_go_and_others_are_served(name: str):
    wait = WAITS[name]
    async with waiting(wait) as (served, attacker), served.client() as other:
        while not served.metric("grpc_connections_cut_total"):
            assert await other.call("Echo", b"x") == b"echo x"
        assert served.metric(f'grpc_connections_cut_total{{reason="{wait.reason}"}}') == 1
        await served.counts("grpc_connections", 1)
        if wait.reason != "overdue":
            await asyncio.wait_for(attacker.read_to_the_end(), 10)
            assert attacker.goaway == ENHANCE_YOUR_CALM
            assert not attacker.answers


@pytest.mark.usefixtures("library", "impatient")
@pytest.mark.parametrize("name", WAITS)
async def test_without_its_guard_the_server_waits_on(name: str, monkeypatch: pytest.MonkeyPatch):
    """Ten times longer than with it, and until it can't write, where that is the attack."""
    wait, looks, is_stuck = WAITS[name], 0, name != "answers that are not read"
    look, pause = Nghttp2Port._look_once, Connection.pause_writing

    def counted(port: Nghttp2Port) -> None:
        nonlocal looks
        looks += is_stuck
        look(port)

    def stuck(connection: Connection) -> None:
        nonlocal is_stuck
        is_stuck = True
        pause(connection)

    monkeypatch.setattr(Nghttp2Port, "_look_once", counted)
    monkeypatch.setattr(Connection, "pause_writing", stuck)
    monkeypatch.setattr(*wait.guard)
    async with waiting(wait) as (served, _):
        await until(lambda: looks > 10 * WAIT_SECONDS / LOOK_SECONDS, "it has waited for long")
        assert served.metric("grpc_connections") == 1
        assert not served.metric("grpc_connections_cut_total")


@pytest.mark.usefixtures("library")
async def test_a_call_that_is_reset_as_it_comes_has_its_handler_begun_and_ended():
    """One that never began would hold on to what it was made to wait for."""
    async with serving() as served, attacking(served) as attacker:
        await attacker.is_alive()
        broken = frame(WINDOW_UPDATE, b"\x7f\xff\xff\xff", stream=1)
        attacker.send(opened(1) + frame(DATA, MESSAGE, stream=1) + broken)
        await until(lambda: served.handlers.ended == 1, "the handler began and ended")
        await served.counts("grpc_calls_in_flight", 0)


@pytest.mark.usefixtures("library")
async def test_an_answer_that_is_ready_after_the_connection_was_ended_is_dropped(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
):
    async with serving() as served, attacking(served) as attacker:
        attacker.send(opened(1) + whole(1, MESSAGE))
        await until(lambda: served.handlers.waiting == 1, "the call is in flight")
        assert not await survives(attacker, ATTACKS["ping"][0])
        served.handlers.gate.set()
        await until(lambda: served.handlers.ended == 1, "the handler has answered")
        await served.counts("grpc_calls_in_flight", 0)
    assert "write_eof" not in caplog.text + capsys.readouterr().out


async def until_closed(reader: asyncio.StreamReader) -> bool:
    """Read what comes, to the end."""
    with suppress(ConnectionError):
        while await reader.read(65536):
            pass
    return True
