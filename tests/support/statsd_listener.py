"""A statsd server for tests: takes lines over TCP, adds counters up, keeps gauges and timers.

Reads the line protocol alone (`name:value|type`); knows no names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread


class StatsdListener(ThreadingTCPServer):
    """`counters` are sums since the start; `gauges` are last values; `timers` how many came."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Lines)
        self.counters: Counter[str] = Counter()
        self.gauges: dict[str, float] = {}
        self.timers: Counter[str] = Counter()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def take(self, line: str) -> None:
        """One statistic as it came."""
        name, _, rest = line.rpartition(":")
        value, _, kind = rest.partition("|")
        if kind == "c":
            self.counters[name] += int(value)
        elif kind == "g":
            self.gauges[name] = float(value)
        elif kind == "ms":
            self.timers[name] += 1
        else:
            raise AssertionError(f"no statsd line that this listener knows: {line!r}")


class _Lines(StreamRequestHandler):
    server: StatsdListener

    def handle(self) -> None:
        for line in self.rfile:
            self.server.take(line.decode().rstrip("\n"))


@contextmanager
def listening_statsd() -> Iterator[StatsdListener]:
    """A running listener, for the length of the block."""
    with StatsdListener() as listener:
        thread = Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield listener
        finally:
            listener.shutdown()
            thread.join()
