"""The rendered bootstrap on the real Envoy: what is refused, decided, limited and logged."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
import yaml
from pydantic import ValidationError

from meshwarden.adapters.envoy import EnvoyOptions, bootstrap, to_yaml
from tests.support import envoy_services
from tests.support.envoy import RunningEnvoy, running_envoy, validate
from tests.support.envoy_mesh import Mesh, problem
from tests.support.processes import CHECKOUT

pytestmark = pytest.mark.timeout(30)

BARE = EnvoyOptions(
    listen_port=0,
    admin_port=0,
    ext_authz_enabled=False,
    ratelimit_enabled=False,
    local_rate_limit_enabled=False,
)
SECRET = "s3cr3t"


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
    answer = mesh.raw(request_line, *filter(None, [header]))
    assert answer.status_code == 400
    assert problem(answer)["reason"] == "bad_request"
    assert not mesh.authorizer.asked
    assert not mesh.upstream.executions


def test_the_authorizer_and_the_upstream_see_the_same_normal_path(mesh: Mesh) -> None:
    assert mesh.raw("GET /a/%2e%2e//orders/./7?x=1 HTTP/1.1").status_code == 200
    assert mesh.authorizer.asked[0].attributes.request.http.path == "/orders/7?x=1"
    assert mesh.upstream.executions == {"GET /orders/7": 1}


def test_too_many_headers_are_refused_with_a_problem(mesh: Mesh) -> None:
    answer = mesh.client.get("/orders", headers={f"x-{n}": "1" for n in range(120)})
    assert answer.status_code == 431
    assert problem(answer)["reason"] == "headers_too_large"


@pytest.mark.parametrize(("added", "status"), [(20, 200), (21, 500)])
def test_eighty_lines_at_the_authorizer_leave_it_room_for_twenty(
    mesh: Mesh, added: int, status: int
) -> None:
    """Of the eighty the client sent 72 and `Host`; the others are Envoy's."""
    headers = [{"header": {"key": f"x-auth-{n}", "value": "1"}} for n in range(added)]
    mesh.authorizer.answer = lambda _request: envoy_services.allowed(headers=headers)
    answer = mesh.raw("GET /many HTTP/1.1", *(f"x-{n}: 1" for n in range(72)))
    assert len(mesh.authorizer.asked[0].attributes.request.http.header_map.headers) == 80
    assert answer.status_code == status


def test_no_header_that_a_client_sends_as_envoys_reaches_anyone(mesh: Mesh) -> None:
    """Not even those that Envoy itself only ever sends; what Envoy adds comes after."""
    names = [
        *("x-envoy-attempt-count", "x-envoy-peer-metadata", "x-envoy-original-dst-host"),
        *("X-Envoy-Auth-Partial-Body", "x-envoy-ratelimited", "x-envoy-internal"),
        *("x-envoy-retry-on", "x-envoy-external-address", "x-envoy-of-a-later-version"),
    ]
    sent = [(name, SECRET) for name in names for _twice in range(2)]
    received = mesh.client.get("/orders", headers=sent).text.lower().splitlines()
    assert not [line for line in received if SECRET in line]
    assert [line for line in received if line.startswith("x-envoy")] == [
        "x-envoy-external-address: 127.0.0.1"
    ]
    assert SECRET not in str(mesh.authorizer.asked)


def test_a_credential_for_a_proxy_is_the_authorizers_and_not_the_workloads(mesh: Mesh) -> None:
    headers = {"proxy-authorization": f"Basic {SECRET}"}
    assert SECRET not in mesh.client.get("/orders", headers=headers).text
    assert SECRET in str(mesh.authorizer.asked)


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        (["connection: upgrade", "upgrade: websocket"], 403, "upgrade_not_offered"),
        (["transfer-encoding: xchunked"], 501, "transfer_encoding_unknown"),
        (["content-length: 1", "transfer-encoding: chunked"], 400, "bad_request"),
    ],
)
def test_what_envoy_does_not_offer_is_refused_with_a_problem(
    mesh: Mesh, headers: list[str], status: int, reason: str
) -> None:
    answer = mesh.raw("GET /offers HTTP/1.1", *headers)
    assert (answer.status_code, problem(answer)["reason"]) == (status, reason)
    assert not mesh.upstream.executions


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
    assert entry["reason"] == "over_limit"


def test_the_log_gives_the_reason_of_envoys_own_answers_as_their_bodies_do(mesh: Mesh) -> None:
    upgrade = {"connection": "upgrade", "upgrade": "websocket"}
    for path, headers in (("/upgraded", upgrade), ("/reset", {})):
        answer = mesh.client.get(path, headers=headers)
        assert mesh.logged(path)["reason"] == problem(answer)["reason"]


def test_the_log_gives_the_decisions_reason_where_the_workload_answered(mesh: Mesh) -> None:
    for path in ("/orders", "/503", "/500"):
        mesh.client.post(path)
        assert mesh.logged(path)["reason"] == "allowed"


def test_the_log_says_who_and_why_and_never_shows_a_query(mesh: Mesh) -> None:
    mesh.authorizer.answer = lambda _request: envoy_services.denied(403, "{}")
    mesh.client.get(f"/refused?access_token={SECRET}", headers={"referer": f"/?t={SECRET}"})
    entry = mesh.logged("/refused")
    assert (entry["principal"], entry["reason"]) == ("jwt:rita", "no_rule_allows")
    assert (entry["status"], entry["details"], entry["method"]) == (403, "ext_authz_denied", "GET")
    for target in ("/a%2fb?t=", "/a#t=", "/a#?t=", "?t=", "http://x/a?t=", "//a?t=", "/a?t=#t="):
        mesh.raw(f"GET {target}{SECRET} HTTP/1.1", f"authorization: Bearer {SECRET}")
    mesh.client.get("/last")
    mesh.logged("/last")
    assert SECRET not in mesh.envoy.process.output
    assert SECRET not in mesh.envoy.process.errors


def test_a_grpc_client_gets_words_and_no_document(mesh: Mesh) -> None:
    answer = mesh.client.post("/a%2Fb", headers={"content-type": "application/grpc"})
    assert answer.headers["grpc-status"] == "13"
    assert "{" not in answer.headers.get("grpc-message", "")
