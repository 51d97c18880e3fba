"""The service configured by an ADS server, as Envoy Gateway configures it: no files at all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import httpx2
import pytest

from tests.support.ads_server import AdsServer, config, limited, stream_arguments
from tests.support.limit_service import Served, served
from tests.support.ports import free_port
from tests.support.processes import wait_until


@dataclass(frozen=True)
class Unconfigured:
    """What a service said while it had no configuration."""

    ready: httpx2.Response
    healthcheck: httpx2.Response
    health: str
    refusal: grpc.RpcError


@dataclass
class Streamed:
    """The service, its ADS server on a port that stays, and what was said before the first
    response.
    """

    service: Served
    control: AdsServer
    before: Unconfigured


def observed(service: Served) -> Unconfigured:
    with pytest.raises(grpc.RpcError) as refused:
        service.ask("one")
    return Unconfigured(
        httpx2.get(f"{service.http}/readyz"),
        httpx2.get(f"{service.http}/healthcheck"),
        service.health(),
        refused.value,
    )


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Streamed]:
    port = free_port()
    control = AdsServer(port)
    arguments = stream_arguments(
        control.address, **{"xds.connect-retry-seconds": 0.1, "xds.backoff-initial-seconds": 0.1}
    )
    folder = tmp_path_factory.mktemp("empty")
    with served(folder, *arguments, waits_for_ready=False) as service:
        wait_until(lambda: control.streams, "the service asks")
        before = observed(service)
        control.send("v0", config("first", "domain", limited("one")))
        service.process.wait_until(service.is_ready, "the service is ready")
        made = Streamed(service, control, before)
        yield made
        made.control.stop()
        began = time.monotonic()
        assert service.process.stop() == 0
        assert time.monotonic() - began < 3


def load_counts(service: Served) -> tuple[int, int]:
    """How many configurations were accepted and refused, as `/stats` says."""
    found = dict(line.split(": ") for line in service.lines("/stats"))
    names = ("config_load_success", "config_load_error")
    success, error = (int(found[f"ratelimit.service.{name}"]) for name in names)
    return success, error


def test_without_a_configuration_it_serves_and_is_not_ready(streamed: Streamed):
    before = streamed.before
    assert (before.ready.status_code, before.healthcheck.status_code) == (503, 500)
    assert before.ready.json()["reasons"]["configuration"] == "no configuration is loaded yet"
    assert before.health == "NOT_SERVING"
    assert before.refusal.code() is grpc.StatusCode.UNKNOWN
    assert before.refusal.details() == "no rate limit configuration loaded"
    assert streamed.control.streams[0].requests[0].node.id == "edge"


def test_limits_from_the_stream_hold_and_are_listed(streamed: Streamed):
    answer = streamed.control.send(
        "v1", config("a", "domain", limited("one")), config("b", "other", limited("k", 5, "DAY"))
    )
    assert not answer.HasField("error_detail")
    service = streamed.service
    assert [service.ask("one", "stream").overall_code for _ in range(2)] == [1, 2]
    assert sorted(service.lines("/rlconfig")) == [
        "domain.one: unit=YEAR requests_per_unit=1, shadow_mode: false, quota_mode: false",
        "other.k: unit=DAY requests_per_unit=5, shadow_mode: false, quota_mode: false",
    ]


def test_each_response_is_counted_as_the_reference_counts_it(streamed: Streamed):
    """Accepted ones, the same ones again, refused ones; what can't be read is not counted."""
    control, service = streamed.control, streamed.service
    good, bad = config("good", "domain", limited("one")), config("bad", "")
    control.send("c0", config("start", "start"))
    success, error = load_counts(service)
    control.send("c1", good)
    control.send("c2", good)
    control.send("c3", bad)
    control.send("c4", bad)
    control.send("c5", good, type_url="type.googleapis.com/other")
    assert load_counts(service) == (success + 2, error + 2)
    assert [service.ask("one", "counted").overall_code for _ in range(2)] == [1, 2]


def test_while_the_server_is_away_the_last_good_configuration_serves(streamed: Streamed):
    service = streamed.service
    streamed.control.send("w1", config("kept", "kept", limited("one")))
    streamed.control.stop()
    wait_until(lambda: service.metric("configuration_stream_is_open 0.0"), "it is cut")
    assert service.is_ready()
    assert service.ask("one", "away", domain="kept").overall_code == 1
    shown = httpx2.get(f"{service.http}/readyz?verbose").json()["configuration_stream"]
    assert (shown["is_open"], shown["version"]) == (False, "w1")
    streamed.control = AdsServer(streamed.control.port)
    streamed.control.send("w2", config("back", "back", limited("one")))
    assert service.ask("one", "back", domain="back").overall_code == 1
    assert streamed.control.stream.requests[0].version_info == "w1"
