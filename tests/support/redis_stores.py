"""Counter stores on a Redis, for tests."""

from __future__ import annotations

import time
from typing import Any

from meshwarden.adapters.redis_settings import RedisSettings
from meshwarden.adapters.redis_topology import connect
from ratelimit_service.adapters.redis_store import Limits, RedisStore


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
    per_second = connect(RedisSettings(url=per_second_url)) if per_second_url else None
    return RedisStore(
        connect(RedisSettings(url=url, time_limit_seconds=time_limit_seconds, **settings)),
        limits=Limits(time_limit_seconds, failures_at_most, pause_seconds),
        jitter=lambda: jitter,
        monotonic=time.monotonic,
        per_second=per_second,
    )
