"""What fails behind Envoy (upstream, authorizer, rate-limit service), and what happens then."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from meshwarden.adapters.envoy import EnvoyOptions, bootstrap
from ratelimit_service.adapters.envoy_rls import response
from ratelimit_service.core.decide import decide
from ratelimit_service.core.model import Options
from tests.support import envoy_services
from tests.support.envoy import running_envoy
from tests.support.envoy_mesh import Mesh, problem
from tests.support.limits import DictionaryCounters, descriptor, request, rules
from tests.support.ports import free_port
from tests.support.processes import wait_until

pytestmark = pytest.mark.timeout(30)


def test_a_post_is_executed_once_though_its_upstream_resets(mesh: Mesh) -> None:
    assert mesh.client.post("/reset", content=b"x").status_code == 503
    assert mesh.upstream.executions == {"POST /reset": 1}


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_client_cannot_ask_for_a_post_to_be_repeated(mesh: Mesh, method: str) -> None:
    """Loopback and private addresses are Envoy's default of whom to trust with these headers."""
    headers = {"x-envoy-retry-on": "reset,5xx", "x-envoy-max-retries": "5"}
    mesh.client.request(method, "/reset", headers=headers)
    mesh.client.request(method, "/503", headers=headers)
    assert mesh.upstream.executions == {f"{method} /reset": 1, f"{method} /503": 1}


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_an_idempotent_request_is_retried_twice(mesh: Mesh, method: str) -> None:
    answer = mesh.client.request(method, "/reset")
    assert answer.status_code == 503
    assert problem(answer)["reason"] == "upstream_unavailable"
    assert mesh.client.request(method, "/503").status_code == 503
    assert mesh.upstream.executions == {f"{method} /reset": 3, f"{method} /503": 3}


def test_when_everything_fails_retries_stay_within_their_budget(mesh: Mesh) -> None:
    """A fifth of the twenty in flight: four retried twice; without a budget it would be all."""
    together = mesh.upstream.gather(requests=20)
    options = EnvoyOptions(
        listen_port=0,
        admin_port=0,
        upstream_port=mesh.upstream.port,
        ext_authz_enabled=False,
        ratelimit_enabled=False,
    )
    with (
        running_envoy(bootstrap(options)) as envoy,
        httpx2.Client(base_url=envoy.gateway, timeout=15) as client,
        ThreadPoolExecutor(20) as threads,
    ):
        answers = list(threads.map(client.get, [together] * 20))
        assert {answer.status_code for answer in answers} == {503}
        assert envoy.stat("cluster.upstream.upstream_rq_retry_overflow") > 0
    assert mesh.upstream.executions[f"GET {together}"] <= 30


def test_a_lone_upstream_that_fails_is_still_asked(mesh: Mesh) -> None:
    """Outlier detection may rest half of the hosts: of one host, none."""
    for _ in range(12):
        assert mesh.client.post("/500").status_code == 500
    assert mesh.client.get("/orders").status_code == 200
    assert mesh.envoy.stat("cluster.upstream.outlier_detection.ejections_active") == 0


def test_a_slow_authorizer_is_waited_for_and_asked_once(mesh: Mesh) -> None:
    mesh.authorizer.answer = envoy_services.late(envoy_services.allowed(), seconds=0.1)
    assert mesh.client.get("/orders").status_code == 200
    assert len(mesh.authorizer.asked) == 1


def test_a_silent_authorizer_is_asked_once_and_given_up_at_the_time_limit(mesh: Mesh) -> None:
    with envoy_services.hanging(mesh.authorizer):
        answer = mesh.client.get("/silent-authorizer")
    assert answer.status_code == 503
    assert problem(answer)["reason"] == "authorizer_unavailable"
    assert mesh.logged("/silent-authorizer")["reason"] == "authorizer_unavailable"
    assert 0.15 <= answer.elapsed.total_seconds() < 1
    assert len(mesh.authorizer.asked) == 1
    assert not mesh.upstream.executions


def test_a_slow_rate_limit_service_is_obeyed_and_asked_once(mesh: Mesh) -> None:
    over_limit = envoy_services.over_limit(per_minute=5, seconds_left=42)
    mesh.limiter.answer = envoy_services.late(over_limit, seconds=0.1)
    assert mesh.client.get("/orders").status_code == 429
    assert len(mesh.limiter.asked) == 1


def test_a_silent_rate_limit_service_delays_a_request_by_its_time_limit_alone(mesh: Mesh) -> None:
    with envoy_services.hanging(mesh.limiter):
        answer = mesh.client.get("/orders")
    assert answer.status_code == 200
    assert 0.1 <= answer.elapsed.total_seconds() < 1
    assert len(mesh.limiter.asked) == 1


def test_a_request_that_passed_uncounted_is_told_by_its_log_entry_and_a_counter(mesh: Mesh) -> None:
    """The entry tells it where the rate-limit service sends dynamic metadata, a setting of its."""
    mesh.limiter.answer = lambda _request: envoy_services.within_limit(domain="quickstart")
    uncounted = mesh.envoy.stat("cluster.upstream.ratelimit.failure_mode_allowed")
    mesh.client.get("/counted")
    assert mesh.logged("/counted")["limit_domain"] == "quickstart"
    assert mesh.envoy.stat("cluster.upstream.ratelimit.failure_mode_allowed") == uncounted
    with envoy_services.hanging(mesh.limiter):
        mesh.client.get("/uncounted")
    assert "limit_domain" not in mesh.logged("/uncounted")
    assert mesh.envoy.stat("cluster.upstream.ratelimit.failure_mode_allowed") == uncounted + 1


def test_the_limit_that_decided_stands_in_the_access_log_and_in_a_header(mesh: Mesh) -> None:
    """What our service answers where both are switched on, encoded as it does, within and over."""
    options = Options(has_rule_metadata=True, rule_header="x-ratelimit-rule")
    limits = "{domain: d, descriptors: [{key: k, rate_limit: {unit: day, requests_per_unit: 1}}]}"
    compiled, counters = rules(limits, options=options), DictionaryCounters()
    asked = request(descriptor(("k", "client-value")), domain="d")
    mesh.limiter.answer = lambda _request: response(decide(asked, compiled, counters, 0))
    within, over = mesh.client.get("/within"), mesh.client.get("/over")
    assert (within.status_code, over.status_code) == (200, 429)
    for path, answer in (("/within", within), ("/over", over)):
        assert answer.headers["x-ratelimit-rule"] == "d.k"
        entry = mesh.logged(path)
        assert entry["limit_rule"] == "d.k"
        assert "client-value" not in str(entry)


def test_an_authorizer_that_died_silently_is_noticed_within_five_seconds() -> None:
    """It accepts connections, as its kernel does, and never says a word."""
    with (
        envoy_services.upstream() as upstream,
        socket.create_server(("127.0.0.1", 0)) as silent,
    ):
        options = EnvoyOptions(
            listen_port=0,
            admin_port=0,
            upstream_port=upstream.port,
            ext_authz_port=silent.getsockname()[1],
            ratelimit_enabled=False,
        )
        with running_envoy(bootstrap(options)) as envoy:
            answer = httpx2.get(f"{envoy.gateway}/orders")
            assert answer.status_code == 503
            assert answer.elapsed.total_seconds() < 1
            wait_until(
                lambda: envoy.stat("cluster.ext_authz.http2.keepalive_timeout"),
                "Envoy gives the connection up",
                limit_seconds=5,
            )
        assert not upstream.executions


def test_without_an_authorizer_nothing_passes() -> None:
    with envoy_services.upstream() as upstream, envoy_services.rate_limiter() as limiter:
        options = EnvoyOptions(
            listen_port=0,
            admin_port=0,
            upstream_port=upstream.port,
            ext_authz_port=free_port(),
            ratelimit_port=limiter.port,
        )
        with running_envoy(bootstrap(options)) as envoy:
            answer = httpx2.get(f"{envoy.gateway}/orders")
            assert envoy.stat("cluster.ext_authz.upstream_rq_retry") == 1
        assert answer.status_code == 503
        assert problem(answer)["reason"] == "authorizer_unavailable"
        assert not upstream.executions
        assert not limiter.asked


def test_without_a_rate_limit_service_everything_passes() -> None:
    with envoy_services.upstream() as upstream, envoy_services.authorizer() as authorizer:
        options = EnvoyOptions(
            listen_port=0,
            admin_port=0,
            upstream_port=upstream.port,
            ext_authz_port=authorizer.port,
            ratelimit_port=free_port(),
        )
        with running_envoy(bootstrap(options)) as envoy:
            assert httpx2.get(f"{envoy.gateway}/orders").status_code == 200
        assert upstream.executions == {"GET /orders": 1}
