"""`meshwarden up` from its start to its end: edits, failures, signals, and what it leaves."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
import redis

from tests.support.curl import statuses
from tests.support.ports import free_port, is_listening
from tests.support.processes import CHECKOUT, Running, running, wait_until
from tests.support.quickstart import (
    MESHWARDEN,
    Quickstart,
    assert_nothing_is_left,
    meshwarden,
    processes_of,
    running_quickstart,
)
from tests.support.redis_server import running_redis
from tests.support.threaded_servers import serving_in_a_thread

STOPPED_WITHIN_SECONDS = 10


def addresses(process: Running) -> dict[str, str]:
    """What listens where, from the table that `up` prints."""
    rows = re.findall(r"│ (\S[^│]*?) +│ (\S+) +│", process.output)
    return {what: where for what, where in rows if ":" in where}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quickstart]:
    """A system of this module's own: its configuration is edited, and put back."""
    with running_quickstart(tmp_path_factory.mktemp("up")) as running_system:
        yield running_system


@contextmanager
def edited(file: Path, old: str, new: str) -> Iterator[None]:
    """`file` with `old` replaced by `new`, written in place as an editor does."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    try:
        yield
    finally:
        file.write_text(text)


def status(system: Quickstart, path: str, caller: str = "reader") -> int:
    return system.get(path, system.bearer(caller)).status_code


def test_an_edited_policy_takes_effect_within_a_second(system: Quickstart):
    policy = system.config / "policy.yaml"
    assert status(system, "/orders") == 200
    with edited(policy, "roles: [reader]", "roles: [admin]"):
        wait_until(lambda: status(system, "/orders") == 403, "denied", limit_seconds=1)
        assert status(system, "/orders", "admin") == 200
    wait_until(lambda: status(system, "/orders") == 200, "allowed again", limit_seconds=1)


def test_a_policy_edited_to_an_invalid_one_changes_nothing_and_says_why(system: Quickstart):
    """In the log, on /readyz?verbose, and by `doctor`."""
    lines = (system.config / "policy.yaml").read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if "roles: [reader]" in text)
    told = f"policy.yaml:{line}: unknown field 'spec.rules.2.rolse' (did you mean 'roles'?)"
    where = addresses(system.process)["ext_authz health, metrics"]
    with edited(system.config / "policy.yaml", "roles: [reader]", "rolse: [reader]"):
        wait_until(lambda: told in system.process.output, "the log says why", limit_seconds=1)
        shown = httpx2.get(f"{where}/readyz?verbose").json()
        assert (shown["ready"], shown["configuration"]["refused"]["problems"]) == (True, [told])
        assert status(system, "/orders") == 200
        assert status(system, "/admin/reports") == 403
        looked = system.command("doctor")
        assert looked.returncode == 1
        assert "WRONG  ext_authz runs the newest configuration: it was refused" in looked.stdout
    wait_until(
        lambda: httpx2.get(f"{where}/readyz?verbose").json()["configuration"]["refused"] is None,
        "the refusal is over",
    )


def test_an_edited_limit_takes_effect_within_a_second(system: Quickstart):
    token = system.token("--subject", "edits-limits")
    headers = {"authorization": f"Bearer {token}"}
    old, new = "requests_per_unit: 5", "requests_per_unit: 0"
    assert system.get("/limited", headers).status_code == 200
    with edited(system.config / "limits.yaml", old, new):
        wait_until(
            lambda: system.get("/limited", headers).status_code == 429, "none", limit_seconds=1
        )


def test_doctor_finds_nothing_wrong_with_a_healthy_system(system: Quickstart):
    looked = system.command("doctor", "--json")
    assert looked.returncode == 0, looked.stdout
    value = json.loads(looked.stdout)
    assert value["ok"]
    assert len(value["findings"]) > 8
    told = [found["what"] for found in value["findings"]]
    for service in ("ext_authz", "ratelimit_service"):
        assert any(what.startswith(f"{service} serves gRPC by nghttp2 1.") for what in told)


def test_doctor_names_what_does_not_run_and_what_a_stranger_answers(system: Quickstart):
    nobody = f"http://127.0.0.1:{free_port()}"
    with stranger() as somebody:
        wrong = ["--ratelimit", nobody, "--ext-authz", somebody, "--gateway", "http://["]
        looked = system.command("doctor", *wrong)
    assert (looked.returncode, looked.stderr) == (1, "")
    told = [line for line in looked.stdout.splitlines() if line.startswith("WRONG")]
    assert told == [
        f"WRONG  ext_authz answers at {somebody}: something else answers there",
        f"WRONG  ratelimit_service answers at {nobody}: no answer within a second; is it running?",
        "WRONG  the gateway at http://[ denies an unknown caller: no answer within a second",
    ]


@contextmanager
def stranger() -> Iterator[str]:
    """An HTTP server that knows nothing of us; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with serving_in_a_thread(server):
        yield f"http://127.0.0.1:{server.server_address[1]}"


def test_the_demo_and_the_keys_are_readable_by_their_owner_alone(system: Quickstart):
    for name in ("demo.json", "demo.env", "issuer.pem", "pepper", "api_keys.json"):
        assert (system.state / name).stat().st_mode & 0o777 == 0o600, name


def test_no_credential_of_the_demo_is_in_the_log(system: Quickstart):
    for credential in system.demo["credentials"].values():
        assert credential not in system.process.output


def test_a_second_up_on_the_same_state_is_refused_and_touches_nothing(system: Quickstart):
    kept = {path.name: path.read_bytes() for path in system.state.iterdir()}
    second = system.command("up", "--no-envoy", "--ports", "auto")
    assert (second.returncode, second.stdout) == (2, "")
    assert second.stderr == (
        f"meshwarden: {system.state} is in use by `meshwarden up` with pid {system.process.pid} "
        "(give this one --state DIR)\n"
    )
    assert {path.name: path.read_bytes() for path in system.state.iterdir()} == kept


def test_ctrl_c_stops_everything_and_leaves_nothing(system: Quickstart):
    """The last test on this system: it ends it."""
    processes = processes_of(system.process.pid)
    names = ("ext_authz", "ratelimit_service", "sample_upstream", "envoy")
    for name in names:
        assert any(name in words for words in processes.values()), name
    began = time.monotonic()
    system.process.child.send_signal(signal.SIGINT)
    assert system.process.child.wait(STOPPED_WITHIN_SECONDS + 5) == 0
    assert time.monotonic() - began < STOPPED_WITHIN_SECONDS
    assert_nothing_is_left(processes, system.state)
    assert "Traceback" not in system.process.output + system.process.errors


OWN_FOLDER = """\
apiVersion: meshwarden.io/v1alpha1
kind: TokenIssuer
metadata: {name: development}
spec:
  issuer: https://development.meshwarden.invalid
  audiences: [quickstart]
  algorithms: [ES256]
  jwks: {development: true}
---
apiVersion: meshwarden.io/v1alpha1
kind: AccessPolicy
metadata: {name: shop}
spec:
  hosts: ["*"]
  identify: [{jwt: {issuers: [development]}}]
  rules:
    - {name: orders, methods: [GET], paths: [/orders]}
---
apiVersion: meshwarden.io/v1alpha1
kind: RateLimit
metadata: {name: shop}
spec:
  domain: shop
  descriptors:
    - key: rule
      value: orders
      descriptors:
        - {key: principal, rate_limit: {unit: minute, requests_per_unit: 2}}
"""


@pytest.fixture(scope="module")
def own_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quickstart]:
    """A system on a folder that has nothing of the quickstart: not its routes, nor its domain."""
    folder = tmp_path_factory.mktemp("own")
    config, state = folder / "config", folder / "state"
    config.mkdir()
    (config / "shop.yaml").write_text(OWN_FOLDER)
    words = ["up", "--ports", "auto", "--config", str(config), "--state", str(state)]
    with running([*MESHWARDEN, *words]) as process:
        process.wait_until((state / "demo.json").exists, "it is up", limit_seconds=40)
        yield Quickstart(process, json.loads((state / "demo.json").read_text()), config, state)


def test_a_folder_of_ones_own_is_offered_only_what_it_answers_as_stated(own_system: Quickstart):
    requests = own_system.demo["requests"]
    assert [request["name"] for request in requests] == [
        *("no credential", "bad token", "expired token", "reader reads", "reader writes"),
        *("reader in /admin/", "unknown path"),
    ]
    for request in requests:
        assert statuses(request["curl"])[-1] == request["expect"], request["name"]
        assert f"  {request['expect']}  {request['name']} " in own_system.process.output
    assert "anonymous ping" not in own_system.process.output


def test_the_limits_of_the_only_domain_apply_whatever_its_name(own_system: Quickstart):
    answers = [status(own_system, "/orders", "admin") for _ in range(5)]
    assert (answers[0], answers[-1]) == (200, 429)


def test_doctor_sees_that_envoy_asks_for_another_domain(own_system: Quickstart):
    looked = own_system.command("doctor")
    assert looked.returncode == 0, looked.stdout
    with edited(own_system.config / "shop.yaml", "domain: shop", "domain: bank"):
        looked = own_system.command("doctor")
    assert looked.returncode == 1
    assert "WRONG  Envoy asks for the limits of 'bank': it asks for 'shop'" in looked.stdout


def test_a_folder_with_several_domains_is_refused_naming_them(tmp_path: Path):
    (tmp_path / "config").mkdir()
    for name in ("bank", "shop"):
        (tmp_path / "config" / f"{name}.yaml").write_text(f"domain: {name}\n")
    words = ["up", "--ports", "auto", "--config", str(tmp_path / "config")]
    done = meshwarden(*words, state=tmp_path / "state")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Envoy asks for one domain of limits, and there are bank, shop" in done.stderr
    assert not (tmp_path / "state").exists()


def test_without_envoy_and_with_redis_the_services_run_and_count_there(tmp_path: Path):
    """And when one of them dies, the rest is stopped with a message and the status 1."""
    shutil.copytree(CHECKOUT / "examples" / "quickstart", tmp_path / "config")
    state = tmp_path / "state"
    words = [*MESHWARDEN, "up", "--no-envoy", "--ports", "auto", "--state", str(state)]
    with running_redis() as server, redis.Redis(port=server.port) as counters:
        words += ["--config", str(tmp_path / "config"), "--redis", server.url]
        with running(words) as process:
            process.wait_until(
                lambda: "ratelimit gRPC" in process.output, "it is up", limit_seconds=30
            )
            where = addresses(process)
            assert "gateway (Envoy)" not in where
            looked = meshwarden("doctor", "--no-envoy", state=state)
            assert (looked.returncode, "Envoy" in looked.stdout) == (0, False), looked.stdout
            question = {
                "domain": "quickstart",
                "descriptors": [
                    {
                        "entries": [
                            {"key": "rule", "value": "limited"},
                            {"key": "principal", "value": "jwt:rita"},
                        ]
                    }
                ],
            }
            url = f"{where['ratelimit health, metrics, /json']}/json"
            statuses = [httpx2.post(url, json=question).status_code for _ in range(11)]
            assert statuses[0] == 200
            # Five a minute: of eleven, six fall into one, even where another begins meanwhile.
            assert 429 in statuses
            assert counters.dbsize() >= 1
            processes = processes_of(process.pid)
            assert not any("--config-path" in command for command in processes.values())
            assert not any(server.url in command for command in processes.values()), "may be secret"
            part = next(pid for pid, words in processes.items() if "ratelimit_service" in words)
            os.kill(part, signal.SIGKILL)
            assert process.child.wait(STOPPED_WITHIN_SECONDS) == 1
            assert "ratelimit ended with status -9; stopping the rest" in process.output
            assert_nothing_is_left(processes, state)


def test_a_signal_while_it_starts_stops_everything_too(tmp_path: Path):
    """Here it waits for a Redis that is not there; the log says so."""
    words = [*MESHWARDEN, "up", "--no-envoy", "--ports", "auto", "--state", str(tmp_path / "state")]
    with running([*words, "--redis", f"redis://127.0.0.1:{free_port()}"]) as process:
        process.wait_until(
            lambda: "not_ready" in process.output, "ratelimit is not ready", limit_seconds=20
        )
        processes = processes_of(process.pid)
        assert process.stop() == 0
        assert_nothing_is_left(processes, tmp_path / "state")


@pytest.mark.parametrize("awaited", ["addresses.json", ".lock"])
def test_a_closed_terminal_stops_everything_and_leaves_no_credential(tmp_path: Path, awaited: str):
    """SIGHUP comes, and what is written goes nowhere: the log, and the table when it is up."""
    state = tmp_path / "state"
    words = [*MESHWARDEN, "up", "--no-envoy", "--ports", "auto", "--state", str(state)]
    terminal, inner = os.openpty()
    os.set_blocking(terminal, False)

    def is_up() -> bool:
        with suppress(BlockingIOError):
            os.read(terminal, 65_536)
        return (state / awaited).exists()

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # Under nohup the child would ignore it.
    with subprocess.Popen(words, stdout=inner, stderr=inner, cwd=CHECKOUT) as process:
        signal.signal(signal.SIGHUP, before)
        os.close(inner)
        wait_until(is_up, "it is up", limit_seconds=20)
        os.close(terminal)
        processes = processes_of(process.pid)
        process.send_signal(signal.SIGHUP)
        assert process.wait(STOPPED_WITHIN_SECONDS) == 0
        assert_nothing_is_left(processes, state)


def test_what_an_ended_run_left_is_taken_away_before_anything_can_refuse_to_start(tmp_path: Path):
    """Who waits for demo.json would take it for a success."""
    state = tmp_path / "state"
    state.mkdir()
    for name in ("demo.json", "demo.env", "addresses.json"):
        (state / name).write_text("old")
    done = meshwarden("up", "--config", str(tmp_path / "nothing"), state=state)
    assert done.returncode == 2
    assert [path.name for path in state.iterdir()] == ["up.lock"]


def test_a_taken_port_is_told_by_its_number_and_nothing_is_started(tmp_path: Path):
    with ExitStack() as held:
        if not is_listening(6070):  # What somebody else took is as good.
            held.enter_context(socket.create_server(("127.0.0.1", 6070)))
        done = meshwarden("up", "--no-envoy", state=tmp_path / "state")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("meshwarden: port")
    assert "6070 (ratelimit debug)" in done.stderr
    assert (done.stderr.count("\n"), done.stderr.count("--ports auto")) == (1, 1)
    assert not (tmp_path / "state").exists()


def test_a_faulty_configuration_is_refused_before_anything_starts(tmp_path: Path):
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "policy.yaml").write_text("kind: AccessPolicy\n")
    done = meshwarden("up", "--config", str(folder), state=tmp_path / "state")
    assert (done.returncode, done.stdout) == (2, "")
    assert "policy.yaml:1: " in done.stderr
    assert "has faults; nothing was started" in done.stderr
    assert not (tmp_path / "state").exists()
