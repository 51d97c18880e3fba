"""How commands speak: text on a terminal, one JSON value with `--json`, problems on standard
error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from meshwarden.core.faults import Misconfigured, Problem

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value, for programs.")]


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_line(text: str = "") -> None:
    sys.stdout.write(f"{text}\n")


def print_problems(problems: Iterable[Problem]) -> None:
    """Each problem on its own line of standard error."""
    for problem in problems:
        sys.stderr.write(f"{problem}\n")


def problem_values(problems: Iterable[Problem]) -> list[dict[str, Any]]:
    """Problems as JSON values."""
    return [{"file": p.file, "line": p.line, "problem": p.what, "hint": p.hint} for p in problems]


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write each file below `folder` and say so."""
    for name, text in files.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        except OSError as error:
            what = f"{path} can't be written: {error.filename}: {error.strerror}"
            raise Misconfigured(
                [Problem("", 0, what, "name a folder that may be written")]
            ) from None
        print_line(str(path))
