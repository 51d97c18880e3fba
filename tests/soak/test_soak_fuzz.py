"""Any bytes, for `SOAK_SECONDS` (60) a target: no crash, no hang, no allow that is not due.

Coverage leads the search (atheris, libFuzzer); `make test-soak` installs it in an environment of
its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.soak.targets import TARGETS
from tests.support.processes import CHECKOUT

SECONDS = int(os.environ.get("SOAK_SECONDS", "60"))
PYTHON = CHECKOUT / ".tools" / "atheris" / "bin" / "python"


@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.parametrize("target", TARGETS)
def test_no_input_breaks_a_promise(target: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    kept = CHECKOUT / ".meshwarden" / "soak"
    done = subprocess.run(
        [PYTHON, "-m", "tests.soak.fuzz", target, str(SECONDS), str(kept)],
        env={**os.environ, "PYTHONPATH": f"{CHECKOUT}:{sysconfig.get_path('purelib')}"},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    found = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    assert found is not None, done.stderr[-2000:]
    with capsys.disabled():
        print(f"\n{target}: {int(found[1]):,} inputs in {SECONDS} s")  # noqa: T201
    assert int(found[1]) > 100
