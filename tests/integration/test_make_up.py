"""`make up` and the README's first page, as a newcomer types them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.curl import statuses
from tests.support.processes import CHECKOUT
from tests.support.quickstart import (
    Quickstart,
    assert_nothing_is_left,
    processes_of,
    running_quickstart,
)

STOPPED_WITHIN_SECONDS = 10


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quickstart]:
    with running_quickstart(tmp_path_factory.mktemp("make"), with_make=True) as running:
        yield running


def readme_commands() -> list[tuple[str, int]]:
    """Each curl command of "Sixty seconds" and the status that its comment promises, else 200."""
    text = (CHECKOUT / "README.md").read_text().partition("## Sixty seconds")[2]
    block = re.findall(r"```\n(.*?)```", text, re.DOTALL)[1]
    lines = [line.partition("  #") for line in block.splitlines() if line.startswith("curl")]
    return [
        (command.strip(), int(comment.strip().partition(":")[0] or 200))
        for command, _, comment in lines
    ]


def test_every_command_of_the_readme_answers_as_it_says(system: Quickstart):
    commands = readme_commands()
    assert len(commands) == 6
    for command, expected in commands:
        typed = command.replace("curl -i", "curl -sS", 1)
        typed = typed.replace("http://127.0.0.1:10000", system.gateway)
        for line in (system.state / "demo.env").read_text().splitlines():
            name, _, value = line.partition("=")
            typed = typed.replace(f"${name}", value)
        typed = re.sub(r"\$\((.*?)\)", lambda found: output_of(found[1], system.state), typed)
        assert "$" not in typed
        assert statuses(typed)[-1] == expected, command


def output_of(command: str, state: Path) -> str:
    """What a command of the README prints, on the state of the running system."""
    program, *words = command.split()
    assert program == ".venv/bin/meshwarden"
    return subprocess.run(
        [sys.executable, "-m", "meshwarden.cli", *words],
        env={**os.environ, "MESHWARDEN_STATE": str(state)},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout.strip()


def test_sigterm_to_make_stops_everything_and_leaves_nothing(system: Quickstart):
    """The last test on this system: it ends it."""
    processes = processes_of(system.process.pid)
    assert len(processes) >= 5
    began = time.monotonic()
    system.process.child.terminate()
    system.process.child.wait(STOPPED_WITHIN_SECONDS)
    assert time.monotonic() - began < STOPPED_WITHIN_SECONDS
    assert_nothing_is_left(processes, system.state)
