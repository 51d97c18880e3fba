"""The real envoyproxy/ratelimit of `make test-drop-in`: where it is, and what it says of a folder.

Knows nothing of our service; `side_by_side.py` starts the two together.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.built_programs import built_program

ACCEPTED = "all rate limit configs ok"


def reference_program(name: str) -> Path:
    """`service_cmd` or `config_check_cmd`. Fails, saying so, where there is none."""
    return built_program(
        name,
        variable="REFERENCE_RATELIMIT",
        folder="envoyproxy-ratelimit-*",
        tier="test-drop-in",
    )


def reference_refusal(folder: Path, *, merges_domains: bool = False) -> str | None:
    """What the reference's own config check says is wrong with the files of `folder`, the file's
    name first; None where it accepts them.
    """
    command = [str(reference_program("config_check_cmd")), "-config_dir", str(folder)]
    if merges_domains:
        command.append("-merge_domain_configs")
    checked = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if checked.returncode == 0:
        assert ACCEPTED in checked.stdout
        return None
    # What concerns one file alone ends the reference's check with a panic.
    said = checked.stdout.partition("error loading rate limit configs: ")[2].rstrip("\n")
    if not said:
        panic = checked.stderr.removeprefix("panic: ").partition("\n\ngoroutine ")[0]
        said = panic.replace("\n\t", "\n")
    return said.replace(f"{folder}/", "")
