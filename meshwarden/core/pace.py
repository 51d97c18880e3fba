"""How often something may be done: so many at once, and so many a second after that."""

from __future__ import annotations


class Pace:
    """A token bucket of `burst`, filled by `per_second`; a time is any clock's, in seconds.

    >>> pace = Pace(per_second=10, burst=2)
    >>> [pace.is_taken(now=0.0), pace.is_taken(now=0.0), pace.is_taken(now=0.0)]
    [True, True, False]
    >>> round(pace.wait_seconds(now=0.0), 3)
    0.1
    >>> pace.is_taken(now=0.1)
    True
    """

    def __init__(self, *, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = burst
        self._left = float(burst)
        self._at: float | None = None

    def is_taken(self, *, now: float) -> bool:
        """Whether it may be done now; if so it counts as done."""
        self._fill(now)
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def wait_seconds(self, *, now: float) -> float:
        """How long until it may be done; 0: now."""
        self._fill(now)
        # The margin keeps rounding from asking for another, endlessly short wait.
        return 0.0 if self._left >= 1 else (1 - self._left) / self._per_second + 1e-6

    def _fill(self, now: float) -> None:
        passed = 0.0 if self._at is None else max(0.0, now - self._at)
        self._left = min(float(self._burst), self._left + passed * self._per_second)
        self._at = now if self._at is None else max(self._at, now)
