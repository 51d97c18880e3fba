"""Running k6: its metrics, and whether its thresholds hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

K6 = ".tools/k6/bin/k6"
THRESHOLD_CROSSED = 99


def run(
    script: str, folder: Path, environment: Mapping[str, str], *, seconds: int
) -> tuple[dict[str, Any], bool]:
    """What `script` measured within about `seconds`; `folder` is for its summary. Ends the process
    where k6 itself fails.
    """
    result = folder / "k6.json"
    command = [K6, "run", "--quiet", "--no-usage-report", script]
    done = subprocess.run(
        command,
        env={**os.environ, **environment, "SECONDS": str(seconds), "RESULT": str(result)},
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=False,
    )
    if done.returncode not in (0, THRESHOLD_CROSSED):
        sys.exit(f"k6 failed:\n{done.stdout}{done.stderr}")
    metrics: dict[str, Any] = json.loads(result.read_text())
    return metrics, done.returncode == 0
