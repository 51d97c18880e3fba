"""The counters' part of `app`: the store that is asked for, its watch, its fallback, its clock.

Redis is imported where it is used: the library takes a tenth of a second.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from meshwarden.adapters.service import Service
from ratelimit_service import app_statistics
from ratelimit_service.adapters.limiter import Approximation, Store
from ratelimit_service.adapters.memory_store import MemoryStore
from ratelimit_service.adapters.redis_watch import RedisWatch
from ratelimit_service.adapters.statistics import Statistics
from ratelimit_service.core.model import Increment, Mode, Outcome
from ratelimit_service.core.over_limit_cache import OverLimitCache
from ratelimit_service.settings import Settings

if TYPE_CHECKING:
    from meshwarden.adapters.redis_topology import Redis
    from ratelimit_service.adapters.redis_store import RedisStore
    from ratelimit_service.adapters.replicas import Replicas


@dataclass(frozen=True)
class Counting:
    """What counts, what does when it can't, and the clock that windows follow (seconds since the
    epoch).
    """

    store: Store
    clock: Callable[[], float] = time.time
    approximation: Approximation | None = None


def counting(service: Service, settings: Settings, statistics: Statistics) -> Counting:
    """The store that the settings ask for; its watch and its metrics are added to `service`."""
    if settings.store.kind == "memory":
        return Counting(_memory(service, settings))
    return _redis_counting(service, settings, statistics)


def _memory(service: Service, settings: Settings) -> MemoryStore:
    memory = MemoryStore(counters_at_most=settings.store.memory_counters_at_most)
    service.metrics.gauge(
        "ratelimit_memory_counters", "Counters in memory.", lambda: memory.counter_count
    )
    return memory


def _redis_counting(service: Service, settings: Settings, statistics: Statistics) -> Counting:
    from meshwarden.adapters.redis_topology import connect
    from ratelimit_service.adapters.remembering_store import RememberingStore

    redis = connect(settings.redis)
    per_second = _per_second(settings)
    app_statistics.watch_redis(statistics, "redis_pool", redis)
    if per_second is not None:
        app_statistics.watch_redis(statistics, "redis_per_second_pool", per_second)
    store = _redis_store(settings, redis, per_second)
    _watch(service, store, stays_ready=not settings.health.follows_store)
    replicas = _replicas(service, settings, redis)
    approximation = None
    if settings.on_store_failure == "approximate":
        approximation = Approximation(_memory(service, settings), lambda: replicas.count)
    clock = replicas.now if settings.store.follows_redis_clock else time.time
    cache_bytes = settings.store.over_limit_cache_bytes
    if not cache_bytes:
        return Counting(store, clock, approximation)
    cache = OverLimitCache(bytes_at_most=cache_bytes)
    app_statistics.watch_cache(statistics, cache)
    service.metrics.gauge(
        "ratelimit_over_limit_cache_entries",
        "Counters remembered to be over their limit.",
        lambda: cache.figures().entry_count,
    )
    return Counting(RememberingStore(store, cache), clock, approximation)


def _per_second(settings: Settings) -> Redis | None:
    from meshwarden.adapters.redis_topology import connect

    return connect(settings.redis_per_second) if settings.redis_per_second.enabled else None


def _redis_store(settings: Settings, redis: Redis, per_second: Redis | None) -> RedisStore:
    from ratelimit_service.adapters.redis_store import Breaking, RedisStore

    jitter_at_most = settings.store.expiration_jitter_seconds
    return RedisStore(
        redis,
        breaking=Breaking(settings.store.breaker_failures, settings.store.breaker_pause_seconds),
        jitter=lambda: int(random.random() * jitter_at_most),  # noqa: S311 - spreads expiry
        monotonic=time.monotonic,
        per_second=per_second,
    )


def _watch(service: Service, store: RedisStore, *, stays_ready: bool) -> None:
    service.metrics.gauge(
        "ratelimit_store_open_breakers",
        "Redis nodes that are left alone for the moment.",
        lambda: store.open_breaker_count,
    )
    service.metrics.gauge(
        "ratelimit_store_waiting_requests",
        "Requests in line for the next call of Redis.",
        lambda: store.waiting_count,
    )
    watch = RedisWatch(
        store.ping, metrics=service.metrics, pause=asyncio.sleep, stays_ready=stays_ready
    )
    service.readiness.checks["store"] = watch.unready_reason
    service.readiness.details["store"] = watch.status
    service.tasks.append(watch.run)
    service.closers.append(store.close)


async def read_counters(
    settings: Settings, increments: Sequence[Increment], *, now: int
) -> Sequence[Outcome]:
    """What the counters in Redis stand at; counts nothing. Raises `Unavailable`."""
    from meshwarden.adapters.redis_topology import connect

    store = _redis_store(settings, connect(settings.redis), _per_second(settings))
    try:
        asked = [increment._replace(hits=0) for increment in increments]
        return await store.add(asked, mode=Mode.ALWAYS, now=now)
    finally:
        await store.close()


def _replicas(service: Service, settings: Settings, redis: Redis) -> Replicas:
    from ratelimit_service.adapters.replicas import Replicas

    replicas = Replicas(
        redis,
        name=uuid.uuid4().hex,
        key=f"{settings.store.key_prefix}rl:replicas",
        count=settings.store.replicas,
        time_limit_seconds=settings.redis.time_limit_seconds,
        clock=time.time,
        monotonic=time.monotonic,
    )
    service.metrics.gauge(
        "ratelimit_replicas",
        "Processes that share the counters, as last known.",
        lambda: replicas.count,
        across_workers="livemin",
    )
    service.tasks.append(partial(replicas.run, asyncio.sleep))
    return replicas
