"""A statsd server for tests, over TCP or UDP: keeps the lines that came; knows no names."""

from __future__ import annotations

import socket
import socketserver
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from tests.support.threaded_servers import serving_in_a_thread


class LineListener:
    """`lines` in the order they came; `datagrams` whole."""

    def __init__(self, protocol: Literal["tcp", "udp"], port: int = 0) -> None:
        self.lines: list[str] = []
        self.datagrams: list[bytes] = []
        self._connections: set[socketserver.BaseRequestHandler] = set()
        listener = self

        class Stream(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                listener._connections.add(self)
                for line in self.rfile:
                    listener.lines.append(line.decode().rstrip("\n"))

        class Datagram(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                listener.datagrams.append(self.request[0])
                listener.lines += self.request[0].decode().splitlines()

        self.server = (
            _Tcp(("127.0.0.1", port), Stream)
            if protocol == "tcp"
            else _Udp(("127.0.0.1", port), Datagram)
        )

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    def counters(self) -> Counter[str]:
        """The sums of all counters, by what stands before the colon and, of tags, behind it."""
        sums: Counter[str] = Counter()
        for line in list(self.lines):
            name, value, tags = parsed(line)
            if line.partition("|")[2].startswith("c"):
                sums[name + tags] += value
        return sums

    def cut(self) -> None:
        """End the connections there are."""
        for handler in self._connections:
            with suppress(OSError):
                handler.request.shutdown(socket.SHUT_RDWR)


def parsed(line: str) -> tuple[str, int, str]:
    """Name, value and tags (`#a:b`, or nothing) of a line."""
    head, _, rest = line.partition("|")
    name, _, value = head.rpartition(":")
    return name, int(float(value)), rest.partition("|")[2]


class _Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


class _Udp(socketserver.UDPServer):
    max_packet_size = 1 << 16


@contextmanager
def listening(protocol: Literal["tcp", "udp"], port: int = 0) -> Iterator[LineListener]:
    """A running listener, for the length of the block."""
    listener = LineListener(protocol, port)
    try:
        with serving_in_a_thread(listener.server):
            yield listener
    finally:
        listener.cut()
