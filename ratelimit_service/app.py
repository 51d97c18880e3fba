"""Puts the parts of ratelimit_service together; the only place that builds its adapters."""

from __future__ import annotations

import asyncio
import random
import time

from meshwarden.adapters.configuration import Configuration
from meshwarden.adapters.folder_source import FolderSource
from meshwarden.adapters.service import Service
from meshwarden.core.faults import InvalidInput, Misconfigured
from meshwarden.core.snapshot import Bundle, SnapshotHolder
from ratelimit_service.adapters import http_api
from ratelimit_service.adapters.configuration_health import ConfigurationHealth
from ratelimit_service.adapters.envoy_rls import ShouldRateLimit
from ratelimit_service.adapters.limiter import Limiter, Store
from ratelimit_service.adapters.memory_store import MemoryStore
from ratelimit_service.adapters.redis_watch import RedisWatch
from ratelimit_service.adapters.reference_page import variables_page
from ratelimit_service.adapters.runtime_folder import RuntimeListing
from ratelimit_service.adapters.statistics import Statistics
from ratelimit_service.core.compile import compile_limits
from ratelimit_service.core.model import HeaderNames, Options, Rules
from ratelimit_service.core.tree import described_limits
from ratelimit_service.settings import Settings

__all__ = ["Settings", "build", "options", "source", "variables_page"]


def source(settings: Settings) -> FolderSource:
    """The files that configure us. Raises `Misconfigured` when there is no folder."""
    if settings.configuration.folder is not None:
        return FolderSource(settings.configuration.folder)
    runtime = settings.runtime
    if runtime.root is None:
        raise Misconfigured(
            "no configuration: set --configuration.folder (or RUNTIME_ROOT) to a folder of limits"
        )
    listing = RuntimeListing(
        runtime.subdirectory,
        runtime.app_directory,
        watches_root=runtime.watches_root,
        ignores_dot_files=runtime.ignores_dot_files,
    )
    return FolderSource(runtime.root, listing=listing)


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
    )


def build(service: Service, settings: Settings) -> None:
    """Add the parts of ratelimit_service to `service`."""
    statistics = Statistics(
        near_limit_ratio=settings.statistics.near_limit_ratio,
        names_at_most=settings.statistics.names_at_most,
    )
    limiter = Limiter(
        _store(service, settings),
        on_store_failure=settings.on_store_failure,
        statistics=statistics,
        metrics=service.metrics,
        clock=time.time,
    )

    def apply(rules: Rules) -> None:
        limiter.rules = rules

    configuration = Configuration(
        SnapshotHolder(_Compiler(settings, statistics).compiled),
        source(settings),
        apply=apply,
        counts=_counts,
        metrics=service.metrics,
        resync_seconds=settings.configuration.resync_seconds,
    )
    configuration.load()
    service.methods.append(ShouldRateLimit(limiter, statistics=statistics).method())
    service.health_names += ["ratelimit", "envoy.service.ratelimit.v3.RateLimitService"]
    service.routes += http_api.http_routes(limiter, readiness=service.readiness)
    debug_routes = http_api.debug_routes(limiter, statistics=statistics)
    service.further_http.append((settings.debug.host, settings.debug.port, debug_routes))
    service.readiness.checks["configuration"] = ConfigurationHealth(
        configuration,
        lambda: limiter.rules,
        wanted=settings.health.configuration,
        starts_without=settings.configuration.starts_without,
    ).unready_reason
    service.readiness.details["configuration"] = configuration.status
    service.tasks.append(configuration.follow)


def _store(service: Service, settings: Settings) -> Store:
    if settings.store.kind == "memory":
        memory = MemoryStore(counters_at_most=settings.store.memory_counters_at_most)
        service.metrics.gauge(
            "ratelimit_memory_counters", "Counters in memory.", lambda: memory.counter_count
        )
        return memory
    from ratelimit_service.adapters.redis_store import RedisStore

    jitter_at_most = settings.store.expiration_jitter_seconds
    store = RedisStore(
        settings.redis.url,
        auth=settings.redis.auth.get_secret_value(),
        time_limit_seconds=settings.redis.time_limit_seconds,
        jitter=lambda: int(random.random() * jitter_at_most),  # noqa: S311 - spreads expiry
    )
    watch = RedisWatch(
        store.ping,
        metrics=service.metrics,
        pause=asyncio.sleep,
        stays_ready=not settings.health.follows_store,
    )
    service.readiness.checks["store"] = watch.unready_reason
    service.readiness.details["store"] = watch.status
    service.tasks.append(watch.run)
    service.closers.append(store.close)
    return store


def _counts(rules: Rules) -> dict[str, int]:
    """How much of what is configured."""
    limits = described_limits(rules.domains.values())
    return {"domains": len(rules.domains), "limits": len(limits)}


class _Compiler:
    """Compiles bundles, and counts each version once as the reference counts its loads."""

    def __init__(self, settings: Settings, statistics: Statistics) -> None:
        self._options = options(settings)
        self._merges_domains = settings.merge_domain_config
        self._takes_every_file = settings.configuration.folder is None
        self._statistics = statistics

    def compiled(self, bundle: Bundle) -> Rules:
        try:
            rules = compile_limits(
                bundle,
                merges_domains=self._merges_domains,
                options=self._options,
                takes_every_file=self._takes_every_file,
            )
        except InvalidInput:
            self._statistics.add("config_load_error")
            raise
        self._statistics.add("config_load_success")
        return rules
