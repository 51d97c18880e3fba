"""How often may they: find each descriptor's limit, count, judge.

    decide = judge(plan(...), the counts after counting)

`plan` and `judge` are pure, so that a store which has to be awaited counts in between, and one in
memory doesn't wait. Every descriptor with a limit is counted, denied or not, and a request too big
for what is left is counted in full: one such request uses the window up (as the reference does;
known weakness).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from meshwarden.core.faults import Unavailable
from ratelimit_service.core.answer import answer
from ratelimit_service.core.keys import counted_values, counter_key
from ratelimit_service.core.lookup import find_limit
from ratelimit_service.core.model import (
    UNLIMITED_REMAINING,
    Code,
    Count,
    Decision,
    Descriptor,
    DescriptorSet,
    Increment,
    Match,
    Options,
    Rules,
    Status,
    UnanswerableRequest,
)
from ratelimit_service.core.window import Window

HITS_AT_MOST = 2**48
"""More hits of one descriptor count as this many: over every limit, and exact in Lua."""

_NOT_LIMITED = Status()
_UNLIMITED = Status(limit_remaining=UNLIMITED_REMAINING)


class Counters(Protocol):
    """Where hits are counted."""

    def add(self, increments: Sequence[Increment], *, now: int) -> Sequence[int]:
        """Count all or none, one after the other; give each counter's value after its own."""
        ...


class Plan(NamedTuple):
    """What to count for a request.

    `statuses` holds the answers that need no counting; where one is None, the next of `matches` and
    `increments` belongs to it.
    """

    descriptors: DescriptorSet
    statuses: tuple[Status | None, ...]
    matches: tuple[Match, ...]
    increments: tuple[Increment, ...]
    options: Options


def decide(
    descriptors: DescriptorSet, rules: Rules | None, counters: Counters, now: int
) -> Decision:
    """The answer to `descriptors` at `now` (whole seconds since the epoch), their hits counted."""
    planned = plan(descriptors, rules, now=now)
    return judge(planned, counters.add(planned.increments, now=now), now=now)


def plan(descriptors: DescriptorSet, rules: Rules | None, *, now: int) -> Plan:
    """What `descriptors` would count.

    Raises `UnanswerableRequest` without a domain or descriptors, `Unavailable` before the first
    configuration, and `InvalidInput` for an override without a unit.
    """
    if not descriptors.domain:
        raise UnanswerableRequest("rate limit domain must not be empty")
    if not descriptors.descriptors:
        raise UnanswerableRequest("rate limit descriptor list must not be empty")
    if rules is None:
        raise Unavailable("no rate limit configuration loaded")
    domain = descriptors.domain
    found = [find_limit(domain, descriptor, rules=rules) for descriptor in descriptors.descriptors]
    statuses = _settled(found)
    matches, increments = [], []
    for descriptor, match, status in zip(descriptors.descriptors, found, statuses, strict=True):
        if status is None and match is not None:
            matches.append(match)
            hits = _hits(descriptor, descriptors.hits_addend)
            window = Window.of(match.limit.unit, now=now)
            values = counted_values(descriptor, match.shared_values)
            key = counter_key(domain, values, window=window, options=rules.options)
            increments.append(Increment(key, hits, window))
    return Plan(descriptors, statuses, tuple(matches), tuple(increments), rules.options)


def _settled(found: Sequence[Match | None]) -> tuple[Status | None, ...]:
    """The statuses that no counter changes; None where one has to be counted."""
    replaced = {name for match in found if match is not None for name in match.limit.replaces}
    statuses: list[Status | None] = []
    for match in found:
        if match is not None and match.limit.unlimited:
            statuses.append(_UNLIMITED)
        elif match is None or match.limit.name in replaced:
            statuses.append(_NOT_LIMITED)
        else:
            statuses.append(None)
    return tuple(statuses)


def _hits(descriptor: Descriptor, hits_addend: int) -> int:
    """Its own hits, even 0, else the request's, at least 1; negative where given back."""
    hits = descriptor.hits_addend
    if hits is None:
        hits = max(1, hits_addend)
    hits = min(hits, HITS_AT_MOST)
    return -hits if descriptor.is_negative_hits else hits


def judge(planned: Plan, counts: Sequence[int], *, now: int) -> Decision:
    """The answer, given each planned counter's value after its increment."""
    counted = iter(zip(planned.matches, planned.increments, counts, strict=True))
    statuses = tuple(
        status if status is not None else _status(*next(counted), now)
        for status in planned.statuses
    )
    return answer(planned.descriptors, statuses, planned.options)


def _status(match: Match, increment: Increment, after: int, now: int) -> Status:
    limit = match.limit
    is_over = after > limit.requests_per_unit and increment.hits >= 0
    return Status(
        code=Code.OVER_LIMIT if is_over and not limit.shadow_mode else Code.OK,
        limit=limit,
        limit_remaining=max(0, limit.requests_per_unit - after),
        reset_seconds=increment.window.seconds_until_reset(now),
        is_over=is_over,
        counted=Count(match.statistics_key, increment.hits, after),
    )


def judge_uncounted(planned: Plan, *, is_over: bool, now: int) -> Decision:
    """The answer when counters can't be reached: every limit is over, or none is."""
    counts = [match.limit.requests_per_unit + 1 if is_over else 0 for match in planned.matches]
    return judge(planned, counts, now=now)
