"""Counter stores on a Redis, for tests."""

from __future__ import annotations

import time
from typing import Any

from meshwarden.adapters.redis_settings import RedisSettings
from meshwarden.adapters.redis_topology import connect
from meshwarden.core.faults import Unavailable
from ratelimit_service.adapters.redis_store import Breaking, RedisStore
from ratelimit_service.core.model import Increment
from tests.support.counter_contract import NOW
from tests.support.processes import until


def redis_store(
    url: str,
    *,
    time_limit_seconds: float = 5,
    jitter: int = 0,
    failures_at_most: int = 1000,
    pause_seconds: float = 1,
    per_second_url: str = "",
    **settings: Any,
) -> RedisStore:
    """A store on the Redis at `url`, with a breaker that hardly opens unless it is told to."""
    limit = {"time_limit_seconds": time_limit_seconds}
    per_second = connect(RedisSettings(url=per_second_url, **limit)) if per_second_url else None
    return RedisStore(
        connect(RedisSettings(url=url, **limit, **settings)),
        breaking=Breaking(failures_at_most, pause_seconds),
        jitter=lambda: jitter,
        monotonic=time.monotonic,
        per_second=per_second,
    )


async def until_counted(store: RedisStore, *increments: Increment) -> None:
    """Return once the store counts them; a fault of Redis is waited out."""

    async def is_counted() -> bool:
        try:
            await store.add(increments, now=NOW)
        except Unavailable:
            return False
        return True

    await until(is_counted, "it is tried again and counts", limit_seconds=5)
