"""A dated result in `perf/results/`: what was measured, where, with which versions."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path("perf/results")
PACKAGES = ("grpcio", "protobuf", "pyjwt", "cryptography", "uvloop", "redis", "cel-expr-python")


def described(measured: dict[str, Any]) -> dict[str, Any]:
    """`measured` with its date, machine and versions."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "load_before": os.getloadavg()[0],
        },
        "versions": {name: version(name) for name in PACKAGES} | {"envoy": "1.40.0"},
        **measured,
    }


def write(what: str, measured: dict[str, Any]) -> int:
    """Write and print a result of its own; 0."""
    RESULTS.mkdir(exist_ok=True)
    name = RESULTS / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}-{what}.json"
    text = json.dumps(described(measured), indent=2) + "\n"
    name.write_text(text)
    print(text)
    print(f"written: {name}")
    return 0
