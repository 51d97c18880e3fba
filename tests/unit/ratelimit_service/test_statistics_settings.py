"""Where statistics go is set, and what can't be used is told at start."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshwarden.adapters.redis_topology import connect
from meshwarden.adapters.service import Service
from meshwarden.adapters.settings import load
from meshwarden.core.faults import Misconfigured
from ratelimit_service import app_statistics
from ratelimit_service.core.model import Increment
from ratelimit_service.core.over_limit_cache import OverLimitCache
from ratelimit_service.core.window import Unit, Window
from ratelimit_service.settings import Settings, parse_address

PROMETHEUS = "--statistics.prometheus.enabled"
STATSD = "--statistics.statsd.enabled"
DOGSTATSD = "--statistics.dogstatsd.enabled"


def settings(*arguments: str) -> Settings:
    return load(Settings, arguments, "ratelimit_service")


def built(*arguments: str) -> Service:
    """A service with the outputs that `arguments` ask for."""
    found = settings(*arguments)
    service = Service("ratelimit_service", found)
    statistics = app_statistics.counted(service, found)
    app_statistics.add_outputs(service, found, statistics)
    return service


@pytest.mark.parametrize(
    ("text", "address"),
    [(":9090", ("0.0.0.0", 9090)), ("10.0.0.1:80", ("10.0.0.1", 80)), ("[::1]:0", ("::1", 0))],
)
def test_an_address_is_read_as_go_writes_it(text: str, address: tuple[str, int]):
    assert parse_address(text) == address


def test_every_fault_of_the_outputs_is_told_at_once():
    with pytest.raises(Misconfigured) as refused:
        settings(
            *("--statistics.extra-tags", "a:b:c", "--statistics.prometheus.address", "9090"),
            *("--statistics.prometheus.path", "metrics", "--statistics.statsd.port", "0"),
        )
    for name in ("extra_tags", "prometheus.address", "prometheus.path", "statsd.port"):
        assert f"statistics.{name}" in str(refused.value)


def test_what_is_pushed_goes_one_way_and_prometheus_may_be_asked_besides():
    with pytest.raises(Misconfigured, match="only one of statsd, dogstatsd and logged"):
        settings(STATSD, DOGSTATSD)
    assert settings(STATSD, PROMETHEUS).addresses()[-1] == ("0.0.0.0", 9090)
    service = built(STATSD, PROMETHEUS)
    assert [address for *address, _ in service.further_http] == [["0.0.0.0", 9090]]
    assert len(service.tasks) == 1


def test_disabled_statistics_go_nowhere():
    found = settings("--statistics.disabled", STATSD, DOGSTATSD, PROMETHEUS)
    assert ("0.0.0.0", 9090) not in found.addresses()
    service = built("--statistics.disabled", STATSD, PROMETHEUS)
    assert (service.further_http, service.tasks) == ([], [])


def test_a_mapping_file_that_can_not_be_used_is_refused_by_its_name(tmp_path: Path):
    file = tmp_path / "mapper.yaml"
    argument = ("--statistics.prometheus.mapper-file", str(file))
    with pytest.raises(Misconfigured, match="can't be read"):
        built(PROMETHEUS, *argument)
    file.write_text("mappings: [{match: a, name: b, ttl: 1s}]")
    with pytest.raises(Misconfigured, match=r"mapper\.yaml: mappings\[0\]\.ttl: not supported"):
        built(PROMETHEUS, *argument)


def test_a_mogrifier_without_its_variables_is_refused():
    with pytest.raises(Misconfigured, match="DOG_STATSD_MOGRIFIER_A_PATTERN: not set"):
        built(DOGSTATSD, "--statistics.dogstatsd.mogrifiers", "a")


def test_the_pools_of_redis_and_the_cache_have_the_references_names():
    found = settings()
    statistics = app_statistics.counted(Service("ratelimit_service", found), found)
    cache = OverLimitCache(bytes_at_most=1000)
    app_statistics.watch_cache(statistics, cache)
    app_statistics.watch_redis(statistics, "redis_pool", connect(found.redis))
    increment = Increment("key", 1, Window.of(Unit.YEAR, now=9), 1)
    cache.keep(increment, 2)
    cache.count_of(increment, now=9)
    reading = statistics.reading()
    assert {name: value for name, value in reading.gauges.items() if value} == {
        "ratelimit.localcache.entryCount": 1,
        "ratelimit.localcache.hitCount": 1,
        "ratelimit.localcache.lookupCount": 1,
    }
    assert reading.gauges["ratelimit.redis_pool.cx_active"] == 0
    names = ("ratelimit.redis_pool.cx_total", "ratelimit.redis_pool.cx_local_close")
    assert [reading.counters[name] for name in names] == [0, 0]
