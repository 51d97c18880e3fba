"""The readings of several workers, left for each other in a folder that they share.

Each leaves its own in one file, at most a hundredth of its time spent on that; who is asked sums
what all have left, so what the others counted last may be missing: a second, or longer where there
are thousands of names. A worker that takes a dead one's place goes on from what that one left, so
counters don't fall; what the dead one counted after that is lost.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from ratelimit_service.adapters.statistics import Statistics
from ratelimit_service.core.reading import Reading, together

INTERVAL_SECONDS = 1.0
SHARE_OF_TIME = 0.01
INHERITED_AT_MOST = 200_000
"""Counters taken over from a dead worker, so that one that dies again and again can't grow."""


class SharedStatistics:
    """The statistics of the worker `index`, and of those that share `folder` with it."""

    def __init__(
        self,
        statistics: Statistics,
        folder: Path,
        index: int,
        *,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._statistics = statistics
        self._folder = folder
        self._path = folder / f"statistics_{index}.json"
        self._pause = pause
        before = _read(self._path)
        if before is not None:
            counters = dict(list(before.counters.items())[:INHERITED_AT_MOST])
            statistics.inherit(before._replace(counters=counters))

    def reading(self) -> Reading:
        """Ours as it is now, and what the others left."""
        paths = set(self._folder.glob("statistics_*.json")) - {self._path}
        others = [_read(path) for path in sorted(paths)]
        return together(
            [self._statistics.reading(), *(other for other in others if other is not None)]
        )

    async def run(self) -> None:
        """Leave ours for ever."""
        while True:
            spent = await asyncio.to_thread(self._leave_timed)
            await self._pause(max(INTERVAL_SECONDS, spent / SHARE_OF_TIME))

    async def close(self) -> None:
        self.leave()

    def _leave_timed(self) -> float:
        """What that took, in seconds of CPU: on a busy machine the clock would make the pauses
        between two writes minutes.
        """
        began = time.thread_time()
        self.leave()
        return time.thread_time() - began

    def leave(self) -> None:
        """Leave ours for the others, whole or not at all."""
        reading = self._statistics.reading()
        shown = {
            "counters": {name: value for name, value in reading.counters.items() if value},
            "gauges": dict(reading.gauges),
            "timings": {name: list(found.items()) for name, found in reading.timings.items()},
        }
        written = self._path.with_suffix(".new")
        try:
            written.write_text(json.dumps(shown))
            written.replace(self._path)
        except FileNotFoundError:
            pass  # The supervisor is gone, and with it the folder: nobody is left to read.


def _read(path: Path) -> Reading | None:
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    timings = {name: dict(map(tuple, counts)) for name, counts in found["timings"].items()}
    return Reading(found["counters"], found["gauges"], timings)
