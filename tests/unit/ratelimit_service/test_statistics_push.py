"""Statistics are sent over real sockets, and what is away costs no memory and no statistic."""

from __future__ import annotations

import asyncio
import io
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvloop

from ratelimit_service.adapters.line_senders import (
    DATAGRAM_BYTES,
    LogSender,
    Sender,
    TcpSender,
    UdpSender,
)
from ratelimit_service.adapters.statistics import Statistics
from ratelimit_service.adapters.statistics_push import StatisticsPush
from ratelimit_service.core.statsd_lines import statsd_line
from tests.support.ports import free_port
from tests.support.processes import until

HITS = "ratelimit.service.hits"


class Pushing:
    """A push of statistics whose flushes a test asks for, and what it dropped."""

    def __init__(self, *, timings_at_most: int = 100) -> None:
        self.dropped: dict[str, int] = {}
        self.statistics = Statistics(near_limit_ratio=0.8, names_at_most=9, dropped=self.drop)
        self._timings_at_most = timings_at_most

    def drop(self, what: str, count: int) -> None:
        self.dropped[what] = self.dropped.get(what, 0) + count

    def to(self, sender: Sender, **tags: str) -> StatisticsPush:
        return StatisticsPush(
            self.statistics,
            sender,
            line=statsd_line(tags),
            interval_seconds=10,
            pause=asyncio.sleep,
            timings_at_most=self._timings_at_most,
        )


class Statsd:
    """A statsd server: the lines that came, over TCP."""

    def __init__(self) -> None:
        self.text = ""
        self.writers: list[asyncio.StreamWriter] = []

    @property
    def lines(self) -> list[str]:
        return [line for line in self.text.splitlines() if not line.endswith(":0|c")]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        while read := await reader.read(1 << 16):
            self.text += read.decode()


@asynccontextmanager
async def statsd(port: int) -> AsyncIterator[Statsd]:
    found = Statsd()
    async with await asyncio.start_server(found.serve, "127.0.0.1", port):
        yield found
        for writer in found.writers:
            writer.close()


async def test_a_flush_sends_what_is_new_over_one_connection():
    port, pushing = free_port(), Pushing()
    push = pushing.to(TcpSender("127.0.0.1", port))
    pushing.statistics.watch("pool", lambda: {"open": 3}, gauges=["open"])
    async with statsd(port) as server:
        pushing.statistics.add("hits")
        pushing.statistics.observe_call("/s/Call", 0.002)
        await push.flush()
        await until(lambda: "|ms" in server.text, "lines came")
        assert server.lines == [
            f"{HITS}:1|c",
            "ratelimit_server.Call.total_requests:1|c",
            "pool.open:3|g",
            "ratelimit_server.Call.response_time:2|ms",
        ]
        server.text = ""
        pushing.statistics.add("hits")
        await push.close()
        await until(lambda: server.text, "the last lines came")
        assert server.lines == [f"{HITS}:1|c", "pool.open:3|g"]
        assert len(server.writers) == 1


async def test_while_statsd_is_away_counters_wait_and_come_whole_when_it_is_back():
    port, pushing = free_port(), Pushing()
    push = pushing.to(TcpSender("127.0.0.1", port))
    for _ in range(3):
        pushing.statistics.add("hits")
        await push.flush()
    async with statsd(port) as server:
        await push.flush()
        await until(lambda: server.text, "lines came")
        assert server.lines == [f"{HITS}:3|c"]
    assert pushing.dropped == {}
    await push.close()


async def test_a_connection_that_the_other_side_closed_is_opened_anew():
    port, pushing = free_port(), Pushing()
    sender = TcpSender("127.0.0.1", port)
    push = pushing.to(sender)
    async with statsd(port) as server:
        await push.flush()
        await until(lambda: server.writers, "it is connected")
        server.writers.pop().close()
        await until(lambda: not sender.is_connected, "the end was seen")
        pushing.statistics.add("hits")
        await push.flush()
        await until(lambda: server.lines, "lines came")
        assert server.lines == [f"{HITS}:1|c"]
    await push.close()


def test_a_connection_that_was_reset_is_opened_anew_in_the_services_own_event_loop():
    """uvloop, in which the service runs, refuses to write to it in words of its own."""

    async def run() -> None:
        port, pushing = free_port(), Pushing()
        sender = TcpSender("127.0.0.1", port)
        push = pushing.to(sender)
        async with statsd(port) as server:
            await push.flush()
            await until(lambda: server.writers, "it is connected")
            reset(server.writers.pop())
            await until(lambda: not sender.is_connected, "the reset was seen")
            pushing.statistics.add("hits")
            await push.flush()
            await until(lambda: server.lines, "lines came")
            assert server.lines == [f"{HITS}:1|c"]
        await push.close()

    uvloop.run(run())


def reset(writer: asyncio.StreamWriter) -> None:
    """Close as a killed process's host may: with RST."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def test_a_line_that_was_taken_and_not_sent_is_dropped_and_counted():
    """The block that breaks the connection is dropped, and the line that did not fit into it."""
    pushing = Pushing()
    push = pushing.to(OneBlockSender())
    for number in range(3):
        pushing.statistics.add(f"hits{number}")
    await push.flush()
    assert pushing.dropped == {"lines": 2}


class OneBlockSender:
    """Takes one line at once, and breaks at the first."""

    block_bytes = 1

    async def open(self) -> bool:
        return True

    async def send(self, block: bytes) -> bool:
        del block
        return False

    async def close(self) -> None: ...


async def test_what_a_stuck_connection_does_not_take_is_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("ratelimit_service.adapters.line_senders.SEND_SECONDS_AT_MOST", 0.05)
    port, pushing = free_port(), Pushing(timings_at_most=20_000)
    push = pushing.to(TcpSender("127.0.0.1", port), long="x" * 1000)
    writers: list[asyncio.StreamWriter] = []

    async def stuck(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writers.append(writer)

    async with await asyncio.start_server(stuck, "127.0.0.1", port):
        for _ in range(20_000):
            pushing.statistics.observe_call("/s/Call", 0)
        await push.flush()
        writers[0].close()
    assert pushing.dropped["lines"] > 10
    assert 100 < sum(pushing.dropped.values()) < 20_000
    await push.close()


async def test_datagrams_hold_whole_lines_and_fit_a_frame():
    received: list[bytes] = []

    class Listener(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:
            del addr
            received.append(data)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Listener, local_addr=("127.0.0.1", 0))
    pushing = Pushing()
    port = transport.get_extra_info("sockname")[1]
    push = pushing.to(UdpSender("localhost", port, refused=lambda: pushing.drop("datagrams", 1)))
    for number in range(100):
        pushing.statistics.add(f"hits{number}")
    await push.flush()
    await until(lambda: len(b"".join(received).splitlines()) == 100, "all lines came")
    assert len(received) > 1
    assert all(len(one) <= DATAGRAM_BYTES and one.endswith(b"|c\n") for one in received)
    await push.close()
    transport.close()


async def test_datagrams_that_nobody_takes_are_counted():
    pushing = Pushing()
    push = pushing.to(
        UdpSender("127.0.0.1", free_port(), refused=lambda: pushing.drop("datagrams", 1))
    )
    pushing.statistics.add("hits")
    await push.flush()
    await until(lambda: pushing.dropped.get("datagrams"), "the datagram came back")
    pushing.statistics.add("hits")
    await push.flush()
    await until(lambda: pushing.dropped["datagrams"] == 2, "so did the next, over a new socket")
    await push.close()


async def test_a_host_that_is_none_is_away():
    pushing = Pushing()
    senders: list[Sender] = [
        TcpSender("no.such.host.invalid", 8125),
        UdpSender("no.such.host.invalid", 8125, refused=lambda: None),
    ]
    for sender in senders:
        await pushing.to(sender).flush()
        assert not await sender.open()


async def test_timings_beyond_what_a_flush_sends_are_dropped_and_counted():
    stream, pushing = io.StringIO(), Pushing(timings_at_most=5)
    push = pushing.to(LogSender(stream))
    for milliseconds in (0, 0, 0, 0, 1, 1, 2, 2):
        pushing.statistics.observe_call("/s/Call", milliseconds / 1000)
    await push.flush()
    assert stream.getvalue().count("|ms") == 5
    assert pushing.dropped == {"timings": 3}
    assert "total_requests:8|c" in stream.getvalue()
