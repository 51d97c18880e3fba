"""`make up-istio` as its reader meets it: what it prints, done word by word, and its end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support.curl import statuses
from tests.support.processes import CHECKOUT, Running, running, wait_until
from tests.support.quickstart import assert_all_ended, processes_of

pytestmark = pytest.mark.timeout(240)
START_SECONDS = 150
STOP_SECONDS = 30
LAST_WORD = "Ctrl-C stops everything."


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the demo and what it starts write their temporary files."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def demo(temporary: Path) -> Iterator[Running]:
    command = [sys.executable, "-m", "tests.istio.demo"]
    with running(command, environment={"TMPDIR": str(temporary)}, is_measured=False) as process:
        process.wait_until(
            lambda: LAST_WORD in process.output, "it tells all", limit_seconds=START_SECONDS
        )
        yield process


def printed(demo: Running, pattern: str) -> list[str]:
    """What the pattern's group stands for in each line that it fits."""
    found: list[str] = re.findall(rf"^  {pattern}$", demo.output, re.MULTILINE)
    assert found, f"no {pattern} in:\n{demo.output}"
    return found


def typed(demo: Running, command: str, cache: Path) -> str:
    """What a shell writes that was told to export what the demo says."""
    (export,) = printed(demo, "(export .*)")
    done = subprocess.run(
        ["bash", "-ec", f"set -o pipefail; {export}; {command}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "KUBECACHEDIR": str(cache)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_it_says_to_try_answers_as_it_says(demo: Running, tmp_path: Path):
    *requests, after = printed(demo, r"(\d{3}  .*curl .*)")
    assert [line[:3] for line in requests] == ["401", "200", "403", "429"]
    for line in requests:
        assert int(line[:3]) in statuses(line[line.index("curl ") :]), line
    (change,) = printed(demo, r"(.*kubectl apply.*)")
    assert "accesspolicy.meshwarden.io/orders" in typed(demo, change, tmp_path)
    again = after[after.index("curl ") :]
    wait_until(lambda: statuses(again) == [int(after[:3])], "it is in force")
    (look,) = printed(demo, "(kubectl get .*)")
    wait_until(
        lambda: "True" in typed(demo, look, tmp_path), "its status is written", limit_seconds=20
    )


def test_the_kubectl_that_it_names_is_the_one_that_is_found(demo: Running, tmp_path: Path):
    (named,) = re.findall(r"\(kubectl is (.*)\)", demo.output)
    assert typed(demo, "command -v kubectl", tmp_path).strip() == named


def test_everything_listens_where_it_says(demo: Running):
    addresses = printed(demo, r".*?  (https?://127\.0\.0\.1:\d+\S*)")
    assert len(addresses) == 7
    for address in addresses:
        assert httpx2.get(address, verify=False, timeout=10).status_code < 500, address


def test_ctrl_c_stops_everything_and_leaves_nothing(demo: Running, temporary: Path):
    """The last test of this demo: it ends it."""
    processes = processes_of(demo.pid)
    names = ("kine", "kube-apiserver", "pilot-discovery", "envoy", "ext_authz", "ratelimit_service")
    for name in names:
        assert any(name in words for words in processes.values()), name
    demo.child.send_signal(signal.SIGINT)
    assert demo.child.wait(STOP_SECONDS) == 0
    assert_all_ended(processes)
    assert list(temporary.iterdir()) == []
    assert "Traceback" not in demo.output + demo.errors


def test_ctrl_c_while_it_starts_leaves_nothing(tmp_path: Path):
    """As a terminal sends it: to every process at once, and a second time."""
    command = ["setsid", sys.executable, "-m", "tests.istio.demo"]
    with running(command, environment={"TMPDIR": str(tmp_path)}, is_measured=False) as process:
        process.wait_until(
            lambda: any("kube-apiserver" in words for words in processes_of(process.pid).values()),
            "the API server starts",
            limit_seconds=START_SECONDS,
        )
        processes = processes_of(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.child.wait(STOP_SECONDS) == 0
        assert_all_ended(processes)
        assert list(tmp_path.iterdir()) == []
        assert process.errors == ""
        assert process.output.endswith("stopped\n")


def test_make_runs_it_with_the_tools():
    words = ["env", "-u", "MAKEFLAGS", "-u", "MAKELEVEL", "make", "--dry-run", "up-istio"]
    done = subprocess.run(
        words, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=True
    )
    assert "python -m tests.istio.demo" in done.stdout
