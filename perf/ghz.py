"""ghz: calls a server for some seconds, and tells how long it took."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.built_programs import http2_client


class Answered(NamedTuple):
    """What the calls came to, all of which were answered with OK."""

    count: int
    calls_a_second: float
    p50_ms: float
    p99_ms: float


def call(
    port: int, options: Sequence[str | Path], *, callers: int, connections: int, seconds: float
) -> Answered:
    """Call a port of this machine; `options` say what. Ends the program when a call fails."""
    command = [http2_client("ghz"), "--insecure", *options, "--format", "json"]
    command += ["--concurrency", str(callers), "--connections", str(connections)]
    command += ["--duration", f"{seconds}s", "--duration-stop", "wait", f"127.0.0.1:{port}"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    report = json.loads(done.stdout)
    if set(report["statusCodeDistribution"]) != {"OK"}:
        sys.exit(f"{' '.join(map(str, command))}: {report['statusCodeDistribution']}")
    latency = {row["percentage"]: row["latency"] / 1e6 for row in report["latencyDistribution"]}
    return Answered(report["count"], report["rps"], latency[50], latency[99])
