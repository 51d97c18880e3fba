"""Decides requests with the rules of the moment and the counters of a store, whichever store it is.

Answers at once where the store does, else when it has answered. What happens when the counters
can't be reached is a setting, `on_store_failure`: `error` (the caller's failure mode decides),
`allow`, `deny` (every descriptor that has a limit is over it), or `approximate`: this process
counts by itself, with each limit divided by the replicas that lived last. Its bound: while the
store is away all replicas together admit at most the greater of the limit and their number, a
window and counter, besides what the store had admitted in the window before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from meshwarden.adapters.logs import logger
from meshwarden.adapters.telemetry import Metrics
from meshwarden.core.faults import Fault, Unavailable
from ratelimit_service.adapters.denial_log import DenialLog
from ratelimit_service.adapters.memory_store import MemoryStore
from ratelimit_service.adapters.statistics import Statistics
from ratelimit_service.core.decide import Plan, judge, judge_uncounted, plan, shared_out
from ratelimit_service.core.model import Decision, DescriptorSet, Increment, Mode, Outcome, Rules

OnStoreFailure = Literal["error", "allow", "deny", "approximate"]
LOG_INTERVAL_SECONDS = 1


class Store(Protocol):
    """`add` as in `core.decide.Counters`; raises `Unavailable`."""

    def add(
        self, increments: Sequence[Increment], *, mode: Mode, now: int
    ) -> list[Outcome] | Awaitable[list[Outcome]]: ...


@dataclass(frozen=True)
class Approximation:
    """What counts while the store is away: `replica_count` gives by how many limits are divided."""

    counters: MemoryStore
    replica_count: Callable[[], int]


class Limiter:
    """`rules` is None before the first configuration; `clock` gives the seconds since the epoch."""

    def __init__(
        self,
        store: Store,
        *,
        on_store_failure: OnStoreFailure,
        approximation: Approximation | None = None,
        statistics: Statistics,
        metrics: Metrics,
        clock: Callable[[], float],
        denials: DenialLog | None = None,
    ) -> None:
        self.rules: Rules | None = None
        self._store = store
        self._on_store_failure = on_store_failure
        self._approximation = approximation
        self._statistics = statistics
        self._clock = clock
        self._denials = denials
        self._decisions = metrics.tally(
            "ratelimit_decisions", "Requests by their overall answer.", ["code"]
        )
        self._failures = metrics.tally(
            "ratelimit_store_failures",
            "Requests whose counters could not be reached, by what was answered.",
            ["answer"],
        )
        self._logged_at = -LOG_INTERVAL_SECONDS

    def decide(self, descriptors: DescriptorSet) -> Decision | Awaitable[Decision]:
        """The decision, at once or awaited.

        Raises `Unavailable` before the first configuration, and, with `on_store_failure: error`,
        when the counters can't be reached; `InvalidInput` for a request that can't be answered.
        """
        now = int(self._clock())
        rules = self.rules
        try:
            planned = plan(descriptors, rules, now=now)
        except Fault:
            self._statistics.add("call.should_rate_limit.service_error")
            raise
        if rules is not None and descriptors.domain not in rules.domains:
            self._statistics.add_unknown_domain(
                descriptors.domain, descriptors=len(descriptors.descriptors)
            )
        if not planned.increments:
            return self._recorded(planned, judge(planned, (), now=now))
        try:
            outcomes = self._store.add(planned.increments, mode=planned.mode, now=now)
        except Unavailable as fault:
            return self._uncounted(planned, fault, now=now)
        if isinstance(outcomes, list):
            return self._recorded(planned, judge(planned, outcomes, now=now))
        return self._awaited(planned, outcomes, now=now)

    async def _awaited(
        self, planned: Plan, outcomes: Awaitable[list[Outcome]], *, now: int
    ) -> Decision:
        try:
            return self._recorded(planned, judge(planned, await outcomes, now=now))
        except Unavailable as fault:
            return self._uncounted(planned, fault, now=now)

    def _uncounted(self, planned: Plan, fault: Unavailable, *, now: int) -> Decision:
        answer = self._on_store_failure
        self._statistics.add("call.should_rate_limit.redis_error")
        decision = None
        if answer == "approximate" and self._approximation is not None:
            try:
                decision = self._approximated(planned, self._approximation, now=now)
            except Unavailable as full:
                answer, fault = "error", full
        self._failures.add(answer)
        if now >= self._logged_at + LOG_INTERVAL_SECONDS:
            self._logged_at = now
            logger().error("store_failed", answer=answer, reason=str(fault))
        if decision is not None:
            return decision
        self._statistics.record_uncounted(planned.matches, planned.increments)
        if answer == "error":
            raise fault
        decision = judge_uncounted(planned, is_over=answer == "deny", now=now)
        self._decisions.add(decision.code.name)
        return decision

    def _approximated(self, planned: Plan, approximation: Approximation, *, now: int) -> Decision:
        """Raises `Unavailable` when there is no room for more counters."""
        share = shared_out(planned, replicas=approximation.replica_count())
        outcomes = approximation.counters.add(share.increments, mode=share.mode, now=now)
        return self._recorded(share, judge(share, outcomes, now=now))

    def _recorded(self, planned: Plan, decision: Decision) -> Decision:
        self._decisions.add(decision.code.name)
        self._statistics.record(decision)
        if self._denials is not None:
            self._denials.note(planned.descriptors, decision)
        return decision
