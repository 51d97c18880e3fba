"""Where lines of statistics are sent: a TCP connection, UDP datagrams, or the process's log.

Each opens when it is asked to and closes when it fails; who sends tries again later. Nothing is
kept here, so nothing grows while the other side is away.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import Protocol, TextIO

OPEN_SECONDS_AT_MOST = 1.5
SEND_SECONDS_AT_MOST = 1.0
DATAGRAM_BYTES = 1432
"""What an Ethernet frame takes without being cut up."""


class Sender(Protocol):
    """`block_bytes` is how much `send` takes at once; one longer line may be more."""

    block_bytes: int

    async def open(self) -> bool:
        """Whether lines can be sent now, connecting where needed."""
        ...

    async def send(self, block: bytes) -> bool:
        """Send whole lines; whether they left."""
        ...

    async def close(self) -> None: ...


class TcpSender:
    """One connection, opened anew after it broke."""

    block_bytes = 1 << 16

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def is_connected(self) -> bool:
        """False, too, once the other side has closed, which the end of what it never sends tells,
        or has reset the connection.
        """
        if self._streams is None:
            return False
        reader, writer = self._streams
        return not (reader.at_eof() or writer.is_closing())

    async def open(self) -> bool:
        if not self.is_connected:
            await self.close()
            try:
                async with asyncio.timeout(OPEN_SECONDS_AT_MOST):
                    self._streams = await asyncio.open_connection(*self._address)
            except OSError:  # TimeoutError is one.
                return False
        return True

    async def send(self, block: bytes) -> bool:
        if self._streams is None:
            return False
        writer = self._streams[1]
        try:
            async with asyncio.timeout(SEND_SECONDS_AT_MOST):
                writer.write(block)
                await writer.drain()
        except (OSError, RuntimeError):  # uvloop's word for a connection that is closed.
            # What waits in the buffer of a stuck connection must not wait there for ever.
            writer.transport.abort()
            self._streams = None
            return False
        return True

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class UdpSender(asyncio.DatagramProtocol):
    """Datagrams to one address; `refused` is told each that the other side's host sent back."""

    block_bytes = DATAGRAM_BYTES

    def __init__(self, host: str, port: int, *, refused: Callable[[], None]) -> None:
        self._address = (host, port)
        self._refused = refused
        self._transport: asyncio.DatagramTransport | None = None
        self._is_refused = False

    async def open(self) -> bool:
        if self._is_refused:
            await self.close()
        if self._transport is None:
            try:
                async with asyncio.timeout(OPEN_SECONDS_AT_MOST):
                    await self._connect()
            except OSError:
                return False
        return True

    async def _connect(self) -> None:
        """To the name's IPv4 address where it has one: agents at localhost seldom take others."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)
        address = min(found, key=lambda info: info[0] is not socket.AF_INET)[4]
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: self, remote_addr=(str(address[0]), int(address[1]))
        )
        self._is_refused = False

    async def send(self, block: bytes) -> bool:
        if self._transport is None:
            return False
        self._transport.sendto(block)
        await asyncio.sleep(0)
        return True

    def error_received(self, error: Exception) -> None:
        del error
        # The name may stand for another address by now: it is looked up anew.
        self._is_refused = True
        self._refused()

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None


class LogSender:
    """The process's standard error."""

    block_bytes = 1 << 16

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream

    async def open(self) -> bool:
        return True

    async def send(self, block: bytes) -> bool:
        self._stream.write(block.decode())
        self._stream.flush()
        await asyncio.sleep(0)
        return True

    async def close(self) -> None:
        pass
