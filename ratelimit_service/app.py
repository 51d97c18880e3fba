"""Puts the parts of ratelimit_service together; with its parts `app_counting` and `app_statistics`
the only place that builds adapters.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from meshwarden.adapters.configuration import Configuration, Source
from meshwarden.adapters.folder_source import FolderSource
from meshwarden.adapters.service import Service
from meshwarden.core.faults import Misconfigured, Problem
from meshwarden.core.snapshot import Bundle, Refused, SnapshotHolder
from meshwarden.core.snapshot import Outcome as Offered
from ratelimit_service import app_counting, app_statistics
from ratelimit_service.adapters import http_api
from ratelimit_service.adapters.configuration_health import ConfigurationHealth
from ratelimit_service.adapters.denial_log import DenialLog
from ratelimit_service.adapters.envoy_rls import ShouldRateLimit, decoded_json
from ratelimit_service.adapters.limiter import Limiter
from ratelimit_service.adapters.reference_page import variables_page
from ratelimit_service.adapters.runtime_folder import RuntimeListing
from ratelimit_service.adapters.statistics import Statistics
from ratelimit_service.app_counting import read_counters
from ratelimit_service.core.compile import compile_limits
from ratelimit_service.core.model import HeaderNames, Options, Rules
from ratelimit_service.core.object_rules import object_rules
from ratelimit_service.core.tree import configured_limits
from ratelimit_service.settings import Settings

if TYPE_CHECKING:
    from meshwarden.adapters.ads_source import AdsSource
    from meshwarden.adapters.kubernetes_source import KubernetesSource

__all__ = [
    "Settings",
    "build",
    "compiled",
    "decoded_json",
    "options",
    "read_counters",
    "source",
    "variables_page",
]


def source(settings: Settings) -> FolderSource:
    """The files that configure us. Raises `Misconfigured` when there is no folder."""
    if settings.configuration.folder is not None:
        return FolderSource(settings.configuration.folder)
    runtime = settings.runtime
    if runtime.root is None:
        raise Misconfigured(
            "no configuration: set --configuration.folder (or RUNTIME_ROOT) to a folder of limits, "
            "or --configuration.kubernetes.enabled"
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
        has_rule_metadata=answer.rule_metadata,
        rule_header=answer.rule_header,
        key_format=settings.store.key_format,
        key_prefix=settings.store.key_prefix,
        stops_when_over_limit=settings.store.stops_when_over_limit,
    )


def build(service: Service, settings: Settings) -> None:
    """Add the parts of ratelimit_service to `service`."""
    statistics = app_statistics.counted(service, settings)
    counting = app_counting.counting(service, settings, statistics)
    limiter = Limiter(
        counting.store,
        on_store_failure=settings.on_store_failure,
        approximation=counting.approximation,
        statistics=statistics,
        metrics=service.metrics,
        clock=counting.clock,
        denials=_denial_log(service, settings),
    )
    configuration = _configuration(service, settings, limiter, statistics)
    configuration.load()
    service.methods.append(ShouldRateLimit(limiter).method())
    service.health_names += ["ratelimit", "envoy.service.ratelimit.v3.RateLimitService"]
    service.routes += http_api.http_routes(limiter, readiness=service.readiness)
    reading = app_statistics.add_outputs(service, settings, statistics)
    debug_routes = http_api.debug_routes(limiter, statistics=reading)
    service.further_http.append((settings.debug.host, settings.debug.port, debug_routes))
    service.readiness.checks["configuration"] = ConfigurationHealth(
        configuration,
        lambda: limiter.rules,
        wanted=settings.health.configuration,
        starts_without=settings.configuration.starts_without,
    ).unready_reason
    service.readiness.details["configuration"] = configuration.status
    service.tasks.append(configuration.follow)


def _denial_log(service: Service, settings: Settings) -> DenialLog | None:
    if not settings.denial_log.enabled:
        return None
    denials = DenialLog(shows_values=settings.denial_log.shows_values, pause=asyncio.sleep)
    service.tasks.append(denials.run)
    return denials


def _configuration(
    service: Service, settings: Settings, limiter: Limiter, statistics: Statistics
) -> Configuration[Rules]:
    def apply(rules: Rules) -> None:
        limiter.rules = rules
        statistics.keep(configured_limits(rules.domains.values()))

    def count(outcome: Offered) -> None:
        is_refused = isinstance(outcome, Refused)
        statistics.add("config_load_error" if is_refused else "config_load_success")

    compile_bundle: Callable[[Bundle], Rules] = partial(compiled, settings)
    followed: Source
    if _is_watched(settings):
        compile_bundle, followed = _watched(service, settings, compile_bundle)
    elif settings.configuration.source == "xds":
        compile_bundle = partial(discovered, settings)
        followed = _stream(service, settings, count)
    else:
        followed = source(settings)
    return Configuration(
        SnapshotHolder(compile_bundle),
        followed,
        apply=apply,
        counts=_counts,
        metrics=service.metrics,
        resync_seconds=settings.configuration.resync_seconds,
        # A stream counts each of its responses, those without a change, too.
        told=(lambda _outcome: None) if settings.configuration.source == "xds" else count,
    )


def _is_watched(settings: Settings) -> bool:
    """Whether the limits are a cluster's objects. Raises `Misconfigured` where they are said to
    be elsewhere, too.
    """
    chosen = settings.configuration
    if not chosen.kubernetes.enabled:
        return False
    others = {
        "configuration.folder": chosen.folder is not None,
        "runtime.root (RUNTIME_ROOT)": settings.runtime.root is not None,
        "configuration.source=xds": chosen.source == "xds",
    }
    problems = [
        Problem("", 0, f"configuration.kubernetes.enabled is in place of {name}: choose one")
        for name, is_set in others.items()
        if is_set
    ]
    if problems:
        raise Misconfigured(problems)
    return True


def _watched(
    service: Service, settings: Settings, compile_bundle: Callable[[Bundle], Rules]
) -> tuple[Callable[[Bundle], Rules], KubernetesSource]:
    """The RateLimit objects of a cluster, as much of them as compiles."""
    from meshwarden.adapters.kubernetes_configuration import kubernetes_configuration

    acceptance, watched = kubernetes_configuration(
        service,
        settings.configuration.kubernetes,
        compile_bundle,
        object_rules(merges_domains=settings.merge_domain_config),
    )
    return acceptance.compiled, watched


def _stream(service: Service, settings: Settings, count: Callable[[Offered], None]) -> AdsSource:
    """The ADS server's limits; `count` hears of each response whose resources can be read, which
    are those that the reference counts.
    """
    from meshwarden.adapters.ads_channel import ads_credentials
    from meshwarden.adapters.ads_source import AdsSource
    from ratelimit_service.adapters.rate_limit_config import TYPE_URL, bundle_of

    def told(bundle: Bundle, outcome: Offered) -> None:
        if not bundle.unreadable:
            count(outcome)

    if settings.xds.tls:
        ads_credentials(settings.xds)
    stream = AdsSource(
        settings.xds,
        type_url=TYPE_URL,
        bundle_of=bundle_of,
        metrics=service.metrics,
        chance=random.random,
        told=told,
    )
    service.readiness.details["configuration_stream"] = stream.status
    return stream


def _counts(rules: Rules) -> dict[str, int]:
    """How much of what is configured."""
    limit_count = sum(1 for _ in configured_limits(rules.domains.values()))
    return {"domains": len(rules.domains), "limits": limit_count}


def compiled(settings: Settings, bundle: Bundle) -> Rules:
    """The rules that files describe. Raises `InvalidInput` with all that is wrong in them."""
    return compile_limits(
        bundle,
        merges_domains=settings.merge_domain_config,
        options=options(settings),
        takes_every_file=settings.configuration.folder is None,
        atomic_refusal=settings.atomic_refusal,
    )


def discovered(settings: Settings, bundle: Bundle) -> Rules:
    """The rules that a stream's resources describe. Raises `InvalidInput` likewise."""
    from ratelimit_service.adapters.rate_limit_config import compile_discovered

    return compile_discovered(
        bundle, merges_domains=settings.merge_domain_config, options=options(settings)
    )
