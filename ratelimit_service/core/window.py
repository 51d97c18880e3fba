"""Fixed windows: when one starts, how long it lasts, when it is over.

All windows are aligned to the Unix epoch in UTC, so weeks start on Thursday, and months and years
are blocks of 30 and 365 days, not the calendar's.
Known weakness of a fixed window: twice the limit may pass around its edge.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple


class Unit(IntEnum):
    """`RateLimitResponse.RateLimit.Unit`, with its wire numbers."""

    UNKNOWN = 0
    SECOND = 1
    MINUTE = 2
    HOUR = 3
    DAY = 4
    MONTH = 5
    YEAR = 6
    WEEK = 7


SECONDS = MappingProxyType(
    {
        Unit.SECOND: 1,
        Unit.MINUTE: 60,
        Unit.HOUR: 3_600,
        Unit.DAY: 86_400,
        Unit.WEEK: 604_800,
        Unit.MONTH: 2_592_000,
        Unit.YEAR: 31_536_000,
    }
)
"""The length of a window of each unit; `Unit.UNKNOWN` has none."""


class Window(NamedTuple):
    """One window: `start` in whole seconds since the epoch, `seconds` long."""

    unit: Unit
    start: int
    seconds: int

    @staticmethod
    @lru_cache(maxsize=64)
    def of(unit: Unit, *, now: int) -> Window:
        """The window of `unit` that holds `now` (whole seconds since the epoch)."""
        seconds = SECONDS[unit]
        return Window(unit, now - now % seconds, seconds)

    @property
    def end(self) -> int:
        """The first second after it."""
        return self.start + self.seconds

    def seconds_until_reset(self, now: int) -> int:
        """Whole seconds until the next window of this length: 1 to `seconds`, never 0."""
        return self.seconds - now % self.seconds
