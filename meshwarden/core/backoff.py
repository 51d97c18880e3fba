"""How long to wait before the next try: longer after each failure in a row, never beyond a bound.

Pure: the chance is passed in. Why tries are worth it, and how many, says who waits.
"""

from __future__ import annotations

from dataclasses import dataclass

_GROWTHS_AT_MOST = 64
"""Beyond them every wait is the longest; the power of more would overflow."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """`initial_seconds` after the first failure, `factor` times as much after each further one, at
    most `at_most_seconds`; a factor below 1 leaves it at the initial wait.

    With `has_jitter` a wait is shortened by up to half, so that many clients of one server that
    failed don't come back at once.
    """

    initial_seconds: float
    at_most_seconds: float
    factor: float = 2.0
    has_jitter: bool = True

    def seconds(self, failures: int, *, chance: float) -> float:
        """The wait after so many failures in a row (from 1); `chance` is from 0 up to 1.

        >>> [Backoff(1, 5, has_jitter=False).seconds(n, chance=0) for n in (1, 2, 3, 4)]
        [1.0, 2.0, 4.0, 5.0]
        >>> Backoff(1, 5).seconds(1, chance=0.5)
        0.75
        """
        growths = min(failures - 1, _GROWTHS_AT_MOST)
        grown = self.initial_seconds * max(self.factor, 1.0) ** growths
        wait = min(grown, self.at_most_seconds)
        return wait * (1 - chance / 2) if self.has_jitter else wait
