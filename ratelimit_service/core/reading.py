"""What the statistics say at one moment, by their statsd names: the one shape all outputs read.

Counters only grow; timings are how many calls took each number of whole milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

Key = TypeVar("Key")

Timings = Mapping[int, int]
"""How many calls took how many whole milliseconds."""


class Reading(NamedTuple):
    """Each by name, without tags."""

    counters: Mapping[str, int]
    gauges: Mapping[str, int]
    timings: Mapping[str, Timings]


def together(readings: Iterable[Reading]) -> Reading:
    """The sums of several processes' readings.

    >>> one = Reading({"hits": 1}, {"open": 2}, {"call": {0: 1}})
    >>> together([one, one])
    Reading(counters={'hits': 2}, gauges={'open': 4}, timings={'call': {0: 2}})
    """
    counters: dict[str, int] = {}
    gauges: dict[str, int] = {}
    timings: dict[str, dict[int, int]] = {}
    for reading in readings:
        _add(counters, reading.counters)
        _add(gauges, reading.gauges)
        for name, counts in reading.timings.items():
            _add(timings.setdefault(name, {}), counts)
    return Reading(counters, gauges, timings)


def _add(sums: dict[Key, int], more: Mapping[Key, int]) -> None:
    for key, value in more.items():
        sums[key] = sums.get(key, 0) + value
