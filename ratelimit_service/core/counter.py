"""What one counter becomes when hits are added, taken back or looked at.

The law that every store keeps; the Lua script of the Redis store is its twin, tested to agree.
Counts saturate far above every limit, so that a flood of huge requests neither overflows nor loses
exactness in Lua's 53-bit numbers.
"""

from __future__ import annotations

COUNT_AT_MOST = 2**52


def counted(before: int, hits: int) -> int:
    """The count after `hits`: negative hits take back, never below 0.

    >>> counted(3, 2), counted(3, 0), counted(3, -5)
    (5, 3, 0)
    """
    return max(0, min(before + hits, COUNT_AT_MOST))
