"""How hits are tallied in statistics: within the limit, near it, over it.

"Near" begins at the configured share of the limit (0.8 by default). One count may fall into several
tallies: hits that cross the threshold or the limit are split there. Source: envoyproxy/ratelimit's
statistics.
"""

from __future__ import annotations

import math
import struct
from functools import lru_cache
from typing import NamedTuple

from ratelimit_service.core.model import LeftOut, Limit, Outcome


class Tally(NamedTuple):
    """What one count adds to the statistics of its limit."""

    total_hits: int = 0
    over_limit: int = 0
    near_limit: int = 0
    within_limit: int = 0
    shadow_mode: int = 0
    total_negative_hits: int = 0
    over_limit_with_local_cache: int = 0


@lru_cache(maxsize=4096)
def near_threshold(requests_per_unit: int, near_limit_ratio: float) -> int:
    """The count above which hits are near; in 32-bit floats, as the reference computes it."""
    return math.floor(_float32(_float32(requests_per_unit) * _float32(near_limit_ratio)))


def _float32(number: float) -> float:
    rounded: float = struct.unpack("f", struct.pack("f", number))[0]
    return rounded


def tally(
    limit: Limit, *, hits: int, outcome: Outcome, at_most: int, near_limit_ratio: float
) -> Tally:
    """The tallies of `hits` on a counter of `limit` that may stand `at_most` at so much, given what
    came of them.
    """
    if hits < 0:
        return Tally(total_negative_hits=-hits)
    if isinstance(outcome, LeftOut):
        return _left_out(limit, hits, outcome)
    after = outcome
    before = after - hits
    threshold = near_threshold(at_most, near_limit_ratio)
    if after <= at_most:
        near = 0 if after <= threshold else hits if before >= threshold else after - threshold
        return Tally(total_hits=hits, within_limit=hits, near_limit=near)
    if before >= at_most:
        over, near = hits, 0
    else:
        over, near = after - at_most, at_most - max(threshold, before)
    shadow = over if limit.shadow_mode else 0
    return Tally(total_hits=hits, over_limit=over, near_limit=near, shadow_mode=shadow)


def _left_out(limit: Limit, hits: int, outcome: LeftOut) -> Tally:
    """Hits that were not counted were asked for, and over where they were; never within."""
    over = hits if outcome.is_over else 0
    return Tally(
        total_hits=hits,
        over_limit=over,
        shadow_mode=over if limit.shadow_mode else 0,
        over_limit_with_local_cache=over if outcome.is_remembered else 0,
    )
