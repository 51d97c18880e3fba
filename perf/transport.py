"""What a unary call costs the server, by transport: nghttp2, grpcio, and grpc-go where Go is.

All servers run at once, each the same trivial handler; the numbers of callers are interleaved in
rounds. ghz calls over four connections (one, where one calls). CPU a call is user and system time
of the server's process from /proc; with `metadata` each call has a traceparent and an
x-request-id of its own.

    make test-transport && python -m perf.transport     writes a dated result into perf/results/
"""

from __future__ import annotations

import base64
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from perf import ghz
from perf.gateway import cpu_seconds
from perf.result import write
from tests.support.grpc_service import SERVICE, TRANSPORTS
from tests.support.processes import CHECKOUT, running
from tests.support.transport_process import served_apart

ROUNDS = 3
SECONDS = 2
CALLERS = (1, 8, 32, 128)
CALL = f"{SERVICE}/Same"
MESSAGE_BYTES = 1200
REFERENCE = CHECKOUT / "perf" / "grpc_go"
PROTO = """
syntax = "proto3";
package tested.v1;
import "google/protobuf/wrappers.proto";
service Echo { rpc Same(google.protobuf.BytesValue) returns (google.protobuf.BytesValue); }
"""
METADATA = json.dumps(
    {
        "traceparent": "00-{{newUUID}}-01",
        "x-request-id": "{{newUUID}}",
    }
)


@dataclass(frozen=True)
class System:
    """A server under test."""

    name: str
    port: int
    pid: int


def measure() -> dict[str, Any]:
    """By system, callers and metadata: calls a second, latencies in milliseconds, CPU in us."""
    with TemporaryDirectory(prefix="meshwarden-perf-") as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "echo.proto").write_text(PROTO)
        systems = []
        for transport in TRANSPORTS:
            server = stack.enter_context(served_apart(transport))
            systems.append(System(transport, server.port, server.process.pid))
        if shutil.which("go"):
            systems.append(stack.enter_context(grpc_go(folder)))
        rows: dict[tuple[str, int, bool], list[dict[str, float]]] = {}
        for _ in range(ROUNDS):
            for callers in CALLERS:
                for system in systems:
                    for has_metadata in (False, True):
                        row = timed(system, folder, callers, has_metadata=has_metadata)
                        rows.setdefault((system.name, callers, has_metadata), []).append(row)
    return {
        "seconds_a_row": SECONDS,
        "rounds": ROUNDS,
        "rows": [
            {"system": name, "callers": callers, "metadata": has_metadata}
            | {
                figure: [
                    round(pick([row[figure] for row in found]), 3)
                    for pick in (min, statistics.median, max)
                ]
                for figure in found[0]
            }
            for (name, callers, has_metadata), found in rows.items()
        ],
    }


@contextmanager
def grpc_go(folder: Path) -> Iterator[System]:
    """The same handler on grpc-go, built here; one thread runs its code, as ours have one."""
    program = folder / "grpc_go"
    subprocess.run(["go", "build", "-o", program, "."], cwd=REFERENCE, check=True, timeout=600)
    with running([program], environment={"GOMAXPROCS": "1"}) as process:
        process.wait_until(lambda: "\n" in process.output, "the port is told")
        yield System("grpc-go", int(process.output.split()[0]), process.pid)


def timed(system: System, folder: Path, callers: int, *, has_metadata: bool) -> dict[str, float]:
    """One row; every call must be answered."""
    body = json.dumps(base64.b64encode(bytes(MESSAGE_BYTES)).decode())
    options = ["--proto", folder / "echo.proto", "--call", CALL, "--data", body]
    options += ["--metadata", METADATA] if has_metadata else []
    before = cpu_seconds(system.pid)
    answered = ghz.call(
        system.port, options, callers=callers, connections=min(4, callers), seconds=SECONDS
    )
    spent = cpu_seconds(system.pid) - before
    return {
        "calls_a_second": answered.calls_a_second,
        "p50_ms": answered.p50_ms,
        "p99_ms": answered.p99_ms,
        "cpu_us": spent / answered.count * 1e6,
    }


if __name__ == "__main__":
    sys.exit(write("transport", measure()))
