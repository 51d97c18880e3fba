"""The rendered bootstrap on the real Envoy, in front of servers that answer what a test wants."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Event
from typing import Any

import httpx2
import pytest
import yaml
from pydantic import ValidationError

from meshwarden.adapters.envoy import EnvoyOptions, bootstrap, to_yaml
from tests.support import envoy_services
from tests.support.envoy import RunningEnvoy, running_envoy, validate
from tests.support.envoy_services import GrpcService, Upstream
from tests.support.ports import free_port
from tests.support.processes import CHECKOUT, wait_until

pytestmark = pytest.mark.timeout(30)

BARE = EnvoyOptions(
    listen_port=0,
    admin_port=0,
    ext_authz_enabled=False,
    ratelimit_enabled=False,
    local_rate_limit_enabled=False,
)
SECRET = "s3cr3t"


@dataclass
class Mesh:
    """One Envoy with everything switched on, and the servers behind it."""

    envoy: RunningEnvoy
    authorizer: GrpcService
    limiter: GrpcService
    upstream: Upstream
    client: httpx2.Client

    def logged(self, path: str) -> dict[str, Any]:
        """The newest access log entry of `path`, once it is written."""

        def entries() -> list[dict[str, Any]]:
            return [entry for entry in self.envoy.access_log if entry.get("path") == path]

        wait_until(entries, f"{path} is in the access log")
        return entries()[-1]


@pytest.fixture(scope="module")
def running_mesh() -> Iterator[Mesh]:
    with (
        envoy_services.upstream() as upstream,
        envoy_services.authorizer() as authorizer,
        envoy_services.rate_limiter() as limiter,
    ):
        options = EnvoyOptions(
            listen_port=0,
            admin_port=0,
            upstream_port=upstream.port,
            ext_authz_port=authorizer.port,
            ratelimit_port=limiter.port,
        )
        with (
            running_envoy(bootstrap(options)) as envoy,
            httpx2.Client(base_url=envoy.gateway) as client,
        ):
            yield Mesh(envoy, authorizer, limiter, upstream, client)


@pytest.fixture
def mesh(running_mesh: Mesh) -> Mesh:
    """The module's mesh, allowing everything, with empty records."""
    running_mesh.authorizer.answer = lambda _request: envoy_services.allowed()
    running_mesh.limiter.answer = lambda _request: envoy_services.within_limit()
    running_mesh.authorizer.asked.clear()
    running_mesh.limiter.asked.clear()
    running_mesh.upstream.executions.clear()
    return running_mesh


def problem(answer: httpx2.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    content: dict[str, Any] = answer.json()
    assert content["type"] == "about:blank"
    assert content["status"] == answer.status_code
    assert content["title"]
    assert content["detail"]
    return content


def raw(envoy: RunningEnvoy, request_line: str, *headers: str) -> int:
    """The status that a request gets which no HTTP library would send."""
    host, port = envoy.gateway.removeprefix("http://").split(":")
    lines = [request_line, "host: x", "connection: close", *headers, "", ""]
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall("\r\n".join(lines).encode("latin-1"))
        return int(connection.makefile("rb").readline().split()[1])


def test_the_committed_bootstrap_is_what_the_defaults_render() -> None:
    committed = (CHECKOUT / "envoy" / "bootstrap.yaml").read_text()
    assert committed == to_yaml(bootstrap(EnvoyOptions()))
    assert yaml.safe_load(committed) == bootstrap(EnvoyOptions())


@pytest.mark.parametrize(
    "options",
    [
        EnvoyOptions(),
        BARE,
        EnvoyOptions(upstream_protocol="http2", upstream_host="orders.example.com"),
        EnvoyOptions(listen_address="::", admin_address="::1", ext_authz_host="::1"),
    ],
    ids=["defaults", "bare", "dns-and-http2", "ipv6"],
)
def test_a_stock_envoy_accepts_the_bootstrap(options: EnvoyOptions) -> None:
    verdict = validate(bootstrap(options))
    assert verdict.returncode == 0, verdict.stderr
    assert "deprecated" not in verdict.stderr


@pytest.mark.parametrize(
    "wrong",
    [{"admin_address": "0.0.0.0"}, {"ext_authz_timeout_seconds": 0}, {"no_such_option": 1}],
)
def test_a_wrong_option_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        EnvoyOptions(**wrong)


def test_every_option_is_described() -> None:
    fields = EnvoyOptions.model_fields
    assert [name for name, field in fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("request_line", "header"),
    [
        ("GET /orders%2F..%2Fadmin HTTP/1.1", ""),
        ("GET /orders%5cadmin HTTP/1.1", ""),
        ("GET /orders%00 HTTP/1.1", ""),
        ("GET /orders#fragment HTTP/1.1", ""),
        ("GET /orders HTTP/1.1", "x_user: admin"),
    ],
)
def test_what_two_parsers_may_read_differently_is_refused(
    mesh: Mesh, request_line: str, header: str
) -> None:
    assert raw(mesh.envoy, request_line, *filter(None, [header])) == 400
    assert not mesh.authorizer.asked
    assert not mesh.upstream.executions


def test_the_authorizer_and_the_upstream_see_the_same_normal_path(mesh: Mesh) -> None:
    assert raw(mesh.envoy, "GET /a/%2e%2e//orders/./7?x=1 HTTP/1.1") == 200
    assert mesh.authorizer.asked[0].attributes.request.http.path == "/orders/7?x=1"
    assert mesh.upstream.executions == {"GET /orders/7": 1}


def test_too_many_headers_are_refused_with_a_problem(mesh: Mesh) -> None:
    answer = mesh.client.get("/orders", headers={f"x-{n}": "1" for n in range(120)})
    assert answer.status_code == 431
    assert problem(answer)["reason"] == "headers_too_large"


def test_each_client_address_has_a_bucket_of_its_own(mesh: Mesh) -> None:
    options = EnvoyOptions(
        listen_port=0,
        admin_port=0,
        ext_authz_enabled=False,
        ratelimit_enabled=False,
        upstream_port=mesh.upstream.port,
        local_rate_limit_per_second=1,
        local_rate_limit_burst=2,
    )

    def statuses(envoy: RunningEnvoy, address: str) -> list[httpx2.Response]:
        transport = httpx2.HTTPTransport(local_address=address)
        with httpx2.Client(transport=transport, base_url=envoy.gateway) as client:
            return [client.get("/orders") for _ in range(4)]

    with running_envoy(bootstrap(options)) as envoy:
        first = statuses(envoy, "127.0.0.1")
        second = statuses(envoy, "127.0.0.2")
    assert [answer.status_code for answer in first[:2]] == [200, 200]
    assert [answer.status_code for answer in second[:2]] == [200, 200]
    assert first[-1].status_code == second[-1].status_code == 429
    assert problem(first[-1])["reason"] == "over_limit"
    assert first[-1].headers["retry-after"] == "1"


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


def test_a_lone_upstream_that_fails_is_still_asked(mesh: Mesh) -> None:
    """Outlier detection may rest half of the hosts: of one host, none."""
    for _ in range(12):
        assert mesh.client.post("/500").status_code == 500
    assert mesh.client.get("/orders").status_code == 200
    assert mesh.envoy.stat("cluster.upstream.outlier_detection.ejections_active") == 0


@pytest.mark.parametrize("status", [401, 403, 429, 503])
def test_a_denial_keeps_its_own_body_whatever_its_status(mesh: Mesh, status: int) -> None:
    body = f'{{"type": "about:blank", "status": {status}, "reason": "no_rule_allows"}}'
    mesh.authorizer.answer = lambda _request: envoy_services.denied(status, body)
    answer = mesh.client.get("/denied")
    assert (answer.status_code, answer.text) == (status, body)
    assert answer.headers["content-type"] == "application/problem+json"
    assert not mesh.limiter.asked
    assert not mesh.upstream.executions


def test_headers_are_overwritten_and_removed_with_validated_mutations(mesh: Mesh) -> None:
    identity = {
        "header": {"key": "x-user", "value": "rita"},
        "append": {"value": False},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }
    mesh.authorizer.answer = lambda _request: envoy_services.allowed(
        headers=[identity], headers_to_remove=["authorization", "x-role", "x-absent"]
    )
    sent = [("X-User", "mallory"), ("x-user", "eve"), ("x-role", "admin"), ("authorization", "b")]
    received = mesh.client.get("/whoami", headers=sent).text.lower().splitlines()
    assert [line for line in received if line.startswith(("x-user", "x-role", "auth"))] == [
        "x-user: rita"
    ]


def test_an_invalid_mutation_is_our_fault_and_says_so(mesh: Mesh) -> None:
    invalid = {"header": {"key": "x-user", "value": "a\nx-role: admin"}}
    mesh.authorizer.answer = lambda _request: envoy_services.allowed(headers=[invalid])
    answer = mesh.client.get("/whoami")
    assert answer.status_code == 500
    assert problem(answer)["reason"] == "authorizer_invalid_answer"
    assert not mesh.upstream.executions


def test_a_limit_is_asked_by_rule_and_principal(mesh: Mesh) -> None:
    assert mesh.client.get("/limited").status_code == 200
    [asked] = mesh.limiter.asked
    assert asked.domain == "quickstart"
    [descriptor] = asked.descriptors
    assert [(entry.key, entry.value) for entry in descriptor.entries] == [
        ("rule", "read"),
        ("principal", "jwt:rita"),
    ]


def test_over_the_limit_is_a_problem_with_the_time_to_wait(mesh: Mesh) -> None:
    mesh.limiter.answer = lambda _request: envoy_services.over_limit(per_minute=5, seconds_left=42)
    answer = mesh.client.get("/over-limit")
    assert answer.status_code == 429
    assert problem(answer)["reason"] == "over_limit"
    assert answer.headers["retry-after"] == "42"
    assert not mesh.upstream.executions
    entry = mesh.logged("/over-limit")
    assert entry["limit"] == "5, 5;w=60"
    assert (entry["rule"], entry["principal"], entry["flags"]) == ("read", "jwt:rita", "RL")


def test_the_log_says_who_and_why_and_never_shows_a_query(mesh: Mesh) -> None:
    mesh.authorizer.answer = lambda _request: envoy_services.denied(403, "{}")
    mesh.client.get(f"/refused?access_token={SECRET}", headers={"referer": f"/?t={SECRET}"})
    entry = mesh.logged("/refused")
    assert (entry["principal"], entry["reason"]) == ("jwt:rita", "no_rule_allows")
    assert (entry["status"], entry["details"], entry["method"]) == (403, "ext_authz_denied", "GET")
    for target in ("/a%2fb?t=", "/a#t=", "/a#?t=", "?t=", "http://x/a?t=", "//a?t=", "/a?t=#t="):
        raw(mesh.envoy, f"GET {target}{SECRET} HTTP/1.1", f"authorization: Bearer {SECRET}")
    mesh.client.get("/last")
    mesh.logged("/last")
    assert SECRET not in mesh.envoy.process.output
    assert SECRET not in mesh.envoy.process.errors


def test_a_grpc_client_gets_words_and_no_document(mesh: Mesh) -> None:
    answer = mesh.client.post("/a%2Fb", headers={"content-type": "application/grpc"})
    assert answer.headers["grpc-status"] == "13"
    assert "{" not in answer.headers.get("grpc-message", "")


def test_a_rate_limit_service_that_hangs_delays_a_request_by_its_time_limit_alone(
    mesh: Mesh,
) -> None:
    released = Event()

    def hang(_request: Any) -> Any:
        released.wait(10)
        return envoy_services.within_limit()

    mesh.limiter.answer = hang
    try:
        answer = mesh.client.get("/orders")
    finally:
        released.set()
    assert answer.status_code == 200
    assert answer.elapsed.total_seconds() < 1


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
