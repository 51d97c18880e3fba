"""How often may they: find each descriptor's limit, count, judge.

    decide = judge(plan(...), the counts after counting)

`plan` and `judge` are pure, so that a store which has to be awaited counts in between, and one in
memory doesn't wait. Unless a mode says otherwise every descriptor with a limit is counted, denied
or not, and a request too big for what is left is counted in full: one such request uses the window
up (as the reference does; known weakness, which `atomic` limits don't have).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from meshwarden.core.faults import Unavailable
from ratelimit_service.core.answer import answer, is_quota
from ratelimit_service.core.counter import is_over
from ratelimit_service.core.keys import counted_values, counter_key
from ratelimit_service.core.lookup import find_limit
from ratelimit_service.core.model import (
    UNLIMITED_REMAINING,
    Code,
    Count,
    Decision,
    Descriptor,
    DescriptorSet,
    Effect,
    Increment,
    LeftOut,
    Limit,
    Match,
    Mode,
    Options,
    Outcome,
    Rules,
    Status,
    UnanswerableRequest,
)
from ratelimit_service.core.window import Window

HITS_AT_MOST = 2**48
"""More hits of one descriptor count as this many: over every limit, and exact in Lua."""

_NOT_LIMITED = Status()


class Counters(Protocol):
    """Where hits are counted."""

    def add(self, increments: Sequence[Increment], *, mode: Mode, now: int) -> Sequence[Outcome]:
        """Count one after the other, as `mode` says; give what came of each."""
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
    mode: Mode
    options: Options


def decide(
    descriptors: DescriptorSet, rules: Rules | None, counters: Counters, now: int
) -> Decision:
    """The answer to `descriptors` at `now` (whole seconds since the epoch), their hits counted."""
    planned = plan(descriptors, rules, now=now)
    outcomes = counters.add(planned.increments, mode=planned.mode, now=now)
    return judge(planned, outcomes, now=now)


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
    statuses = _settled(found, descriptors)
    matches, increments = [], []
    for descriptor, match, status in zip(descriptors.descriptors, found, statuses, strict=True):
        if status is None and match is not None:
            matches.append(match)
            hits = _hits(descriptor, descriptors.hits_addend)
            window = Window.of(match.limit.unit, now=now)
            values = counted_values(descriptor, match.shared_values)
            key = counter_key(domain, values, window=window, rules=rules)
            increments.append(Increment(key, hits, window, match.limit.requests_per_unit))
    mode = _mode(matches, rules.options)
    if mode is Mode.ALL_OR_NONE:
        increments = _with_effects(increments, matches, statuses, rules.options)
    return Plan(descriptors, statuses, tuple(matches), tuple(increments), mode, rules.options)


def _mode(matches: Sequence[Match], options: Options) -> Mode:
    """One atomic limit makes the request atomic."""
    for match in matches:
        if match.limit.atomic:
            return Mode.ALL_OR_NONE
    return Mode.STOPS_WHEN_OVER if options.stops_when_over_limit else Mode.ALWAYS


def _with_effects(
    increments: Sequence[Increment],
    matches: Sequence[Match],
    statuses: Sequence[Status | None],
    options: Options,
) -> list[Increment]:
    """`increments` with what each does to the request when it is over, in step with `answer`."""
    effects = [_effect(match.limit, options) for match in matches]
    can_quotas_run_out = not any(
        match.limit.shadow_mode and is_quota(match.limit, options=options) for match in matches
    ) and not (options.quota_mode and any(status is not None for status in statuses))
    if not can_quotas_run_out:
        effects = [Effect.NONE if effect is Effect.QUOTA else effect for effect in effects]
    return [
        increment._replace(effect=effect)
        for increment, effect in zip(increments, effects, strict=True)
    ]


def _effect(limit: Limit, options: Options) -> Effect:
    if options.shadow_mode or limit.shadow_mode:
        return Effect.NONE
    return Effect.QUOTA if is_quota(limit, options=options) else Effect.DENIES


def _settled(
    found: Sequence[Match | None], descriptors: DescriptorSet
) -> tuple[Status | None, ...]:
    """The statuses that no counter changes; None where one has to be counted."""
    replaced = {name for match in found if match is not None for name in match.limit.replaces}
    statuses: list[Status | None] = []
    for match, descriptor in zip(found, descriptors.descriptors, strict=True):
        if match is not None and match.limit.unlimited:
            hits = _hits(descriptor, descriptors.hits_addend)
            counted = Count(match.statistics_key, hits, 0)
            statuses.append(Status(limit_remaining=UNLIMITED_REMAINING, counted=counted))
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


def judge(planned: Plan, outcomes: Sequence[Outcome], *, now: int) -> Decision:
    """The answer, given what came of each planned increment."""
    counted = iter(
        [
            _status(match, increment, outcome, now)
            for match, increment, outcome in zip(
                planned.matches, planned.increments, outcomes, strict=True
            )
        ]
    )
    statuses = tuple([next(counted) if one is None else one for one in planned.statuses])
    return answer(planned.descriptors, statuses, planned.options)


def _status(match: Match, increment: Increment, outcome: Outcome, now: int) -> Status:
    limit, at_most = match.limit, increment.at_most
    if isinstance(outcome, LeftOut):
        count, over = outcome.stands_at, outcome.is_over
    else:
        count = outcome
        over = is_over(increment, count)
    code = Code.OVER_LIMIT if over and not limit.shadow_mode else Code.OK
    remaining = at_most - count if count < at_most else 0
    reset = increment.window.seconds_until_reset(now)
    counted = Count(match.statistics_key, increment.hits, outcome, at_most)
    return Status(code, limit, remaining, reset, over, counted)


def shared_out(planned: Plan, *, replicas: int) -> Plan:
    """`planned` with the part of each limit that one of `replicas` may give away by itself.

    At least 1, so that all together admit at most the greater of the limit and `replicas`.
    """
    return planned._replace(
        increments=tuple(
            increment._replace(
                at_most=max(min(1, increment.at_most), increment.at_most // replicas)
            )
            for increment in planned.increments
        )
    )


def judge_uncounted(planned: Plan, *, is_over: bool, now: int) -> Decision:
    """The answer when counters can't be reached: every limit is over, or none is."""
    outcomes = [
        increment.at_most + max(1, increment.hits) if is_over else 0
        for increment in planned.increments
    ]
    return judge(planned, outcomes, now=now)
