"""The running service sends its statistics to a real statsd and shows them to Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tests.support.limit_service import Served, served
from tests.support.line_listener import LineListener, listening
from tests.support.ports import free_port
from tests.support.processes import wait_until
from tests.support.redis_server import running_redis

LIMITS = """
domain: domain
descriptors:
- {key: one, rate_limit: {unit: year, requests_per_unit: 1}}
- {key: many, value: a, rate_limit: {unit: year, requests_per_unit: 1000}}
"""
LIMIT = "ratelimit.service.rate_limit.domain"


@dataclass(frozen=True)
class Watched:
    service: Served
    prometheus: str

    def samples(self) -> list[str]:
        lines = httpx2.get(self.prometheus).text.splitlines()
        return [line for line in lines if not line.startswith("#")]

    def statistic(self, name: str) -> int:
        lines = dict(line.rsplit(": ", 1) for line in self.service.lines("/stats"))
        return int(lines.get(name, "0"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("limits")
    (found / "limits.yaml").write_text(LIMITS)
    return found


def prometheus(stack: ExitStack, folder: Path, *arguments: str, **environment: str) -> Watched:
    """The service with its Prometheus page, flushing twenty times a second."""
    port = free_port()
    own = ["--statistics.prometheus.enabled", "--statistics.flush-interval-seconds", "0.05"]
    own += ["--statistics.prometheus.address", f"127.0.0.1:{port}"]
    service = stack.enter_context(served(folder, *own, *arguments, environment=environment))
    return Watched(service, f"http://127.0.0.1:{port}/metrics")


@pytest.fixture(scope="module")
def statsd_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def watched(folder: Path, statsd_port: int) -> Iterator[Watched]:
    """It sends to a statsd that is not there yet."""
    with ExitStack() as stack:
        yield prometheus(
            stack,
            folder,
            *("--statistics.statsd.enabled", "--statistics.statsd.host", "127.0.0.1"),
            *("--statistics.statsd.port", str(statsd_port), "--statistics.extra-tags", "zone:a.b"),
        )


def test_statsd_gets_every_count_even_of_while_it_was_away(watched: Watched, statsd_port: int):
    for value in "xyz":
        watched.service.ask("one", value)
        watched.service.ask("one", value)
    assert watched.service.is_ready()
    with listening("tcp", statsd_port) as listener:
        _wait_for(listener, f"{LIMIT}.one.total_hits.__zone=a_b", 6)
        watched.service.ask("one", "x")
        _wait_for(listener, f"{LIMIT}.one.total_hits.__zone=a_b", 7)
        assert listener.counters()[f"{LIMIT}.one.over_limit.__zone=a_b"] == 4
        wait_until(lambda: _timings(listener) == 7, "every call's time came")
    with listening("tcp", statsd_port) as listener:
        watched.service.ask("one", "x")
        _wait_for(listener, f"{LIMIT}.one.total_hits.__zone=a_b", 1)
    assert not watched.service.process.errors


def test_the_debug_port_shows_the_statistics(watched: Watched):
    before = watched.statistic(f"{LIMIT}.many_a.total_hits")
    watched.service.ask("many", "a")
    watched.service.ask("nothing", domain="un.known")
    watched.service.health()
    assert watched.statistic(f"{LIMIT}.many_a.total_hits") == before + 1
    assert watched.statistic("ratelimit.service.rate_limit.un.known.domain_not_found") == 1
    assert watched.statistic("ratelimit_server.ShouldRateLimit.total_requests") >= 2
    assert watched.statistic("ratelimit_server.Check.total_requests") == 1


def test_of_two_workers_each_shows_the_statistics_of_all(folder: Path):
    """DogStatsD adds the datagrams of both up by itself."""
    mogrifier = {
        "DOG_STATSD_MOGRIFIER_LIMIT_PATTERN": r"^ratelimit\.service\.rate_limit\.(.*)\.(.*)\.(.*)$",
        "DOG_STATSD_MOGRIFIER_LIMIT_NAME": "limit.$3",
        "DOG_STATSD_MOGRIFIER_LIMIT_TAGS": "domain:$1,rule:$2",
    }
    total = 'ratelimit_service_rate_limit_total_hits{domain="domain",key1="many_a"}'
    with ExitStack() as stack:
        redis = stack.enter_context(running_redis())
        listener = stack.enter_context(listening("udp"))
        both = prometheus(
            stack,
            folder,
            *("--workers", "2", "--store.kind", "redis", "--redis.url", redis.url),
            *("--statistics.dogstatsd.enabled", "--statistics.dogstatsd.mogrifiers", "limit"),
            *("--statistics.statsd.host", "127.0.0.1"),
            *("--statistics.statsd.port", str(listener.port)),
            **mogrifier,
        )
        for _ in range(20):
            both.service.ask("many", "a")
        _wait_for(listener, "limit.total_hits#domain:domain,rule:many_a", 20)
        # Connections go to one worker or the other, and so do these questions.
        for _ in range(6):
            wait_until(lambda: f"{total} 20" in both.samples(), "the page shows all")
            wait_until(
                lambda: both.statistic(f"{LIMIT}.many_a.total_hits") == 20, "/stats shows all"
            )


def _wait_for(listener: LineListener, name: str, value: int) -> None:
    wait_until(lambda: listener.counters()[name] == value, f"{name} is {value}")


def _timings(listener: LineListener) -> int:
    start = "ratelimit_server.ShouldRateLimit.response_time.__zone=a_b:"
    return sum(line.startswith(start) and line.endswith("|ms") for line in listener.lines)
