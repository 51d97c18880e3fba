"""Keeps a service's snapshot current: offers each bundle of the source, logs and counts what became
of it, and tells the source.

    Source --bundle--> SnapshotHolder --outcome--> applied, logged, counted --> Source.answered

A source is a folder (`folder_source`), a stream (`ads_source`), or whatever else yields bundles.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Generic, Protocol, TypeVar

from meshwarden.adapters.logs import logger
from meshwarden.adapters.telemetry import Metrics
from meshwarden.core.snapshot import Accepted, Bundle, Outcome, Refused, SnapshotHolder

SnapshotType = TypeVar("SnapshotType")

PROBLEMS_LOGGED_AT_MOST = 50


class Source(Protocol):
    """Where bundles come from."""

    def read(self) -> Bundle | None:
        """What is there now; None where it can only be waited for."""

    def changes(self, resync_seconds: float) -> AsyncGenerator[Bundle]:
        """A bundle at first and after each change, for ever. Only a source that may miss a change
        needs `resync_seconds`: it looks again that often.
        """

    def answered(self, outcome: Outcome) -> None:
        """What became of the bundle that was yielded last; told before the next is asked for."""


class Configuration(Generic[SnapshotType]):
    """The way from a source to the holder of the snapshot; `apply` puts an accepted one to work,
    `counts` says how much of what is in it. `told` hears of each that was taken, and once of each
    that was refused.
    """

    def __init__(
        self,
        holder: SnapshotHolder[SnapshotType],
        source: Source,
        *,
        apply: Callable[[SnapshotType], None],
        counts: Callable[[SnapshotType], dict[str, int]],
        metrics: Metrics,
        resync_seconds: float,
        told: Callable[[Outcome], None] = lambda _outcome: None,
    ) -> None:
        self._holder = holder
        self._source = source
        self._apply = apply
        self._counts = counts
        self._resync_seconds = resync_seconds
        self._offers = metrics.tally(
            "configuration_offers", "Configurations offered, by what became of them.", ["outcome"]
        )
        metrics.gauge(
            "configuration_is_refused",
            "1 while the newest configuration is refused and an older one serves.",
            lambda: float(holder.refusal is not None),
        )
        self._told = told
        self._told_refusal: Refused | None = None

    def load(self) -> None:
        """Read and offer what is there now, if the source can be read."""
        bundle = self._source.read()
        if bundle is not None:
            self.offer(bundle)

    def offer(self, bundle: Bundle) -> None:
        """Take `bundle` or refuse it; say so once for each version."""
        self._took(self._holder.offer(bundle))

    def _took(self, outcome: Outcome) -> None:
        if isinstance(outcome, Accepted) and self._holder.current is not None:
            self._apply(self._holder.current)
            self._offers.add("accepted")
            self._told(outcome)
            counts = self._counts(self._holder.current)
            logger().info("configuration_accepted", version=outcome.version, **counts)
        elif isinstance(outcome, Refused):
            # The holder gives the same refusal as long as the same version is offered.
            if outcome is self._told_refusal:
                return
            self._offers.add("refused")
            self._told(outcome)
            logger().error(
                "configuration_refused",
                version=outcome.version,
                still_serving=self._holder.version or None,
                problems=[str(problem) for problem in outcome.problems[:PROBLEMS_LOGGED_AT_MOST]],
            )
        self._told_refusal = self._holder.refusal

    async def follow(self) -> None:
        """Offer each bundle that the source yields, for ever.

        A large one takes seconds to compile: that is done in a thread, so that requests are
        answered meanwhile, and put to work in the event loop.
        """
        async with aclosing(self._source.changes(self._resync_seconds)) as bundles:
            async for bundle in bundles:
                outcome = await asyncio.to_thread(self._holder.offer, bundle)
                self._took(outcome)
                self._source.answered(outcome)

    @property
    def was_offered(self) -> bool:
        """Whether any configuration came yet, taken or refused."""
        return self._holder.current is not None or self._holder.refusal is not None

    def unready_reason(self) -> str:
        """Why there is no snapshot yet; empty once there is one."""
        if self._holder.current is not None:
            return ""
        refusal = self._holder.refusal
        return "the configuration is refused" if refusal else "no configuration is loaded yet"

    def status(self) -> dict[str, object]:
        """What serves, and what was refused and why, for `/readyz?verbose`."""
        refusal, current = self._holder.refusal, self._holder.current
        return {
            "version": self._holder.version or None,
            "counts": None if current is None else self._counts(current),
            "refused": None
            if refusal is None
            else {
                "version": refusal.version,
                "problems": [
                    str(problem) for problem in refusal.problems[:PROBLEMS_LOGGED_AT_MOST]
                ],
            },
        }
