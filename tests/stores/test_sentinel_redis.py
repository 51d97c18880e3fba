"""A master that sentinels watch is replaced, dies, or is stuck, while calls go on."""

from __future__ import annotations

import time

from meshwarden.core.faults import Unavailable
from tests.stores.conftest import Connect
from tests.support.processes import until
from tests.support.redis_sentinel import RedisTrio
from tests.support.redis_traffic import COUNT, LATE_SECONDS, Traffic, count, traffic

LIMIT_SECONDS = 0.1
KEYS = ["a", "b"]


def assert_nothing_was_counted_twice(going: Traffic, trio: RedisTrio) -> None:
    for key, tried in going.tried().items():
        assert int(trio.master.ask("GET", key) or 0) <= tried


async def test_a_planned_change_of_masters_is_followed(trio: RedisTrio, connected: Connect):
    redis = connected(type="sentinel", url=trio.url, time_limit_seconds=LIMIT_SECONDS)
    async with traffic(redis, keys=KEYS) as going:
        old = trio.master
        trio.fail_over()
        began = time.monotonic()
        await until(lambda: trio.servers.index(old) != trio.servers.index(trio.master), "changed")
        await going.recovery_seconds("sentinel: planned failover", since=began)
        assert going.longest_seconds < LIMIT_SECONDS + LATE_SECONDS
    assert_nothing_was_counted_twice(going, trio)
