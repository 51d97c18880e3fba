"""Counters in this process: exact, at once, no lock and no await, gone when the process ends.

Counters live in one dictionary for each window's end, so a window that is over is dropped as a
whole and emptied bit by bit by later calls: no call pays for more than a few old counters. The
number of counters has a hard bound; at the bound new counters are refused (`Unavailable`, so
`on_store_failure` decides) and running ones stay exact: none is ever forgotten before its window is
over. Known weakness: when the clock steps back over a window's edge, that window counts from 0
again.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from meshwarden.core.faults import Unavailable
from ratelimit_service.core.counter import counted, left_out
from ratelimit_service.core.model import Increment, Mode, Outcome

SWEPT_PER_CALL = 8
_NO_WINDOW: Mapping[str, int] = {}


class MemoryStore:
    """Implements `core.decide.Counters` for one process."""

    def __init__(self, *, counters_at_most: int) -> None:
        self._counters_at_most = counters_at_most
        self._windows: dict[int, dict[str, int]] = {}
        self._ends: list[int] = []
        self._over: list[dict[str, int]] = []
        self.counter_count = 0
        """Counters held, those of windows that are over and not yet emptied among them."""

    def add(
        self, increments: Sequence[Increment], *, mode: Mode = Mode.ALWAYS, now: int
    ) -> list[Outcome]:
        """Count as `mode` says, or none: raises `Unavailable` when there is no room."""
        self._sweep(now)
        if self.counter_count + len(increments) > self._counters_at_most:
            self._require_room(increments)
        if mode is Mode.ALWAYS:
            return [self._added(increment) for increment in increments]
        return [
            self._added(increment) if left is None else left
            for increment, left in zip(
                increments, left_out(increments, mode=mode, read=self._read), strict=True
            )
        ]

    def _read(self, increment: Increment) -> int:
        return self._windows.get(increment.window.end, _NO_WINDOW).get(increment.key, 0)

    def _added(self, increment: Increment) -> int:
        end = increment.window.end
        window = self._windows.get(end)
        if window is None:
            window = self._windows[end] = {}
            heapq.heappush(self._ends, end)
        before = window.get(increment.key)
        after = counted(before or 0, increment.hits)
        if before is None:
            if increment.hits <= 0:
                return after
            self.counter_count += 1
        window[increment.key] = after
        return after

    def _sweep(self, now: int) -> None:
        """Drop the windows that are over, and empty a little of those dropped before."""
        while self._ends and self._ends[0] <= now:
            self._over.append(self._windows.pop(heapq.heappop(self._ends)))
        if self._over:
            self._empty(SWEPT_PER_CALL)

    def _empty(self, count: int) -> None:
        while count > 0 and self._over:
            window = self._over[-1]
            if not window:
                self._over.pop()
                continue
            window.popitem()
            self.counter_count -= 1
            count -= 1

    def _require_room(self, increments: Sequence[Increment]) -> None:
        new = {
            increment.key
            for increment in increments
            if increment.hits > 0
            and increment.key not in self._windows.get(increment.window.end, ())
        }
        self._empty(len(new))
        if self.counter_count + len(new) > self._counters_at_most:
            raise Unavailable(f"the memory store is full: {self._counters_at_most} counters")
