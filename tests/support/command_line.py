"""`meshwarden` called in this process, as a user types it."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from meshwarden.cli import main


@dataclass(frozen=True)
class Done:
    """What a command printed, and its exit status."""

    status: int
    output: str
    errors: str

    @property
    def value(self) -> Any:
        return json.loads(self.output)


Command = Callable[..., Done]


def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """What runs `meshwarden` with the words that it is given."""

    def run(*arguments: str | Path, stdin: bytes = b"") -> Done:
        monkeypatch.setattr(sys, "argv", ["meshwarden", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        status: str | int | None = 0
        try:
            main()
        except SystemExit as end:
            status = end.code
        told = capsys.readouterr()
        return Done(int(status or 0), told.out, told.err)

    return run
