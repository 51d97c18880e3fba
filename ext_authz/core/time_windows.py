"""Times of the week at which a rule holds, in a time zone of its own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time
from zoneinfo import ZoneInfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """From `begins` until just before `ends` on each of `days` (0 is Monday); where `ends` is not
    after `begins` it is that of the next day.
    """

    days: frozenset[int]
    begins: time
    ends: time
    zone: ZoneInfo

    def covers(self, now: float) -> bool:
        """Whether `now`, seconds since the epoch, lies in the window. Raises nothing: the clock is
        ours.
        """
        local = datetime.fromtimestamp(now, UTC).astimezone(self.zone)
        at, day = local.time(), local.weekday()
        if self.begins < self.ends:
            return day in self.days and self.begins <= at < self.ends
        began_today = day in self.days and at >= self.begins
        began_yesterday = (day - 1) % 7 in self.days and at < self.ends
        return began_today or began_yesterday
