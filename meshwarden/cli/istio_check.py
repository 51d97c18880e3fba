"""`meshwarden check --istio DIR`: mistakes in manifests that Istio takes without a word."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from meshwarden.adapters.folder_source import FolderSource
from meshwarden.cli.output import print_json, print_line, problem_values
from meshwarden.core.documents import Document, parse
from meshwarden.core.faults import InvalidInput, Misconfigured, Problem
from meshwarden.core.istio_lint.check import findings
from meshwarden.core.istio_lint.findings import Finding, Severity

STANDARD_INPUT = "-"


def check_istio(folders: Iterable[str], *, as_json: bool) -> int:
    """Print everything that is found in the folders together; the exit status."""
    documents, problems = read_manifests(folders)
    from meshwarden.adapters.envoy.typed_patches import typed_faults

    found = findings(documents, typed_faults)
    errors = len(problems) + sum(one.severity is Severity.ERROR for one in found)
    if as_json:
        print_json(
            {
                "ok": not errors,
                "problems": problem_values(problems),
                "findings": [_as_value(one) for one in found],
            }
        )
        return 1 if errors else 0
    for told in [*problems, *found]:
        print_line(str(told))
    counts = (
        _counted(len(documents), "object"),
        _counted(errors, "error"),
        _counted(len(found) + len(problems) - errors, "warning"),
    )
    print_line(
        f"{'faults' if errors else 'ok'}: {', '.join(counts)}"
        + (" (docs/reference/istio_mistakes.md explains them)" if found else "")
    )
    return 1 if errors else 0


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def read_manifests(folders: Iterable[str]) -> tuple[list[Document], list[Problem]]:
    """The documents of every YAML file in the folders, with the files' names as they can be opened
    from here, and what can't be read. Raises `Misconfigured` where one is no folder.
    """
    documents: list[Document] = []
    problems: list[Problem] = []
    for folder in folders:
        for name, content in _files(folder, problems).items():
            try:
                read = parse(name, content, takes_scalar_keys=True)
                documents += [one for one in read if one.value is not None]
            except InvalidInput as error:
                problems += error.problems
    return documents, problems


def _files(folder: str, problems: list[Problem]) -> dict[str, bytes]:
    if folder == STANDARD_INPUT:
        return {"<standard input>": sys.stdin.buffer.read()}
    if not Path(folder).is_dir():
        raise Misconfigured(f"{folder} is not a folder; `-` is standard input")
    bundle = FolderSource(Path(folder)).read()
    problems += bundle.unreadable
    return {_shown(Path(folder) / name): content for name, content in bundle.files.items()}


def _shown(path: Path) -> str:
    """The path as it can be opened from here."""
    shown = os.path.relpath(path)
    return str(path.absolute()) if shown.startswith("..") else shown


def _as_value(one: Finding) -> dict[str, object]:
    return {
        "file": one.file,
        "line": one.line,
        "rule": one.rule,
        "severity": one.severity.value,
        "problem": one.what,
        "hint": one.fix,
    }
