"""A service process from its start to its end: ready, not ready, drained, replaced, refused."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import ext_authz.app
import ext_authz.settings
import ratelimit_service.app
import ratelimit_service.settings
from meshwarden.adapters.protobuf import message_class
from meshwarden.adapters.service import run
from tests.support.ports import free_ports, is_listening
from tests.support.processes import CHECKOUT, Running, running, wait_until

POLICY = """
apiVersion: meshwarden.io/v1alpha1
kind: AccessPolicy
metadata: {name: open}
spec:
  hosts: ["*"]
  rules: [{name: ping, callers: anyone, paths: [/ping]}]
"""
LOOPBACK = ("--grpc.host", "127.0.0.1", "--http.host", "127.0.0.1")
ANY_PORTS = (*LOOPBACK, "--grpc.port=0", "--grpc.streaming-port=0", "--http.port=0")


class Life:
    """A running ext_authz."""

    def __init__(self, process: Running, grpc_port: int, http_port: int) -> None:
        self.process = process
        self.grpc_port = grpc_port
        self.http = f"http://127.0.0.1:{http_port}"

    def ready(self) -> httpx2.Response | None:
        try:
            return httpx2.get(f"{self.http}/readyz?verbose", timeout=2)
        except httpx2.TransportError:
            return None

    def wait_for_ready(self, status: int) -> dict[str, Any]:
        found: list[httpx2.Response] = []

        def is_so() -> bool:
            answer = self.ready()
            found[:] = [answer] if answer is not None else []
            return answer is not None and answer.status_code == status

        self.process.wait_until(is_so, f"/readyz is {status}")
        body: dict[str, Any] = found[0].json()
        return body

    def wait_for_workers(self, count: int) -> None:
        """Return when `count` workers have been ready, those that ended included."""
        self.process.wait_until(
            lambda: self.process.output.count('"event": "ready"') == count, f"{count} are ready"
        )

    def allows(self, path: str = "/ping") -> bool:
        """Whether a real Check allows a request for `path`."""
        request = message_class("envoy.service.auth.v3.CheckRequest")()
        http = request.attributes.request.http
        http.method, http.host, http.path = "GET", "any", path
        answer_class = message_class("envoy.service.auth.v3.CheckResponse")
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel:
            check = channel.unary_unary("/envoy.service.auth.v3.Authorization/Check")
            answer = answer_class.FromString(check(request.SerializeToString(), timeout=5))
        return bool(answer.status.code == 0)

    def health(self) -> int:
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            return int(check(health_pb2.HealthCheckRequest(), timeout=5).status)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "config"
    made.mkdir()
    (made / "policy.yaml").write_text(POLICY)
    return made


@contextmanager
def living(folder: Path, *arguments: str) -> Iterator[Life]:
    """ext_authz on free ports, which its log tells."""
    with running([*command("ext_authz", folder), *ANY_PORTS, *arguments]) as process:
        process.wait_until(lambda: "started" in process.output, "it has started")
        line = next(line for line in process.output.splitlines() if '"started"' in line)
        started = json.loads(line)
        yield Life(process, started["grpc_port"], started["http_ports"][0])


def command(program: str, folder: Path) -> list[str]:
    return [sys.executable, "-m", program, "--configuration.folder", str(folder)]


def children(pid: int) -> set[int]:
    """The processes that `pid` started and that still run (Linux)."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in listed}


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_sigterm_means_not_ready_then_drained_then_ended_with_0(folder: Path):
    """While it drains it still answers; the whole takes no longer than the two bounds."""
    with living(folder, "--drain-seconds", "0.7", "--stop-seconds", "2") as life:
        life.wait_for_ready(200)
        assert life.health() == health_pb2.HealthCheckResponse.SERVING
        began = time.monotonic()
        life.process.child.terminate()
        told = life.wait_for_ready(503)
        assert told["reasons"] == {"draining": "the service is stopping"}
        assert life.allows()
        assert life.health() == health_pb2.HealthCheckResponse.NOT_SERVING
        assert life.process.child.wait(5) == 0
        assert 0.7 <= time.monotonic() - began < 0.7 + 2 + 1
        events = [json.loads(line)["event"] for line in life.process.output.splitlines()]
        assert events[-2:] == ["draining", "stopped"]
        assert life.process.errors == ""


def test_it_is_ready_only_with_its_first_valid_configuration(folder: Path):
    """Until then it is alive, not ready, and denies every request in-band."""
    (folder / "policy.yaml").write_text(POLICY.replace("callers: anyone", "caller: anyone"))
    with living(folder) as life:
        told = life.wait_for_ready(503)
        assert told["reasons"] == {"configuration": "the configuration is refused"}
        assert told["configuration"]["refused"]["problems"] == [
            "policy.yaml:7: unknown field 'spec.rules.0.caller' (did you mean 'callers'?)"
        ]
        assert httpx2.get(f"{life.http}/healthz").status_code == 200
        assert life.health() == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not life.allows()
        (folder / "policy.yaml").write_text(POLICY)
        told = life.wait_for_ready(200)
        assert told["configuration"]["refused"] is None
        assert life.allows()
        assert not life.allows("/other")


def test_a_file_that_would_crash_the_parser_changes_nothing(folder: Path):
    with living(folder) as life:
        life.wait_for_ready(200)
        (folder / "deep.yaml").write_text("a: " + "[" * 100_000)
        life.process.wait_until(
            lambda: "nested too deeply" in life.process.output, "the refusal is logged"
        )
        assert life.allows()
        refused = life.wait_for_ready(200)["configuration"]["refused"]
        assert refused["problems"] == ["deep.yaml:1: not YAML: nested too deeply"]


def test_all_wrong_settings_are_told_at_once(folder: Path):
    words = [*command("ext_authz", folder), "--grpc.port", "70000", "--log.format", "odd"]
    wrong = {"EXT_AUTHZ_HTTP__PORT": "x", "EXT_AUTHZ_GRCP__PORT": "1", "EXT_AUTHZ_KEYS": "x"}
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        cwd=CHECKOUT,
        env={**os.environ, **wrong},
    )
    assert (done.returncode, done.stdout) == (2, "")
    told = done.stderr.splitlines()
    assert all(line.startswith("ext_authz: ") for line in told)
    for name in ("grpc.port", "http.port", "keys", "log.format", "EXT_AUTHZ_GRCP__PORT"):
        assert any(name in line for line in told), name
    assert len(told) == 5


def refused(
    capsys: pytest.CaptureFixture[str], program: str, folder: Path | None, *arguments: str
) -> str:
    """What a service tells that refuses to start, run in this process to its exit status 2."""
    model, build = {
        "ext_authz": (ext_authz.settings.Settings, ext_authz.app.build),
        "ratelimit_service": (ratelimit_service.settings.Settings, ratelimit_service.app.build),
    }[program]
    named = [] if folder is None else ["--configuration.folder", str(folder)]
    assert run(program, model, build, [*named, *arguments]) == 2  # type: ignore[arg-type]
    return capsys.readouterr().err


@pytest.mark.usefixtures("logging_as_it_was")
@pytest.mark.parametrize(
    ("program", "flag"),
    [
        ("ext_authz", "--grpc.port"),
        ("ext_authz", "--grpc.streaming-port"),
        ("ext_authz", "--http.port"),
        ("ratelimit_service", "--debug.port"),
    ],
)
def test_a_taken_port_is_told_by_its_number(
    folder: Path, capsys: pytest.CaptureFixture[str], program: str, flag: str
):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = [*ANY_PORTS, f"{flag}={port}"]
        if program == "ratelimit_service":
            arguments += ["--debug.host=127.0.0.1"]
        assert refused(capsys, program, folder, *arguments) == (
            f"{program}: port {port} on 127.0.0.1 can't be bound: Address already in use; "
            "stop what listens there, or choose another port\n"
        )


@pytest.mark.usefixtures("logging_as_it_was")
@pytest.mark.parametrize(
    ("program", "arguments", "told"),
    [
        ("ratelimit_service", ["--workers", "2"], "use Redis (--store.kind redis)"),
        ("ext_authz", ["--keys.file", "x"], "keys.file and keys.pepper_file go together"),
        ("ext_authz", ["--workers=2", "--grpc.port=0"], "several workers need fixed ports"),
        ("ext_authz", [*ANY_PORTS, "--grpc.host=no.host.invalid"], "no.host.invalid can't be"),
    ],
)
def test_what_can_not_work_is_refused_at_start(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    program: str,
    arguments: list[str],
    told: str,
):
    assert told in refused(capsys, program, folder, *arguments)


@pytest.mark.usefixtures("logging_as_it_was")
def test_without_a_folder_it_says_how_to_name_one(capsys: pytest.CaptureFixture[str]):
    for program in ("ext_authz", "ratelimit_service"):
        told = refused(capsys, program, None, *ANY_PORTS)
        assert told.startswith(f"{program}: no configuration: set --configuration.folder")


@contextmanager
def working(folder: Path, *arguments: str) -> Iterator[Life]:
    """ext_authz with two workers on reserved ports."""
    grpc_port, streaming_port, http_port = free_ports(3)
    words = [*command("ext_authz", folder), *LOOPBACK, "--workers", "2", "--stop-seconds", "2"]
    words += ["--grpc.port", str(grpc_port), "--grpc.streaming-port", str(streaming_port)]
    words += ["--http.port", str(http_port), *arguments]
    with running(words) as process:
        yield Life(process, grpc_port, http_port)


def test_a_worker_that_dies_is_replaced_and_all_end_together(folder: Path):
    """Also where the stop comes between a death and the replacement, which is then not started."""
    with working(folder) as life:
        life.wait_for_workers(2)
        first = children(life.process.pid)
        assert len(first) == 2
        assert all(life.allows() for _ in range(10))
        os.kill(min(first), signal.SIGKILL)
        life.wait_for_workers(3)
        second = children(life.process.pid)
        assert len(second) == 2
        assert min(first) not in second
        assert life.allows()
        os.kill(min(second), signal.SIGKILL)
        life.process.wait_until(
            lambda: life.process.output.count("worker_died") == 2, "its death is told"
        )
        assert life.process.stop(limit_seconds=5) == 0
        assert all(is_gone(pid) for pid in second)
        assert life.process.output.count('"started"') == 3


def test_workers_end_when_their_supervisor_is_killed(folder: Path):
    with working(folder) as life:
        life.wait_for_workers(2)
        workers = children(life.process.pid)
        life.process.child.kill()
        wait_until(lambda: all(is_gone(pid) for pid in workers), "the workers have ended")
        assert not is_listening(life.grpc_port)


def test_workers_that_can_not_start_end_everything_with_their_status(folder: Path):
    with working(folder, "--keys.file", "x") as life:
        assert life.process.child.wait(15) == 2
        assert "keys.file and keys.pepper_file go together" in life.process.errors
