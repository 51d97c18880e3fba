"""`make up` and the quickstart as the README promises them, through the real Envoy."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import httpx2
import jwt
import pytest

from tests.support.curl import statuses
from tests.support.processes import CHECKOUT, wait_until
from tests.support.quickstart import (
    Quickstart,
    assert_nothing_is_left,
    processes_of,
    running_quickstart,
)

STOPPED_WITHIN_SECONDS = 10


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quickstart]:
    """One system, started as `make up` does, for all tests here; the last one ends it."""
    with running_quickstart(tmp_path_factory.mktemp("quickstart"), with_make=True) as system:
        yield system


def test_every_request_of_the_demo_answers_as_stated(quickstart: Quickstart):
    answers = {r["name"]: statuses(r["curl"])[-1] for r in quickstart.demo["requests"]}
    assert answers == {r["name"]: r["expect"] for r in quickstart.demo["requests"]}


DEMO = {
    "no credential": 401,
    "bad token": 401,
    "expired token": 401,
    "reader reads": 200,
    "reader writes": 403,
    "admin writes": 201,
    "API key writes": 201,
    "reader in /admin/": 403,
    "anonymous ping": 200,
    "unknown path": 403,
    "over the limit": 429,
}


def test_the_demo_file_keeps_its_contract(quickstart: Quickstart):
    """Other programs read it: its members, what it offers at least, and how long that is good."""
    demo = quickstart.demo
    assert set(demo) == {
        *("gateway", "envoy_admin", "issuer", "audience", "jwks_file", "api_key_header"),
        *("identity_headers", "credentials", "requests"),
    }
    assert httpx2.get(f"{demo['gateway']}/public/ping").status_code == 200
    assert httpx2.get(f"{demo['envoy_admin']}/ready").status_code == 200
    assert {r["name"]: r["expect"] for r in demo["requests"]}.items() >= DEMO.items()
    assert set(demo["credentials"]) == {"reader", "admin", "service"}
    assert demo["api_key_header"] == "x-api-key"
    assert demo["identity_headers"] == [
        *("x-auth-principal", "x-auth-roles", "x-auth-scopes", "x-auth-subject")
    ]
    keys = jwt.PyJWKSet.from_json((CHECKOUT / demo["jwks_file"]).read_text())
    for name in ("reader", "admin"):
        token = demo["credentials"][name]
        key = keys[jwt.get_unverified_header(token)["kid"]]
        audience, issuer = demo["audience"], demo["issuer"]
        claims = jwt.decode(token, key, ["ES256"], audience=audience, issuer=issuer)
        assert claims["exp"] - claims["iat"] == 12 * 3600
    assert (quickstart.state / "demo.json").stat().st_mode & 0o777 == 0o600
    assert (quickstart.state / "issuer.pem").stat().st_mode & 0o777 == 0o600


def test_options_can_be_appended_to_each_curl_of_the_demo(quickstart: Quickstart):
    for request in quickstart.demo["requests"]:
        appended = f"{request['curl']} -H 'x-appended: 1'"
        assert statuses(appended)[-1] == request["expect"]


def test_the_upstream_learns_who_is_calling_and_never_sees_the_credential(quickstart: Quickstart):
    answer = quickstart.get("/whoami", quickstart.bearer("reader")).json()
    assert answer["method"] == "GET"
    assert answer["path"] == "/whoami"
    assert answer["headers"]["x-auth-principal"] == "jwt:rita"
    assert answer["headers"]["x-auth-roles"] == "reader"
    assert "authorization" not in answer["headers"]
    key = {"x-api-key": quickstart.demo["credentials"]["service"]}
    answer = quickstart.get("/whoami", key).json()
    assert answer["headers"]["x-auth-principal"] == "key:service"
    assert "x-api-key" not in answer["headers"]


def test_a_client_sent_identity_header_never_reaches_the_upstream(quickstart: Quickstart):
    """In any case, repeated, on a public route too; with underscores the request is refused."""
    for name in quickstart.demo["identity_headers"]:
        for path, credential in (
            ("/whoami", quickstart.bearer("reader")),
            ("/public/ping", {}),
            ("/public/ping", quickstart.bearer("admin")),
        ):
            spoofed = [(name, "evil"), (name.upper(), "evil"), (name.title(), "evil")]
            answer = quickstart.get(path, [*credential.items(), *spoofed])
            assert answer.status_code == 200
            assert "evil" not in answer.text
        underscores = {**quickstart.bearer("reader"), name.replace("-", "_"): "evil"}
        assert quickstart.get("/whoami", underscores).status_code == 400


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([], "missing_credential"),
        ([("authorization", "Bearer x.y.z")], "malformed_token"),
        ([("authorization", "Basic dTpw")], "unsupported_scheme"),
        ([("authorization", "Bearer a"), ("authorization", "Bearer b")], "multiple_credentials"),
        ([("x-api-key", "mwk_wrong")], "invalid_api_key"),
        ([("x-api-key", "a"), ("x-api-key", "b")], "multiple_credentials"),
        ([("authorization", "Bearer a"), ("x-api-key", "b")], "multiple_credentials"),
    ],
)
def test_a_caller_without_one_valid_credential_is_told_why(
    quickstart: Quickstart, headers: list[tuple[str, str]], reason: str
):
    answer = quickstart.get("/whoami", headers)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["reason"] == reason
    challenge = answer.headers["www-authenticate"]
    assert challenge.startswith('Bearer realm="meshwarden"')
    assert challenge.endswith('ApiKey realm="meshwarden"')


def test_the_limit_is_the_callers_whatever_the_token_and_counts_no_denied_request(
    quickstart: Quickstart,
):
    """Six requests with six tokens in one minute, from two addresses; denied ones before them use
    nothing up.
    """
    tokens = [quickstart.token("--subject", "lim/iter", "--role", f"r{n}") for n in range(6)]
    wait_until(lambda: time.time() % 60 < 50, "the minute is young enough", limit_seconds=15)
    for _ in range(8):
        bad = {"authorization": f"Bearer {tokens[0]}x"}
        assert quickstart.get("/limited", bad).status_code == 401
        good = {"authorization": f"Bearer {tokens[0]}"}
        assert httpx2.post(f"{quickstart.gateway}/limited", headers=good).status_code == 403
    paths = ["/limited", "/limited?x=1", "//limited", "/./limited", "/limited/", "/limited"]
    answers = []
    for number, (path, token) in enumerate(zip(paths, tokens, strict=True)):
        transport = httpx2.HTTPTransport(local_address=f"127.0.0.{1 + number % 2}")
        headers = {"authorization": f"Bearer {token}"}
        with httpx2.Client(transport=transport) as client:
            answers.append(client.get(f"{quickstart.gateway}{path}", headers=headers))
    assert [answer.status_code == 429 for answer in answers] == [False] * 5 + [True]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    assert answers[-1].json()["reason"] == "over_limit"
    for words in (
        '"limit_rule":"quickstart.rule_limited.principal"',  # Envoy's access log.
        "rule=quickstart.rule_limited.principal",  # The service's own log.
    ):
        quickstart.process.wait_until(lambda words=words: words in quickstart.process.output, words)
    other = quickstart.token("--subject", "other")
    answer = quickstart.get("/limited", {"authorization": f"Bearer {other}"})
    assert answer.status_code == 200


def test_a_token_without_a_subject_is_refused(quickstart: Quickstart):
    token = quickstart.token("--subject", "x", "--claims", '{"sub": null}')
    answer = quickstart.get("/limited", {"authorization": f"Bearer {token}"})
    assert answer.status_code == 401
    assert answer.json()["reason"] == "invalid_subject"


def test_a_token_can_not_speak_as_a_key(quickstart: Quickstart):
    """The subject `service`, or even `key:service`, stays a token's."""
    for subject in ("service", "key:service"):
        token = quickstart.token("--subject", subject)
        headers = {"authorization": f"Bearer {token}"}
        answer = httpx2.post(f"{quickstart.gateway}/orders", headers=headers)
        assert answer.status_code == 403


def test_an_expired_token_is_refused_from_its_first_second(quickstart: Quickstart):
    token = quickstart.token("--subject", "rita", "--expires-in", "-1")
    answer = quickstart.get("/whoami", {"authorization": f"Bearer {token}"})
    assert answer.json()["reason"] == "expired"


@pytest.mark.parametrize(
    "path",
    [
        "/admin/../admin/reports",
        "/public/%2e%2e/admin/reports",
        "//admin/reports",
        "/./admin//reports",
        "/public/..;/admin/reports",
        "/admin;x=1/reports",
        "/%61dmin/reports",
        "/admin./reports",
        "/admin%2freports",
        "/admin%5creports",
        "/admin%00/reports",
        "/orders/%2e%2e/admin/reports",
    ],
)
def test_no_way_of_writing_a_path_leads_a_reader_to_the_admins(quickstart: Quickstart, path: str):
    # http.client sends the path as it is; other clients tidy it up.
    connection = HTTPConnection(quickstart.gateway.removeprefix("http://"), timeout=10)
    connection.request("GET", path, headers=quickstart.bearer("reader"))
    status = connection.getresponse().status
    connection.close()
    assert status in {400, 401, 403}


def test_two_host_lines_are_denied(quickstart: Quickstart):
    """Envoy joins them with a comma; which of the two the upstream would take, nobody knows."""
    connection = HTTPConnection(quickstart.gateway.removeprefix("http://"), timeout=10)
    connection.putrequest("GET", "/public/ping", skip_host=True)
    connection.putheader("Host", "evil.example.com")
    connection.putheader("Host", "orders.example.com")
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["reason"]) == (403, "invalid_host")
    connection.close()


def test_many_headers_are_refused_in_band_and_never_a_500(quickstart: Quickstart):
    statuses = set()
    for count in (10, 70, 85, 90, 96, 120):
        for names in ([f"x-h{n}" for n in range(count)], ["x-same"] * count):
            headers = [*quickstart.bearer("reader").items(), *((name, "v") for name in names)]
            statuses.add(quickstart.get("/whoami", headers).status_code)
    assert statuses == {200, 431}


def test_a_token_of_a_megabyte_is_refused(quickstart: Quickstart):
    answer = quickstart.get("/whoami", {"authorization": f"Bearer {'a' * (1 << 20)}"})
    assert answer.status_code == 431
    answer = quickstart.get("/whoami", {"authorization": f"Bearer {'a' * 10_000}"})
    assert (answer.status_code, answer.json()["reason"]) == (401, "token_too_large")


@pytest.mark.parametrize(("caller", "grpc_status"), [("", "16"), ("reader", "7")])
def test_a_grpc_caller_gets_a_grpc_shaped_denial(
    quickstart: Quickstart, caller: str, grpc_status: str
):
    """Trailers only: 200 with grpc-status UNAUTHENTICATED or PERMISSION_DENIED, no JSON body."""
    headers = {"content-type": "application/grpc", **(quickstart.bearer(caller) if caller else {})}
    answer = httpx2.post(f"{quickstart.gateway}/orders", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["grpc-status"] == grpc_status
    assert answer.content == b""
    assert "{" not in answer.headers["grpc-message"]


def test_a_subjects_tokens_are_revoked_within_a_second(quickstart: Quickstart):
    token = {"authorization": f"Bearer {quickstart.token('--subject', 'revoked')}"}
    assert quickstart.get("/whoami", token).status_code == 200
    assert quickstart.command("token", "revoke", "--subject", "revoked").returncode == 0
    wait_until(
        lambda: quickstart.get("/whoami", token).json().get("reason") == "revoked",
        "it is revoked",
        limit_seconds=1,
    )


# --- the README, and the end


def readme_commands() -> list[tuple[str, int]]:
    """Each curl command of "Sixty seconds" and the status that its comment promises, else 200."""
    text = (CHECKOUT / "README.md").read_text().partition("## Sixty seconds")[2]
    block = re.findall(r"```\n(.*?)```", text, re.DOTALL)[1]
    lines = [line.partition("  #") for line in block.splitlines() if line.startswith("curl")]
    return [
        (command.strip(), int(comment.strip().partition(":")[0] or 200))
        for command, _, comment in lines
    ]


def test_every_command_of_the_readme_answers_as_it_says(quickstart: Quickstart):
    commands = readme_commands()
    assert len(commands) == 6
    for command, expected in commands:
        typed = command.replace("curl -i", "curl -sS", 1)
        typed = typed.replace("http://127.0.0.1:10000", quickstart.gateway)
        for line in (quickstart.state / "demo.env").read_text().splitlines():
            name, _, value = line.partition("=")
            typed = typed.replace(f"${name}", value)
        typed = re.sub(r"\$\((.*?)\)", lambda found: output_of(found[1], quickstart.state), typed)
        assert "$" not in typed
        assert statuses(typed)[-1] == expected, command


def output_of(command: str, state: Path) -> str:
    """What a command of the README prints, on the state of the running quickstart."""
    program, *words = command.split()
    assert program == ".venv/bin/meshwarden"
    return subprocess.run(
        [sys.executable, "-m", "meshwarden.cli", *words],
        env={**os.environ, "MESHWARDEN_STATE": str(state)},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout.strip()


def test_without_libnghttp2_make_up_works_and_doctor_says_what_serves(tmp_path: Path):
    """What stands in the library's places can't be loaded: an empty file, a pycurl beside none."""
    lacking = tmp_path / "lacking"
    lacking.mkdir()
    for name in ("libnghttp2.so.14", "pycurl.py"):
        (lacking / name).touch()
    environment = {"LD_LIBRARY_PATH": str(lacking), "PYTHONPATH": str(lacking)}
    with running_quickstart(tmp_path, with_make=True, environment=environment) as system:
        answers = {r["name"]: statuses(r["curl"])[-1] for r in system.demo["requests"]}
        assert answers == {r["name"]: r["expect"] for r in system.demo["requests"]}
        assert "transport_not_found" in system.process.output
        looked = system.command("doctor")
        assert looked.returncode == 0, looked.stdout
        assert looked.stdout.count("serves gRPC by grpcio 1.") == 2


def test_sigterm_to_make_stops_everything_and_leaves_nothing(quickstart: Quickstart):
    """The last test on this system: it ends it."""
    processes = processes_of(quickstart.process.pid)
    assert len(processes) >= 5
    began = time.monotonic()
    quickstart.process.child.terminate()
    quickstart.process.child.wait(STOPPED_WITHIN_SECONDS)
    assert time.monotonic() - began < STOPPED_WITHIN_SECONDS
    assert_nothing_is_left(processes, quickstart.state)
