"""Sends what the statistics gained, at an interval, as lines.

    statistics.changes() -> line -> blocks -> sender

While the other side can't be reached nothing is taken, so that counters arrive whole once it is
back: their memory is what it was. What left and did not arrive is lost and counted, in our own
metric `ratelimit_statistics_dropped`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import closing
from itertools import repeat
from operator import length_hint

from meshwarden.adapters.logs import logger
from ratelimit_service.adapters.line_senders import Sender
from ratelimit_service.adapters.statistics import Statistics
from ratelimit_service.core.statsd_lines import Line

TIMINGS_AT_MOST = 100_000
"""Lines of timings a flush: each call is one; what is beyond is dropped and counted."""


class StatisticsPush:
    """Flushes `statistics` to `sender` every `interval_seconds`, and when it is closed."""

    def __init__(
        self,
        statistics: Statistics,
        sender: Sender,
        *,
        line: Line,
        interval_seconds: float,
        pause: Callable[[float], Awaitable[None]],
        timings_at_most: int = TIMINGS_AT_MOST,
    ) -> None:
        statistics.is_taken = True
        self._statistics = statistics
        self._sender = sender
        self._line = line
        self._interval_seconds = interval_seconds
        self._pause = pause
        self._timings_at_most = timings_at_most
        self._is_away = False

    async def run(self) -> None:
        """Flush for ever."""
        while True:
            await self._pause(self._interval_seconds)
            await self.flush()

    async def flush(self) -> None:
        """Send what is new."""
        is_away = not await self._sender.open()
        if is_away != self._is_away:
            self._is_away = is_away
            logger().warning("statistics_unreachable" if is_away else "statistics_reachable")
        if is_away:
            return
        with closing(self._blocks()) as blocks:
            for lines, block in blocks:
                if not await self._sender.send(block):
                    self._statistics.dropped("lines", lines)
                    return

    async def close(self) -> None:
        """Send what is new, and no more."""
        await self.flush()
        await self._sender.close()

    def _blocks(self) -> Generator[tuple[int, bytes]]:
        """How many lines, and the lines, as much as is sent at once."""
        block: list[bytes] = []
        size = 0
        with closing(self._lines()) as lines:
            for line in lines:
                if block and size + len(line) > self._sender.block_bytes:
                    try:
                        yield len(block), b"".join(block)
                    except GeneratorExit:  # The connection broke: this one was taken, too.
                        self._statistics.dropped("lines", 1)
                        raise
                    block, size = [], 0
                block.append(line)
                size += len(line)
        if block:
            yield len(block), b"".join(block)

    def _lines(self) -> Generator[bytes]:
        for name, more in self._statistics.changes():
            yield self._line("c", name, more).encode()
        for name, value in self._statistics.gauges():
            yield self._line("g", name, value).encode()
        left = self._timings_at_most
        for name, milliseconds, count in self._statistics.timings():
            line = self._line("ms", name, milliseconds).encode()
            sent = min(count, left)
            left -= sent
            if sent < count:
                self._statistics.dropped("timings", count - sent)
            lines = repeat(line, sent)
            try:
                yield from lines
            finally:
                # Taken, and not asked for any more: the connection broke.
                if lost := length_hint(lines):
                    self._statistics.dropped("timings", lost)
