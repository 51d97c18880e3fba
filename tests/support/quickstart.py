"""The whole system as a user starts it: `meshwarden up`, on free ports and a copy of the
quickstart.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.support.processes import CHECKOUT, Running, running

MESHWARDEN = [sys.executable, "-m", "meshwarden.cli"]


@dataclass(frozen=True)
class Quickstart:
    """A running system: `demo` is its demo.json, `config` the folder that may be edited."""

    process: Running
    demo: dict[str, Any]
    config: Path
    state: Path

    @property
    def gateway(self) -> str:
        return str(self.demo["gateway"])

    def bearer(self, caller: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.demo['credentials'][caller]}"}

    def get(self, path: str, headers: Any = None, **options: Any) -> httpx2.Response:
        return httpx2.get(f"{self.gateway}{path}", headers=headers, timeout=10, **options)

    def command(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """A meshwarden command on this system's state and configuration."""
        return meshwarden(*arguments, state=self.state, stdin=stdin)

    def token(self, *arguments: str) -> str:
        done = self.command("token", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def meshwarden(
    *arguments: str, state: Path | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [*MESHWARDEN, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=30,
        cwd=CHECKOUT,
        env={**os.environ, "COLUMNS": "200", **({"MESHWARDEN_STATE": str(state)} if state else {})},
        check=False,
    )


@contextmanager
def running_quickstart(
    folder: Path, *, with_make: bool = False, environment: Mapping[str, str] | None = None
) -> Iterator[Quickstart]:
    """Run `meshwarden up` in `folder` until the block ends; `with_make`: as `make up` does."""
    config, state = folder / "config", folder / "state"
    shutil.copytree(CHECKOUT / "examples" / "quickstart", config)
    options = ["--ports", "auto", "--config", str(config), "--state", str(state)]
    command = [*MESHWARDEN, "up", *options]
    if with_make:
        # The tests themselves may run under make, whose variables are not this one's.
        command = ["env", "-u", "MAKEFLAGS", "-u", "MAKELEVEL", "make", "up"]
        command.append(f"UP={' '.join(options)}")
    # Its coverage is that of the tests of the parts, and of those of `up` that start it themselves.
    with running(command, environment=environment, is_measured=False) as process:
        file = state / "demo.json"
        process.wait_until(file.exists, "demo.json is written", limit_seconds=40)
        yield Quickstart(process, json.loads(file.read_text()), config, state)


def processes_of(pid: int) -> dict[int, str]:
    """Every process that `pid` started, directly or not, and its command line (Linux)."""
    found: dict[int, str] = {}
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            found[int(child)] = b" ".join(words).decode()
            waiting.append(int(child))
    return found


def assert_all_ended(processes: dict[int, str]) -> None:
    left = {pid: words for pid, words in processes.items() if Path(f"/proc/{pid}").exists()}
    assert left == {}


def assert_nothing_is_left(processes: dict[int, str], state: Path) -> None:
    assert_all_ended(processes)
    for name in ("demo.json", "demo.env", "addresses.json"):
        assert not (state / name).exists(), name
