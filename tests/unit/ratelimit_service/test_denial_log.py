"""Which limit was over stands in the log: once a second a limit, and never the client's values."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from meshwarden.adapters.telemetry import Metrics
from ratelimit_service.adapters.denial_log import LIMITS_PER_INTERVAL, DenialLog
from ratelimit_service.adapters.limiter import Limiter
from ratelimit_service.adapters.memory_store import MemoryStore
from ratelimit_service.adapters.statistics import Statistics
from ratelimit_service.core.model import Descriptor, Override
from ratelimit_service.core.window import Unit
from tests.support.limits import descriptor, request, rules

LIMITS = """
domain: shop
descriptors:
- {key: ten, rate_limit: {unit: minute, requests_per_unit: 10, name: some}}
- {key: none, rate_limit: {unit: minute}}
- {key: shadow, shadow_mode: true, rate_limit: {unit: minute}}
"""


class Stopped(Exception):
    """Ends a loop that would go on for ever."""


class Limited:
    """A limiter that tells a denial log, whose interval ends when a test says so."""

    def __init__(self, *, shows_values: bool = False) -> None:
        self.pauses = 0
        self.log = DenialLog(shows_values=shows_values, pause=self._pause)
        self._limiter = Limiter(
            MemoryStore(counters_at_most=1000),
            on_store_failure="error",
            statistics=Statistics(near_limit_ratio=0.8, names_at_most=10),
            metrics=Metrics(),
            clock=lambda: 90.0,
            denials=self.log,
        )
        self._limiter.rules = rules(LIMITS)

    async def _pause(self, seconds: float) -> None:
        assert seconds == 1
        self.pauses += 1
        if self.pauses > 2:
            raise Stopped

    def __call__(self, *descriptors: Descriptor, times: int = 1) -> None:
        for _ in range(times):
            self._limiter.decide(request(*descriptors, domain="shop"))


def test_a_limit_that_is_over_is_told_with_its_number_and_what_is_left():
    limited = Limited()
    with capture_logs() as told:
        limited(descriptor(("ten", "x")), times=10)
        assert told == []
        limited(descriptor(("ten", "x")), descriptor(("unknown", "x")))
    assert told == [
        {
            "event": "over_limit",
            "log_level": "info",
            "domain": "shop",
            "rule": "shop.ten",
            "name": "some",
            "code": "OVER_LIMIT",
            "overall_code": "OVER_LIMIT",
            "limit": 10,
            "unit": "minute",
            "remaining": 0,
            "reset_seconds": 30,
            "hits": 1,
        }
    ]


def test_a_shadowed_limit_is_told_with_what_was_answered():
    limited = Limited()
    with capture_logs() as told:
        limited(descriptor(("shadow", "x")))
    assert (told[0]["is_shadowed"], told[0]["code"], told[0]["overall_code"]) == (True, "OK", "OK")


def test_a_flood_writes_one_line_a_limit_and_the_number_left_out():
    limited = Limited()
    with capture_logs() as told:
        limited(descriptor(("none", "x")), descriptor(("shadow", "x")), times=1000)
        limited.log.end_interval()
        limited.log.end_interval()
        limited(descriptor(("none", "x")))
    assert [(line["event"], line.get("rule"), line.get("count")) for line in told] == [
        ("over_limit", "shop.none", None),
        ("over_limit", "shop.shadow", None),
        ("over_limit_left_out", "shop.none", 999),
        ("over_limit_left_out", "shop.shadow", 999),
        ("over_limit", "shop.none", None),
    ]


def test_more_limits_than_fit_are_counted_together():
    limited = Limited()
    with capture_logs() as told:
        for number in range(LIMITS_PER_INTERVAL + 7):
            limited(descriptor((f"key{number}", "x"), override=Override(0, Unit.MINUTE)))
        assert len(told) == LIMITS_PER_INTERVAL
        limited.log.end_interval()
        assert told[-1] == {"event": "over_limit_left_out", "log_level": "info", "count": 7}
        limited.log.end_interval()
    assert len(told) == LIMITS_PER_INTERVAL + 1


async def test_an_interval_is_a_second():
    limited = Limited()
    limited(descriptor(("none", "x")), times=3)
    with capture_logs() as told, pytest.raises(Stopped):
        await limited.log.run()
    assert [(line["event"], line["count"]) for line in told] == [("over_limit_left_out", 2)]


def test_values_of_the_client_stand_in_the_log_only_where_asked_for():
    own = descriptor(("address", "10.1.2.3"), ("path", "/x"), override=Override(0, Unit.MINUTE))
    with capture_logs() as told:
        Limited()(own, descriptor(("none", "10.1.2.3")))
    assert [line["rule"] for line in told] == ["shop.address.path", "shop.none"]
    assert "10.1.2.3" not in str(told)
    with capture_logs() as told:
        Limited(shows_values=True)(own)
    assert told[0]["descriptor"] == {"address": "10.1.2.3", "path": "/x"}


def test_values_are_bounded_and_none_is_lost_where_a_key_stands_twice():
    own = descriptor(("k", "a"), ("k", "b" * 999), override=Override(0, Unit.MINUTE))
    with capture_logs() as told:
        Limited(shows_values=True)(own)
    assert told[0]["descriptor"] == {"k": f"a, {'b' * 256}"}
