"""The real Envoy of `make install`, run with a bootstrap document for the length of a block.

Builds no bootstrap: `meshwarden.adapters.envoy` does.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import yaml

from tests.support.processes import CHECKOUT, Running, running

ADMIN_ADDRESS = "--admin-address-path"
DYNAMIC_BASE_ID = "--use-dynamic-base-id"


@dataclass(frozen=True)
class RunningEnvoy:
    """An Envoy that answers requests; its access log is `process.output`."""

    process: Running
    gateway: str
    admin: str

    @property
    def access_log(self) -> list[dict[str, Any]]:
        """The complete entries written so far; Envoy flushes them every 50 ms."""
        complete = self.process.output.rpartition("\n")[0]
        return [json.loads(line) for line in complete.splitlines()]

    def stat(self, name: str) -> int:
        """The value of one counter or gauge now; 0 where Envoy doesn't know it yet."""
        wanted = {"format": "json", "filter": f"^{re.escape(name)}$"}
        answer = httpx2.get(f"{self.admin}/stats", params=wanted)
        values = [found["value"] for found in answer.json()["stats"] if found.get("name") == name]
        return int(values[0]) if values else 0


def envoy_binary() -> Path:
    """Where `make install` put Envoy. Fails, saying so, where it didn't."""
    pattern = ".tools/envoy/lib/python3.*/site-packages/envoy/_bin/envoy"
    for found in sorted(CHECKOUT.glob(pattern)):
        return found
    raise AssertionError(f"no Envoy at {CHECKOUT / pattern}: run `make install`")


def validate(document: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
    """What `envoy --mode validate` says about a bootstrap: `returncode` 0 where it is accepted."""
    with TemporaryDirectory(prefix="meshwarden-test-") as folder:
        return subprocess.run(
            [*_command(_written(document, Path(folder))), "--mode", "validate"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )


@contextmanager
def running_envoy(document: Mapping[str, Any]) -> Iterator[RunningEnvoy]:
    """Run Envoy with `document` and yield it once it is ready.

    Ports in the document may be 0: `gateway` and `admin` say which ones Envoy got.
    """
    with TemporaryDirectory(prefix="meshwarden-test-") as name:
        folder = Path(name)
        address_file = folder / "admin-address"
        command = [
            *_command(_written(document, folder)),
            *(ADMIN_ADDRESS, str(address_file), "--base-id-path", str(folder / "base-id")),
            *(DYNAMIC_BASE_ID, "--concurrency", "1", "--log-level", "warning"),
            *("--file-flush-interval-msec", "50"),
            *("--drain-time-s", "1", "--parent-shutdown-time-s", "2"),
        ]
        with running(command) as process:
            yield _ready(process, address_file)


@contextmanager
def hot_restarted(envoy: RunningEnvoy) -> Iterator[RunningEnvoy]:
    """Its successor, which takes over its listening sockets, for the length of the block; the
    predecessor drains and ends by itself.
    """
    command = [str(word) for word in envoy.process.child.args]  # type: ignore[union-attr]
    base_id = Path(command[command.index("--base-id-path") + 1])
    place = command.index(DYNAMIC_BASE_ID)
    command[place : place + 1] = ["--base-id", base_id.read_text().strip(), "--restart-epoch", "1"]
    address_file = base_id.with_name("admin-address-of-the-successor")
    command[command.index(ADMIN_ADDRESS) + 1] = str(address_file)
    with running(command) as process:
        yield _ready(process, address_file)


def _ready(process: Running, address_file: Path) -> RunningEnvoy:
    """The Envoy, once it is ready."""
    process.wait_until(
        lambda: address_file.exists() and address_file.read_text(), "Envoy has an admin"
    )
    admin = f"http://{address_file.read_text().strip()}"
    process.wait_until(lambda: _is_ready(admin), "Envoy is ready")
    return RunningEnvoy(process, _gateway(admin), admin)


def _written(document: Mapping[str, Any], folder: Path) -> Path:
    file = folder / "bootstrap.yaml"
    file.write_text(yaml.safe_dump(dict(document)))
    return file


def _command(bootstrap: Path) -> list[str]:
    return [str(envoy_binary()), "--config-path", str(bootstrap)]


def _is_ready(admin: str) -> bool:
    try:
        return httpx2.get(f"{admin}/ready", timeout=1).status_code == 200
    except httpx2.TransportError:
        return False


def _gateway(admin: str) -> str:
    """The URL of the first listener; empty where there is none (yet: istiod sends them)."""
    statuses = httpx2.get(f"{admin}/listeners", params={"format": "json"}).json()
    for status in statuses.get("listener_statuses", []):
        address = status["local_address"]["socket_address"]
        return f"http://{address['address']}:{address['port_value']}"
    return ""
