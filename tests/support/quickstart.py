"""The whole system as a user starts it: `meshwarden up`, on free ports and a copy of the
quickstart.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
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
def running_quickstart(folder: Path, arguments: Sequence[str] = ()) -> Iterator[Quickstart]:
    """Run `meshwarden up` in `folder` until the block ends."""
    config, state = folder / "config", folder / "state"
    shutil.copytree(CHECKOUT / "examples" / "quickstart", config)
    command = [*MESHWARDEN, "up", "--ports", "auto", "--config", str(config)]
    with running([*command, "--state", str(state), *arguments]) as process:
        file = state / "demo.json"
        process.wait_until(file.exists, "demo.json is written", limit_seconds=40)
        yield Quickstart(process, json.loads(file.read_text()), config, state)
