"""Decides requests with the rules of the moment and the counters of a store, whichever store it is.

Answers at once where the store does, else when it has answered. What happens when the counters
can't be reached is a setting, `on_store_failure`: `error` (the caller's failure mode decides),
`allow`, or `deny` (every descriptor that has a limit is over it).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, Protocol

from meshwarden.adapters.logs import logger
from meshwarden.adapters.telemetry import Metrics
from meshwarden.core.faults import Fault, Unavailable
from ratelimit_service.adapters.statistics import Statistics
from ratelimit_service.core.decide import Plan, judge, judge_uncounted, plan
from ratelimit_service.core.model import Decision, DescriptorSet, Increment, Rules

OnStoreFailure = Literal["error", "allow", "deny"]
LOG_INTERVAL_SECONDS = 1


class Store(Protocol):
    """`add` as in `core.decide.Counters`; raises `Unavailable`."""

    def add(
        self, increments: Sequence[Increment], *, now: int
    ) -> list[int] | Awaitable[list[int]]: ...


class Limiter:
    """`rules` is None before the first configuration; `clock` gives the seconds since the epoch."""

    def __init__(
        self,
        store: Store,
        *,
        on_store_failure: OnStoreFailure,
        statistics: Statistics,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self.rules: Rules | None = None
        self._store = store
        self._on_store_failure = on_store_failure
        self._statistics = statistics
        self._clock = clock
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
            for _ in descriptors.descriptors:
                self._statistics.add_unknown_domain(descriptors.domain)
        if not planned.increments:
            return self._recorded(judge(planned, (), now=now))
        try:
            counts = self._store.add(planned.increments, now=now)
        except Unavailable as fault:
            return self._uncounted(planned, fault, now=now)
        if isinstance(counts, list):
            return self._recorded(judge(planned, counts, now=now))
        return self._awaited(planned, counts, now=now)

    async def _awaited(self, planned: Plan, counts: Awaitable[list[int]], *, now: int) -> Decision:
        try:
            return self._recorded(judge(planned, await counts, now=now))
        except Unavailable as fault:
            return self._uncounted(planned, fault, now=now)

    def _uncounted(self, planned: Plan, fault: Unavailable, *, now: int) -> Decision:
        answer = self._on_store_failure
        self._failures.add(answer)
        self._statistics.add("call.should_rate_limit.redis_error")
        if now >= self._logged_at + LOG_INTERVAL_SECONDS:
            self._logged_at = now
            logger().error("store_failed", answer=answer, reason=str(fault))
        if answer == "error":
            raise fault
        decision = judge_uncounted(planned, is_over=answer == "deny", now=now)
        self._decisions.add(decision.code.name)
        return decision

    def _recorded(self, decision: Decision) -> Decision:
        self._decisions.add(decision.code.name)
        self._statistics.record(decision)
        return decision
