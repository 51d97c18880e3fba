"""A hostile client of the tested gRPC service, which speaks HTTP/2 by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hpack import Encoder

from tests.support import grpc_service
from tests.support.grpc_service import LIBRARIES, SERVICE, Served
from tests.support.http2_frames import DATA, GOAWAY, HEADERS, PING, PREFACE, SETTINGS, frame

END_STREAM = ACK = 1
END_HEADERS = 4
ENHANCE_YOUR_CALM = 11
LARGE = 1 << 20
AT_ONCE = 500
Guard = tuple[object, str, Any]
"""What stops an attack, and what stands in its place where it is taken away."""


def request_headers(*, path: str = f"/{SERVICE}/Later") -> bytes:
    """Encoded without the peer's table, so that each block stands alone."""
    names = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x")]
    pairs = [*names, ("content-type", "application/grpc")]
    return bytes(Encoder().encode([(name, value, True) for name, value in pairs]))


HEAD = request_headers()
ECHO = request_headers(path=f"/{SERVICE}/Echo")
MESSAGE = b"\0\0\0\0\1x"


def opened(stream: int, *, flags: int = END_HEADERS, head: bytes = HEAD) -> bytes:
    return frame(HEADERS, head, flags=flags, stream=stream)


def data_of(stream: int, message: bytes) -> list[bytes]:
    """Frames of the usual size, of which none is the last."""
    starts = range(0, len(message), 16384)
    return [frame(DATA, message[at : at + 16384], stream=stream) for at in starts]


def whole(stream: int, message: bytes) -> bytes:
    return b"".join(data_of(stream, message)) + frame(DATA, flags=END_STREAM, stream=stream)


def never(*_: Any) -> bool:
    return False


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


async def survives(attacker: Attacker, frames: list[bytes]) -> bool:
    """Send the frames, some at a time, taking what the server answers; whether it still does."""
    for place in range(0, len(frames), AT_ONCE):
        attacker.send(b"".join(frames[place : place + AT_ONCE]))
        if not await asyncio.wait_for(attacker.is_alive(), 20):
            return False
    return True


async def until_closed(reader: asyncio.StreamReader) -> bool:
    """Read what comes, to the end."""
    with suppress(ConnectionError):
        while await reader.read(65536):
            pass
    return True
