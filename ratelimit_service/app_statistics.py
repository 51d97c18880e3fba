"""The statistics' part of `app`: where they go, and who is asked for them.

Statistics -> changes, timings, gauges -> StatisticsPush -> statsd, DogStatsD, or the log
           -> reading (of all workers) -> /stats, the Prometheus page
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from meshwarden.adapters import workers
from meshwarden.adapters.service import Service
from meshwarden.core.faults import Misconfigured, Problem
from ratelimit_service.adapters.line_senders import LogSender, Sender, TcpSender, UdpSender
from ratelimit_service.adapters.mogrifiers import mogrifiers
from ratelimit_service.adapters.shared_statistics import SharedStatistics
from ratelimit_service.adapters.statistics import Statistics
from ratelimit_service.adapters.statistics_push import TIMINGS_AT_MOST, StatisticsPush
from ratelimit_service.core.default_mapping import default_mapping
from ratelimit_service.core.log_lines import log_line
from ratelimit_service.core.name_mapping import NameMapping, compile_mapping, read_mapping
from ratelimit_service.core.over_limit_cache import OverLimitCache
from ratelimit_service.core.prometheus_page import prometheus_page
from ratelimit_service.core.reading import Reading
from ratelimit_service.core.statsd_lines import (
    Line,
    dogstatsd_line,
    parse_tags,
    statsd_line,
    tag_suffix,
)
from ratelimit_service.settings import Settings, parse_address

if TYPE_CHECKING:
    from meshwarden.adapters.redis_topology import Redis

LOGGED_TIMINGS_AT_MOST = 1_000

CACHE_GAUGES = {
    "evacuateCount": "evacuate_count",
    "expiredCount": "expired_count",
    "entryCount": "entry_count",
    "hitCount": "hit_count",
    "missCount": "miss_count",
    "lookupCount": "lookup_count",
    "overwriteCount": "overwrite_count",
}
"""The reference's name to ours; its averageAccessTime is left out, since ours keeps no times."""

ReadStatistics = Callable[[], Reading]


def counted(service: Service, settings: Settings) -> Statistics:
    """The statistics, told of every call; `add_outputs` says where they go."""
    lost = service.metrics.tally(
        "ratelimit_statistics_dropped",
        "Statistics that went nowhere: names idle longest, which made room; lines and datagrams "
        "that did not arrive; timings beyond what a flush sends.",
        ["what"],
    )
    statistics = Statistics(
        near_limit_ratio=settings.statistics.near_limit_ratio,
        names_at_most=settings.statistics.names_at_most,
        dropped=lambda what, count: lost.add(what, count=count),
    )
    service.metrics.gauge(
        "ratelimit_statistics_names", "Names of statistics.", lambda: statistics.name_count
    )
    service.observe_call = statistics.observe_call
    return statistics


def add_outputs(service: Service, settings: Settings, statistics: Statistics) -> ReadStatistics:
    """Add to `service` what the settings ask for; gives the reading of all workers.

    Raises `Misconfigured` for a mapping file or a mogrifier that can't be used.
    """
    read = _shared(service, statistics)
    if settings.statistics.disabled:
        return read
    _add_push(service, settings, statistics)
    prometheus = settings.statistics.prometheus
    if prometheus.enabled:
        mapping = _mapping(prometheus.mapper_file)
        suffix = tag_suffix(parse_tags(settings.statistics.extra_tags))
        routes = [_page(prometheus.path, lambda: prometheus_page(read(), mapping, suffix=suffix))]
        service.further_http.append((*parse_address(prometheus.address), routes))
    return read


def watch_redis(statistics: Statistics, name: str, redis: Redis) -> None:
    """Show the connections of `redis` as the reference's pool `name`."""
    statistics.watch(f"ratelimit.{name}", redis.connections, gauges=["cx_active"])


def watch_cache(statistics: Statistics, cache: OverLimitCache) -> None:
    """Show the cache as the reference's local cache, whose every figure is a gauge."""

    def read() -> dict[str, int]:
        found = cache.figures()
        return {name: getattr(found, field) for name, field in CACHE_GAUGES.items()}

    statistics.watch("ratelimit.localcache", read, gauges=CACHE_GAUGES)


def _shared(service: Service, statistics: Statistics) -> ReadStatistics:
    """Reads the statistics of all workers of this service."""
    place = workers.shared_place()
    if place is None:
        return statistics.reading
    shared = SharedStatistics(statistics, place.folder, place.worker)
    service.tasks.append(shared.run)
    service.closers.append(shared.close)
    return shared.reading


def _add_push(service: Service, settings: Settings, statistics: Statistics) -> None:
    chosen = _push(settings, statistics)
    if chosen is None:
        return
    sender, line = chosen
    push = StatisticsPush(
        statistics,
        sender,
        line=line,
        interval_seconds=settings.statistics.flush_interval_seconds,
        pause=asyncio.sleep,
        timings_at_most=LOGGED_TIMINGS_AT_MOST if settings.statistics.logged else TIMINGS_AT_MOST,
    )
    service.tasks.append(push.run)
    service.closers.append(push.close)


def _push(settings: Settings, statistics: Statistics) -> tuple[Sender, Line] | None:
    """Where lines are sent, and how they are written; None: nowhere."""
    chosen = settings.statistics
    tags = parse_tags(chosen.extra_tags)
    address = (chosen.statsd.host, chosen.statsd.port)
    datagrams = UdpSender(*address, refused=lambda: statistics.dropped("datagrams", 1))
    if chosen.dogstatsd.enabled:
        names = [name for name in chosen.dogstatsd.mogrifiers.split(",") if name]
        return datagrams, dogstatsd_line(tags, mogrifiers(names, os.environ))
    if chosen.statsd.enabled:
        sender = datagrams if chosen.statsd.protocol == "udp" else TcpSender(*address)
        return sender, statsd_line(tags)
    if chosen.logged:
        return LogSender(sys.stderr), log_line(tag_suffix(tags), time.time)
    return None


def _mapping(file: Path | None) -> NameMapping:
    """The mapping of `file`, or the reference's default."""
    if file is None:
        return compile_mapping(default_mapping())
    try:
        return read_mapping(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"the mapping file {file} can't be read: {error}") from None
    except Misconfigured as fault:
        raise Misconfigured(
            Problem(str(file), 0, problem.what, problem.hint) for problem in fault.problems
        ) from None


def _page(path: str, text: Callable[[], str]) -> BaseRoute:
    async def show(_request: Request) -> Response:
        return Response(
            await asyncio.to_thread(text), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    return Route(path, show)
