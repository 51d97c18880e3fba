"""Which limit was over, in the log: a line for each, and never more for a flood.

A limit writes its first line in a second; what follows in that second is counted, and the number
told when it is over. Limits in shadow mode and quotas are told, too: they were over, and the line
says what was answered. A line names the limit, not the client: values of descriptors may be
personal or secret, so they stand in it only where a setting asks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from meshwarden.adapters.logs import logger
from ratelimit_service.core.model import Decision, Descriptor, DescriptorSet
from ratelimit_service.core.which_limit import described, rule_of

INTERVAL_SECONDS = 1.0
LIMITS_PER_INTERVAL = 50
ENTRIES_SHOWN = 16
CHARACTERS_SHOWN = 256


class DenialLog:
    """Takes every decision that was counted (what `on-store-failure: deny` denies is told by
    `store_failed`); `pause` waits so many seconds.
    """

    def __init__(self, *, shows_values: bool, pause: Callable[[float], Awaitable[None]]) -> None:
        self._shows_values = shows_values
        self._pause = pause
        self._left_out: dict[tuple[str, str], int] = {}
        """(domain, limit) of this interval -> how many lines were not written."""
        self._others = 0
        """Lines of limits beyond `LIMITS_PER_INTERVAL`."""

    def note(self, descriptors: DescriptorSet, decision: Decision) -> None:
        """Log the limits of `decision` that are over; nothing where none is."""
        for position, status in enumerate(decision.statuses):
            if status.is_over and status.limit is not None:
                descriptor = descriptors.descriptors[position]
                rule = rule_of(descriptors.domain, descriptor, status.limit)
                if self._may_write(descriptors.domain, rule):
                    self._write(descriptors.domain, descriptor, decision, position)

    async def run(self) -> None:
        """End interval after interval, for ever."""
        while True:
            await self._pause(INTERVAL_SECONDS)
            self.end_interval()

    def end_interval(self) -> None:
        """Tell how many lines were left out, and begin anew."""
        for (domain, rule), count in self._left_out.items():
            if count:
                logger().info("over_limit_left_out", domain=domain, rule=rule, count=count)
        if self._others:
            logger().info("over_limit_left_out", count=self._others)
        self._left_out.clear()
        self._others = 0

    def _may_write(self, domain: str, rule: str) -> bool:
        """Whether it is the first of its limit in this interval; counted where not."""
        seen = self._left_out.get((domain, rule))
        if seen is not None:
            self._left_out[domain, rule] = seen + 1
        elif len(self._left_out) < LIMITS_PER_INTERVAL:
            self._left_out[domain, rule] = 0
            return True
        else:
            self._others += 1
        return False

    def _write(
        self, domain: str, descriptor: Descriptor, decision: Decision, position: int
    ) -> None:
        told = described(domain, descriptor, decision.statuses[position])
        if self._shows_values:
            told["descriptor"] = _values(descriptor)
        logger().info("over_limit", domain=domain, overall_code=decision.code.name, **told)


def _values(descriptor: Descriptor) -> dict[str, Any]:
    """Values by key, so that the log masks those whose key says that they are secret."""
    found: dict[str, str] = {}
    for entry in descriptor.entries[:ENTRIES_SHOWN]:
        value = entry.value[:CHARACTERS_SHOWN]
        found[entry.key] = f"{found[entry.key]}, {value}" if entry.key in found else value
    return found
