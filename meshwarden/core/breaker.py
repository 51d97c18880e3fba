"""A circuit breaker: after so many failures in a row a dependency is left alone for a while, then
tried with one call, until one succeeds.

Pure: the caller brings the time, in seconds of any clock that only goes forward.
"""

from __future__ import annotations


class Breaker:
    """Closed at first. `failures_at_most` failures in a row open it for `pause_seconds`."""

    def __init__(self, *, failures_at_most: int, pause_seconds: float) -> None:
        self._failures_at_most = failures_at_most
        self._pause_seconds = pause_seconds
        self._failure_count = 0
        self._next_trial_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether calls are refused, save one after each pause."""
        return self._failure_count >= self._failures_at_most

    def permits(self, now: float) -> bool:
        """Whether a call may be made; open, each pause ends with one that may."""
        if not self.is_open:
            return True
        if now < self._next_trial_at:
            return False
        # The next one waits for another pause, whatever becomes of this call.
        self._next_trial_at = now + self._pause_seconds
        return True

    def succeeded(self) -> None:
        """A call was answered: closed."""
        self._failure_count = 0

    def failed(self, now: float) -> None:
        """A call failed; the pause begins with the failure."""
        self._failure_count += 1
        self._next_trial_at = now + self._pause_seconds
