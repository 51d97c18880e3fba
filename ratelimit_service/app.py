"""Puts the parts of ratelimit_service together; the only place that builds its adapters."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from meshwarden.adapters.configuration import Configuration
from meshwarden.adapters.folder_source import FolderSource
from meshwarden.adapters.service import Service
from meshwarden.core.faults import InvalidInput, Misconfigured
from meshwarden.core.snapshot import Bundle, SnapshotHolder
from ratelimit_service.adapters import http_api
from ratelimit_service.adapters.envoy_rls import ShouldRateLimit
from ratelimit_service.adapters.limiter import Approximation, Limiter, Store
from ratelimit_service.adapters.memory_store import MemoryStore
from ratelimit_service.adapters.redis_watch import RedisWatch
from ratelimit_service.adapters.statistics import Statistics
from ratelimit_service.core.compile import compile_limits
from ratelimit_service.core.model import HeaderNames, Options, Rules
from ratelimit_service.core.over_limit_cache import OverLimitCache
from ratelimit_service.core.tree import described_limits
from ratelimit_service.settings import Settings

if TYPE_CHECKING:
    from meshwarden.adapters.redis_topology import Redis
    from ratelimit_service.adapters.redis_store import RedisStore
    from ratelimit_service.adapters.replicas import Replicas

__all__ = ["Settings", "build", "options", "source"]


def source(settings: Settings) -> FolderSource:
    """The files that configure us. Raises `Misconfigured` when there is no folder."""
    if settings.configuration.folder is None:
        raise Misconfigured(
            "no configuration: set --configuration.folder (or RUNTIME_ROOT) to a folder of limits"
        )
    return FolderSource(settings.configuration.folder)


def options(settings: Settings) -> Options:
    """What holds for every request."""
    answer = settings.answer
    names = HeaderNames(answer.limit_header, answer.remaining_header, answer.reset_header)
    return Options(
        shadow_mode=answer.shadow_mode,
        quota_mode=answer.quota_mode,
        header_names=names if answer.headers_enabled else None,
        has_dynamic_metadata=answer.dynamic_metadata,
        key_format=settings.store.key_format,
        key_prefix=settings.store.key_prefix,
        stops_when_over_limit=settings.store.stops_when_over_limit,
    )


def build(service: Service, settings: Settings) -> None:
    """Add the parts of ratelimit_service to `service`."""
    statistics = Statistics(
        near_limit_ratio=settings.statistics.near_limit_ratio,
        names_at_most=settings.statistics.names_at_most,
    )
    counting = _counting(service, settings)
    limiter = Limiter(
        counting.store,
        on_store_failure=settings.on_store_failure,
        approximation=counting.approximation,
        statistics=statistics,
        metrics=service.metrics,
        clock=counting.clock,
    )
    configuration = _configuration(service, settings, limiter, statistics)
    configuration.load()
    service.methods.append(ShouldRateLimit(limiter, statistics=statistics).method())
    service.health_names += ["ratelimit", "envoy.service.ratelimit.v3.RateLimitService"]
    service.routes += http_api.http_routes(limiter, readiness=service.readiness)
    debug_routes = http_api.debug_routes(limiter, statistics=statistics)
    service.further_http.append((settings.debug.host, settings.debug.port, debug_routes))
    service.readiness.checks["configuration"] = configuration.unready_reason
    service.readiness.details["configuration"] = configuration.status
    service.tasks.append(configuration.follow)


def _configuration(
    service: Service, settings: Settings, limiter: Limiter, statistics: Statistics
) -> Configuration[Rules]:
    def apply(rules: Rules) -> None:
        limiter.rules = rules

    return Configuration(
        SnapshotHolder(_Compiler(settings, statistics).compiled),
        source(settings),
        apply=apply,
        counts=_counts,
        metrics=service.metrics,
        resync_seconds=settings.configuration.resync_seconds,
    )


@dataclass(frozen=True)
class _Counting:
    """What counts, what does when it can't, and the clock that windows follow (seconds since the
    epoch).
    """

    store: Store
    clock: Callable[[], float] = time.time
    approximation: Approximation | None = None


def _counting(service: Service, settings: Settings) -> _Counting:
    """The store that the settings ask for; its watch and its metrics are added to `service`."""
    if settings.store.kind == "memory":
        return _Counting(_memory(service, settings))
    return _redis_counting(service, settings)


def _memory(service: Service, settings: Settings) -> MemoryStore:
    memory = MemoryStore(counters_at_most=settings.store.memory_counters_at_most)
    service.metrics.gauge(
        "ratelimit_memory_counters", "Counters in memory.", lambda: memory.counter_count
    )
    return memory


def _redis_counting(service: Service, settings: Settings) -> _Counting:
    from meshwarden.adapters.redis_topology import connect
    from ratelimit_service.adapters.remembering_store import RememberingStore

    redis = connect(settings.redis)
    store = _redis_store(service, settings, redis)
    replicas = _replicas(service, settings, redis)
    approximation = None
    if settings.on_store_failure == "approximate":
        approximation = Approximation(_memory(service, settings), lambda: replicas.count)
    clock = replicas.now if settings.store.follows_redis_clock else time.time
    cache_bytes = settings.store.over_limit_cache_bytes
    if not cache_bytes:
        return _Counting(store, clock, approximation)
    cache = OverLimitCache(bytes_at_most=cache_bytes)
    service.metrics.gauge(
        "ratelimit_over_limit_cache_entries",
        "Counters remembered to be over their limit.",
        lambda: cache.figures().entry_count,
    )
    return _Counting(RememberingStore(store, cache), clock, approximation)


def _redis_store(service: Service, settings: Settings, redis: Redis) -> RedisStore:
    from meshwarden.adapters.redis_topology import connect
    from ratelimit_service.adapters.redis_store import Limits, RedisStore

    jitter_at_most = settings.store.expiration_jitter_seconds
    per_second = settings.redis_per_second
    store = RedisStore(
        redis,
        limits=Limits(
            settings.redis.time_limit_seconds,
            settings.store.breaker_failures,
            settings.store.breaker_pause_seconds,
        ),
        jitter=lambda: int(random.random() * jitter_at_most),  # noqa: S311 - spreads expiry
        monotonic=time.monotonic,
        per_second=connect(per_second) if per_second.enabled else None,
    )
    service.metrics.gauge(
        "ratelimit_store_open_breakers",
        "Redis nodes that are left alone for the moment.",
        lambda: store.open_breaker_count,
    )
    watch = RedisWatch(store.ping, metrics=service.metrics, pause=asyncio.sleep)
    service.readiness.checks["store"] = watch.unready_reason
    service.readiness.details["store"] = watch.status
    service.tasks.append(watch.run)
    service.closers.append(store.close)
    return store


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


def _counts(rules: Rules) -> dict[str, int]:
    """How much of what is configured."""
    limits = described_limits(rules.domains.values())
    return {"domains": len(rules.domains), "limits": len(limits)}


class _Compiler:
    """Compiles bundles, and counts each version once as the reference counts its loads."""

    def __init__(self, settings: Settings, statistics: Statistics) -> None:
        self._options = options(settings)
        self._merges_domains = settings.merge_domain_config
        self._atomic_refusal = settings.atomic_refusal
        self._statistics = statistics

    def compiled(self, bundle: Bundle) -> Rules:
        try:
            rules = compile_limits(
                bundle,
                merges_domains=self._merges_domains,
                options=self._options,
                atomic_refusal=self._atomic_refusal,
            )
        except InvalidInput:
            self._statistics.add("config_load_error")
            raise
        self._statistics.add("config_load_success")
        return rules
