"""The reference's statistics: names, counting, and the text of `/stats`.

Memory is bounded: beyond `names_at_most` limits nothing new is listed, and what was left out is
counted. Prometheus has metrics of its own (`/metrics`); these names are for dashboards made for
envoyproxy/ratelimit.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ratelimit_service.core.model import Decision
from ratelimit_service.core.near_limit import Tally, tally

_IPV4 = re.compile(r"(?<!\d)(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?!\d)")
_SERVICE = "ratelimit.service"


class Statistics:
    """Counts decisions under the reference's names; no lock, one event loop."""

    def __init__(self, *, near_limit_ratio: float, names_at_most: int) -> None:
        self._near_limit_ratio = near_limit_ratio
        self._names_at_most = names_at_most
        self._by_limit: dict[str, dict[str, int]] = {}
        self._service: dict[str, int] = dict.fromkeys(
            (
                f"{_SERVICE}.config_load_success",
                f"{_SERVICE}.config_load_error",
                f"{_SERVICE}.global_shadow_mode",
                f"{_SERVICE}.call.should_rate_limit.redis_error",
                f"{_SERVICE}.call.should_rate_limit.service_error",
                "ratelimit_server.ShouldRateLimit.total_requests",
            ),
            0,
        )

    def record(self, decision: Decision) -> None:
        """Tally the counts of `decision` under their limits."""
        if decision.is_shadowed:
            self.add("global_shadow_mode")
        for status in decision.statuses:
            if status.counted is None or status.limit is None:
                continue
            key, hits, outcome = status.counted
            numbers = self._by_limit.get(key)
            if numbers is None:
                numbers = self._new(key)
            found = tally(
                status.limit, hits=hits, outcome=outcome, near_limit_ratio=self._near_limit_ratio
            )
            for field, value in zip(Tally._fields, found, strict=True):
                if value:
                    numbers[field] += value

    def add(self, name: str) -> None:
        """One more under `ratelimit.service.<name>`."""
        self._count(f"{_SERVICE}.{name}")

    def add_request(self) -> None:
        """One more call of ShouldRateLimit."""
        self._count("ratelimit_server.ShouldRateLimit.total_requests")

    def add_unknown_domain(self, domain: str) -> None:
        """One more request for a domain that has no configuration."""
        name = f"{_SERVICE}.rate_limit.{sanitised(domain)}.domain_not_found"
        if name not in self._service and len(self._service) > self._names_at_most:
            name = f"{_SERVICE}.statistics_left_out"
        self._count(name)

    def lines(self) -> list[str]:
        """`name: value` for each statistic, sorted."""
        found = [f"{name}: {value}" for name, value in self._service.items()]
        for key, numbers in self._by_limit.items():
            prefix = f"{_SERVICE}.rate_limit.{sanitised(key)}"
            found.extend(f"{prefix}.{field}: {value}" for field, value in numbers.items())
        return sorted(found)

    def _new(self, key: str) -> dict[str, int]:
        numbers = dict.fromkeys(Tally._fields, 0)
        if len(self._by_limit) < self._names_at_most:
            self._by_limit[key] = numbers
        else:
            self.add("statistics_left_out")
        return numbers

    def _count(self, name: str) -> None:
        self._service[name] = self._service.get(name, 0) + 1


@lru_cache(maxsize=4096)
def sanitised(name: str) -> str:
    """`name` without ':' and '|', and without dots inside an IPv4 address."""
    return _IPV4.sub(r"\1_\2_\3_\4", name.replace(":", "_").replace("|", "_"))
