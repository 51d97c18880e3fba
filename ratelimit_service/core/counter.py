"""What counters become when the hits of a request are added, taken back or looked at.

The law that every store keeps; the Lua script of the Redis store is its twin, tested to agree.
Counts saturate far above every limit, so that a flood of huge requests neither overflows nor loses
exactness in Lua's 53-bit numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ratelimit_service.core.model import Effect, Increment, LeftOut, Mode

COUNT_AT_MOST = 2**52

Read = Callable[[Increment], int]


def counted(before: int, hits: int) -> int:
    """The count after `hits`: negative hits take back, never below 0.

    >>> counted(3, 2), counted(3, 0), counted(3, -5)
    (5, 3, 0)
    """
    return max(0, min(before + hits, COUNT_AT_MOST))


def is_over(increment: Increment, after: int) -> bool:
    """Whether `after` is over the limit; who gives hits back never is."""
    return after > increment.at_most and increment.hits >= 0


def left_out(increments: Sequence[Increment], *, mode: Mode, read: Read) -> list[LeftOut | None]:
    """For each increment whether its hits are left out, judged before any is counted.

    `read` gives the present value of an increment's counter.
    """
    if mode is Mode.STOPS_WHEN_OVER:
        return _left_out_where_not_over(increments, read)
    if mode is Mode.ALL_OR_NONE:
        return _left_out_when_denied(increments, read)
    return [None] * len(increments)


def _left_out_where_not_over(increments: Sequence[Increment], read: Read) -> list[LeftOut | None]:
    """Each increment is judged by itself, even where its counter stands twice, as the reference
    does; it is left out of what the counter stands at by then. What is given back is always
    counted.
    """
    stands_at = {increment.key: read(increment) for increment in increments}
    over = [
        is_over(increment, counted(stands_at[increment.key], increment.hits))
        for increment in increments
    ]
    if not any(over):
        return [None] * len(increments)
    found: list[LeftOut | None] = []
    for increment, one_is_over in zip(increments, over, strict=True):
        count = stands_at[increment.key]
        if one_is_over or increment.hits < 0:
            stands_at[increment.key] = counted(count, increment.hits)
            found.append(None)
        else:
            found.append(LeftOut(count, is_over(increment, count)))
    return found


def _left_out_when_denied(increments: Sequence[Increment], read: Read) -> list[LeftOut | None]:
    """A counter that stands twice is judged with all its hits so far."""
    after: dict[str, int] = {}
    found: list[LeftOut | None] = []
    quotas = quotas_over = denials = 0
    for increment in increments:
        before = read(increment)
        key = increment.key
        after[key] = counted(after.get(key, before), increment.hits)
        over = is_over(increment, after[key])
        found.append(LeftOut(before, over))
        denials += over and increment.effect is Effect.DENIES
        quotas += increment.effect is Effect.QUOTA
        quotas_over += over and increment.effect is Effect.QUOTA
    is_denied = denials > 0 or (quotas > 0 and quotas_over == quotas)
    return found if is_denied else [None] * len(increments)
