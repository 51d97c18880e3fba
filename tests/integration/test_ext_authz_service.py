"""`python -m ext_authz` as it runs: a process, real ports, a real issuer, real files."""

from __future__ import annotations

import json
import os
import signal
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from ext_authz.adapters.envoy_check import CHECK
from ext_authz.core.api_keys import make_key
from meshwarden.adapters.grpc_calls import HEALTH_CHECK
from tests.support.authz_service import (
    PEPPER,
    Service,
    live,
    reason_of,
    record,
    replace,
    request_of,
    serving,
)
from tests.support.check_requests import access_policy, check_request, response_of, token_issuer
from tests.support.jwks_server import JwksServer, running_jwks_server
from tests.support.processes import wait_until
from tests.support.tokens import ec_signer, ed_signer, jwks

EC, ED = ec_signer(), ed_signer()
KEY = make_key(bytes(32))
RULES = (
    {"name": "open", "callers": "anyone", "paths": ["/open"]},
    {"name": "closed", "paths": ["/orders"]},
)
ISSUER = token_issuer(jwks(EC))
POLICY = access_policy(*RULES)


def issuer_at(server: JwksServer, **source: Any) -> dict[str, Any]:
    return token_issuer(jwks={"url": server.url, "refreshSeconds": 1, **source})


@pytest.fixture
def issuer() -> Iterator[JwksServer]:
    with running_jwks_server(EC) as server:
        yield server


# --- keys from a URL


def test_keys_rotate_under_traffic(tmp_path, issuer):
    """A new key is accepted, and a removed key's tokens are refused though they are remembered."""
    with serving(tmp_path, issuer_at(issuer), POLICY) as service:
        old, new = EC.token(live()), ED.token(live())
        assert [service.ask(token=old), service.ask(token=new)] == ["allowed", "unknown_key"]
        issuer.serve_keys(EC, ED)
        seen: dict[str, list[str]] = {old: [], new: []}

        def ask_both() -> tuple[str, str]:
            for token, reasons in seen.items():
                reasons.append(service.ask(token=token))
            return seen[old][-1], seen[new][-1]

        wait_until(lambda: ask_both() == ("allowed", "allowed"), "the new key is known")
        issuer.serve_keys(ED)
        wait_until(lambda: ask_both() == ("unknown_key", "allowed"), "the old key is refused")
        assert changes(seen[old]) == ["allowed", "unknown_key"]
        assert changes(seen[new]) == ["unknown_key", "allowed"]


def changes(reasons: list[str]) -> list[str]:
    """The reasons without repetitions."""
    return [r for i, r in enumerate(reasons) if i == 0 or reasons[i - 1] != r]


def test_the_last_good_keys_serve_while_the_issuer_misbehaves(tmp_path, issuer):
    """Tokens are accepted as before, and /readyz?verbose says what is wrong."""
    with serving(tmp_path, issuer_at(issuer, timeoutSeconds=0.2), POLICY) as service:

        def last_error() -> str:
            status = service.get("/readyz?verbose").json()["jwks"]["main"]
            assert status["keys"] == 1
            return str(status["last_error"])

        issuer.is_open.clear()
        wait_until(lambda: last_error() == "no answer in time", "slowness is seen")
        issuer.status, issuer.headers, issuer.body = 302, {"location": "/elsewhere"}, b""
        issuer.is_open.set()
        wait_until(lambda: "answered 302" in last_error(), "the redirect is seen")
        assert service.ask(token=EC.token(live())) == "allowed"
        issuer.serve_keys(ED)
        wait_until(lambda: service.ask(token=ED.token(live())) == "allowed", "it recovers")
        assert set(issuer.paths) == {"/jwks.json"}


def test_overload_is_an_in_band_denial(tmp_path, issuer):
    """One call waits for keys; all others are told so in-band, however many come at once."""
    source = issuer_at(issuer, refreshSeconds=300, timeoutSeconds=8)
    options = ("--grpc.calls-at-most", "1", "--lookup-wait-seconds", "8")
    issuer.is_open.clear()
    with serving(tmp_path, source, POLICY, options=options, is_ready=False) as service:
        service.process.wait_until(lambda: issuer.paths, "the first fetch has begun")
        waiting = [service.begin(request_of("/orders", token=EC.token(live())))]

        def is_taken() -> bool:
            if waiting[-1].done():  # it came while we asked, and was the one too many
                waiting.append(service.begin(request_of("/orders", token=EC.token(live()))))
            return service.ask("/open") == "overloaded"

        wait_until(is_taken, "the place is taken")
        crowd = [service.begin(check_request("/open")) for _ in range(300)]
        answers = [call.result() for call in crowd]
        assert {reason_of(answer) for answer in answers} == {"overloaded"}
        assert {response_of(a).denied_response.status.code for a in answers} == {503}
        issuer.is_open.set()
        assert reason_of(waiting[-1].result()) == "allowed"
        assert service.ask("/open") == "allowed"


def test_keys_and_the_introspection_endpoint_are_discovered(tmp_path, issuer):
    """From the issuer's own document; a second token is asked about while the first waits."""
    issuer.documents["/.well-known/openid-configuration"] = {
        "issuer": issuer.base,
        "jwks_uri": issuer.url,
        "introspection_endpoint": f"{issuer.base}/introspect",
    }
    asked = []

    def introspect(form: dict[str, str], credentials: str) -> Any:
        asked.append((form, credentials))
        return {"active": form["token"] == "good", "sub": "rita", "aud": "orders"}

    issuer.introspect = introspect
    discovery = {"discovery": "oidc"}
    client = {"clientId": "us:1", "clientSecretFile": "secret"}
    source = token_issuer(issuer=issuer.base, jwks=discovery, introspection={**discovery, **client})
    ways = [
        {"jwt": {"issuers": ["main"]}, "onInvalid": "skip"},
        {"introspection": {"issuer": "main"}},
    ]
    policy = access_policy(*RULES, identify=ways)
    # The first question finds the document, too.
    options = ("--lookup-wait-seconds", "2")
    files = {"secret": "a b"}
    with serving(tmp_path, source, policy, files=files, options=options) as service:
        assert service.ask(token=EC.token(live(iss=issuer.base))) == "allowed"
        assert [service.ask(token=name) for name in ("good", "bad", "good", "bad")] == [
            *("allowed", "inactive_token") * 2
        ]
        form = {"token": "good", "token_type_hint": "access_token"}
        basic = b64encode(b"us%3A1:a+b").decode()
        assert asked == [
            (form, f"Basic {basic}"),
            ({**form, "token": "bad"}, f"Basic {basic}"),
        ]
        issuer.status = 500
        assert service.ask(token="new") == "issuer_unavailable"
        assert service.ask(token="good") == "allowed"
        shown = service.get("/readyz?verbose").json()["introspection"]["main"]["last_error"]
        assert shown == f"{issuer.base}/introspect answered 500"
        log = service.process.output
        assert "introspection_failed" in log
        assert not any(secret in log for secret in ("a b", "a+b", basic))


def test_an_edited_jwks_file_rotates_the_keys_within_a_second(tmp_path):
    """And a broken one changes nothing."""
    files = {"keys.json": json.dumps(jwks(EC))}
    source = token_issuer(jwks={"file": "keys.json"})
    with serving(tmp_path, source, POLICY, files=files) as service:
        old, new = EC.token(live()), ED.token(live())
        assert [service.ask(token=old), service.ask(token=new)] == ["allowed", "unknown_key"]
        replace(tmp_path / "config" / "keys.json", json.dumps(jwks(ED)))
        wait_until(
            lambda: [service.ask(token=old), service.ask(token=new)] == ["unknown_key", "allowed"],
            "the keys are the new ones",
            limit_seconds=1,
        )
        replace(tmp_path / "config" / "keys.json", '{"keys": [], "keys": []}')
        service.process.wait_until(
            lambda: "the member 'keys' stands twice" in service.process.output, "it is refused"
        )
        assert service.ask(token=new) == "allowed"


# --- API keys


def test_an_api_key_is_known_and_revoked_within_a_second(shared):
    assert shared.ask(key=KEY) == "invalid_api_key"
    for changes_of_record, reason in (({}, "allowed"), ({"revoked_at": 1}, "invalid_api_key")):
        shared.keys(record(KEY, **changes_of_record))
        wait_until(
            lambda wanted=reason: shared.ask(key=KEY) == wanted,
            f"the key is {reason}",
            limit_seconds=1,
        )


# --- configuration


@pytest.mark.parametrize(
    ("resources", "told"),
    [
        ((access_policy({"nmae": "x"}),), "unknown field 'spec.rules.0.nmae' (did you mean"),
        ((access_policy({"name": "x", "callers": 7}),), "spec.rules.0.callers: Input should be"),
        ((POLICY, POLICY), "AccessPolicy 'orders' stands twice"),
        ((access_policy({"name": "x", "roles": ["r"]}),), "there is no AccessRole 'r'"),
        ((access_policy({"name": "x", "when": "a ="}),), "when: line 1, column"),
        ((token_issuer({"keys": 7}, name="other"),), "the JWKS is not a JWKS"),
        ((token_issuer(jwks={"file": "none.json"}, name="other"),), "none.json can't be read"),
        (("nonsense",), "policy.yaml:"),
    ],
)
def test_an_invalid_edit_changes_nothing_and_is_shown(shared, resources, told):
    """The last good policy serves; /readyz?verbose, the metrics and the log say what is wrong."""
    shared.configure(ISSUER, *resources)

    def refused() -> Any:
        return shared.get("/readyz?verbose").json()["configuration"]["refused"]

    wait_until(refused, "the edit is refused", limit_seconds=1)
    assert any(told in problem for problem in refused()["problems"]), refused()
    assert shared.answers("/readyz")
    assert shared.ask("/open") == "allowed"
    metrics = shared.get("/metrics").text
    assert "configuration_is_refused 1.0" in metrics
    assert 'configuration_offers_total{outcome="refused"}' in metrics
    assert "configuration_refused" in shared.process.output
    shared.configure(ISSUER, access_policy(RULES[1]))
    wait_until(lambda: not refused(), "the repaired edit is taken", limit_seconds=1)
    assert shared.ask("/open") == "missing_credential"
    shared.configure(ISSUER, POLICY)
    wait_until(lambda: shared.ask("/open") == "allowed", "the first policy is back")


def test_before_the_first_valid_configuration_it_is_not_ready_and_denies(tmp_path):
    """In-band 503, on the health service too; then the first valid one makes it ready."""
    with serving(tmp_path, {"kind": "AccessPolicy"}, is_ready=False) as service:
        service.process.wait_until(lambda: service.answers("/readyz", 503), "it is not ready")
        assert service.ask("/open") == "not_ready"
        assert health_of(service) == health_pb2.HealthCheckResponse.NOT_SERVING
        service.configure(ISSUER, POLICY)
        service.wait_until_ready()
        assert service.ask("/open") == "allowed"
        serving_status = health_pb2.HealthCheckResponse.SERVING
        wait_until(lambda: health_of(service) == serving_status, "the health service knows")


def health_of(service: Service) -> Any:
    """What the gRPC health service says of the authorizer."""
    request = health_pb2.HealthCheckRequest(service="envoy.service.auth.v3.Authorization")
    check = service.channel.unary_unary(HEALTH_CHECK)
    return health_pb2.HealthCheckResponse.FromString(
        check(request.SerializeToString(), timeout=10, wait_for_ready=True)
    ).status


# --- messages


@pytest.mark.parametrize(
    "message",
    [b"garbage", b"\xff" * 100, check_request("/marker").replace(b"marker", b"\xff" * 6)],
    ids=["garbage", "no protobuf", "no UTF-8"],
)
def test_a_message_that_is_none_is_refused_and_the_process_goes_on(shared, message):
    with pytest.raises(grpc.RpcError) as caught:
        shared.send(message)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert shared.ask("/open") == "allowed"


def test_a_token_of_a_megabyte_and_a_flood_of_headers_are_denied(shared):
    assert shared.ask(token=EC.token(live(x="y" * 1_000_000))) == "token_too_large"
    flood = check_request("/open", headers=[(f"x-{n}", "y") for n in range(5000)])
    assert reason_of(shared.send(flood)) == "too_many_headers"
    with pytest.raises(grpc.RpcError) as caught:
        shared.send(check_request("/open", headers={"x": "y" * (5 << 20)}))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert shared.ask("/open") == "allowed"


def test_no_credential_is_ever_logged(shared):
    """At the level of debugging, right or wrong, in a header, a cookie, a path or a query."""
    token, wrong = EC.token(live()), EC.token(live(aud="x"))
    assert shared.ask(token=token) == "allowed"
    shared.ask(token=wrong)
    shared.ask(key=KEY)
    shared.ask(f"/orders?access_token={token}&key={KEY}")
    shared.ask(f"/{token}", key=f"{KEY}x")
    with pytest.raises(grpc.RpcError):
        shared.send(request_of("/orders", token=token, key=KEY) + b"\xff")
    log = shared.process.output + shared.process.errors
    assert '"event": "started"' in log
    for secret in (token, wrong, KEY, PEPPER.decode()):
        assert secret not in log
        assert secret.split(".")[-1] not in log


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for the tests that leave it as they find it."""
    folder = tmp_path_factory.mktemp("shared")
    options = ("--log.level", "debug")
    with serving(folder, ISSUER, POLICY, options=options) as service:
        yield service


# --- the process


def test_a_call_in_flight_is_answered_after_sigterm(tmp_path, issuer):
    options = ("--lookup-wait-seconds", "8")
    issuer.is_open.clear()
    source = issuer_at(issuer, timeoutSeconds=8)
    with serving(tmp_path, source, POLICY, options=options, is_ready=False) as service:
        service.process.wait_until(lambda: issuer.paths, "the first fetch has begun")
        waiting = service.begin(request_of("/orders", token=EC.token(live())))
        wait_until(lambda: in_flight(service) == 1, "the call waits")
        os.kill(service.process.pid, signal.SIGTERM)
        wait_until(lambda: "draining" in service.process.output, "it drains")
        issuer.is_open.set()
        assert reason_of(waiting.result()) == "allowed"
        assert service.process.stop() == 0
        assert '"event": "stopped"' in service.process.output


def in_flight(service: Service) -> float:
    lines = service.get("/metrics").text.splitlines()
    return next(float(x.split()[1]) for x in lines if x.startswith("grpc_calls_in_flight "))


def test_two_workers_serve_one_port_and_one_page_of_metrics(tmp_path):
    """Connections spread over both; a scrape of either counts the calls of both."""
    resources = (ISSUER, POLICY)
    with serving(tmp_path, *resources, options=("--workers", "2")) as service:
        service.process.wait_until(
            lambda: service.process.output.count('"event": "ready"') == 2, "both are ready"
        )
        with ThreadPoolExecutor(8) as pool:
            reasons = list(pool.map(lambda _: ask_anew(service), range(40)))
        assert set(reasons) == {"allowed"}
        wanted = 'ext_authz_verdicts_total{reason="allowed",verdict="allowed"} 40.0'
        wait_until(lambda: wanted in service.get("/metrics").text, "all calls are counted")


def ask_anew(service: Service) -> str:
    """The reason, over a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{service.grpc_port}", options) as channel:
        return reason_of(channel.unary_unary(CHECK)(check_request("/open"), timeout=10))


@pytest.mark.parametrize("name", ["grpc", "http"])
def test_a_taken_port_is_a_clear_message_and_status_2(tmp_path, shared, name):
    taken = {"grpc": shared.grpc_port, "http": shared.http_port}[name]
    options = (f"--{name}.port", str(taken))
    with serving(tmp_path, POLICY, options=options, is_ready=False) as service:
        assert service.process.child.wait(20) == 2
        message = f"ext_authz: port {taken} on 127.0.0.1 can't be bound: Address already in use"
        assert message in service.process.errors
        assert "Traceback" not in service.process.errors
