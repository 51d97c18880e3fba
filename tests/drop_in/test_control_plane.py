"""Our service driven by go-control-plane, the library that Envoy Gateway serves limits with.

Each snapshot is one version; what the library does with an ACK, a NACK and a version that is known
already is its own.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.ads_server import stream_arguments
from tests.support.limit_service import Served, served
from tests.support.ports import free_port, is_listening
from tests.support.processes import wait_until

SOURCE = Path(__file__).with_name("control_plane")
BUILD_SECONDS_AT_MOST = 600


class ControlPlane:
    """The running server."""

    def __init__(self, program: Path, port: int, output: Path) -> None:
        self._output = output
        with output.open("wb") as written:
            self._process = subprocess.Popen(
                [program, f"127.0.0.1:{port}"], stdin=subprocess.PIPE, stdout=written
            )
        wait_until(lambda: is_listening(port), "the control plane listens")

    def serve(self, version: str, *domains: str) -> None:
        """Make a snapshot of these domains, each with a limit of one a year for the key `one`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{version} {' '.join(domains)}\n".encode())
        self._process.stdin.flush()

    def requests(self) -> list[dict[str, Any]]:
        """Node, version, nonce and error of each request so far."""
        return [json.loads(line) for line in self._output.read_text().splitlines()]

    def stop(self) -> None:
        self._process.terminate()
        self._process.communicate(timeout=10)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server, built from `control_plane/main.go`."""
    built = tmp_path_factory.mktemp("built") / "control_plane"
    command = ["go", "build", "-o", str(built), "."]
    subprocess.run(command, cwd=SOURCE, check=True, timeout=BUILD_SECONDS_AT_MOST)
    return built


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[Served, int]]:
    """Our service, told of a control plane at a port where none is yet."""
    port = free_port()
    arguments = stream_arguments(
        f"127.0.0.1:{port}",
        **{"xds.connect-retry-seconds": 0.1, "xds.backoff-initial-seconds": 0.1},
    )
    with served(tmp_path, *arguments, waits_for_ready=False) as running:
        yield running, port


@pytest.mark.timeout(BUILD_SECONDS_AT_MOST)
def test_snapshots_are_taken_refused_and_not_sent_again(
    program: Path, service: tuple[Served, int], tmp_path: Path
):
    running, port = service
    with ExitStack() as stack:
        control = ControlPlane(program, port, tmp_path / "first.jsonl")
        stack.callback(control.stop)
        control.serve("v1", "shop")
        running.process.wait_until(running.is_ready, "the first snapshot is taken")
        assert [running.ask("one", domain="shop").overall_code for _ in range(2)] == [1, 2]
        control.serve("v2", "shop", "-")
        wait_until(lambda: control.requests()[-1]["error"], "the second is refused")
        control.serve("v3", "shop", "other")
        wait_until(lambda: control.requests()[-1]["version"] == "v3", "the third is taken")
        asked = control.requests()
        assert {request["node"] for request in asked} == {"edge"}
        assert [request["version"] for request in asked[:3]] == ["", "v1", "v1"]
        refused = [request["error"] for request in asked if request["error"]]
        assert set(refused) == {"refused: config file cannot have empty domain"}
        # The library sends what was refused again at once.
        assert len(refused) <= 2
        assert len(running.lines("/rlconfig")) == 2
    wait_until(lambda: running.metric("configuration_stream_is_open 0.0"), "it is cut")
    assert running.ask("one", "away", domain="other").overall_code == 1
    with ExitStack() as stack:
        control = ControlPlane(program, port, tmp_path / "second.jsonl")
        stack.callback(control.stop)
        wait_until(control.requests, "it is found again")
        control.serve("v3", "shop", "other")
        control.serve("v4", "third")
        wait_until(lambda: len(control.requests()) == 2, "only what is new is sent")
        versions = [(request["version"], request["nonce"]) for request in control.requests()]
        assert versions[0] == ("v3", "")
        assert versions[1][0] == "v4"
        assert running.ask("one", domain="third").overall_code == 1
