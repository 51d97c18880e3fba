"""A folder of configuration as the services would take it, for commands that look at one
offline.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ext_authz.core.compile import (
    API_KEYS,
    DEVELOPMENT_JWKS,
    PEPPER,
    Configured,
    Options,
    compile_policies,
    referenced_files,
)
from meshwarden.adapters.folder_source import FolderSource
from meshwarden.cli.state_folder import StateFolder
from meshwarden.core.faults import Fault, Misconfigured, Problem

QUICKSTART = Path("examples/quickstart")

Folder = Annotated[
    Path, typer.Option("--config", help="Folder of policies and limits.", file_okay=False)
]


def problems(folder: Path) -> list[Problem]:
    """Everything that is wrong with the policies and limits in `folder`; each once."""
    from ratelimit_service.core.compile import compile_limits

    _require(folder)
    bundle = FolderSource(folder, references=referenced_files).read()
    found: set[Problem] = set(bundle.unreadable)
    for compiled in (
        lambda: compile_policies(bundle, Options(assumes_development_keys=True)),
        lambda: compile_limits(bundle),
    ):
        try:
            compiled()
        except Fault as fault:
            found.update(fault.problems)
    return sorted(_in_folder(folder, problem) for problem in found)


def _in_folder(folder: Path, problem: Problem) -> Problem:
    """The problem with its file as it can be opened from here."""
    path = folder / problem.file
    if not problem.file or not path.exists():
        return problem
    return Problem(os.path.relpath(path), problem.line, problem.what, problem.hint)


def load(folder: Path, state: StateFolder) -> Configured:
    """The policies in `folder` with this machine's development keys and API keys, as `up` runs
    them.
    """
    _require(folder)
    state.prepare()
    extra = {API_KEYS: state.api_keys, PEPPER: state.pepper, DEVELOPMENT_JWKS: state.jwks}
    bundle = FolderSource(folder, extra=extra, references=referenced_files).read()
    if bundle.unreadable:
        raise Misconfigured(bundle.unreadable)
    return compile_policies(bundle)


def _require(folder: Path) -> None:
    if not folder.is_dir():
        raise Misconfigured(f"{folder} is not a folder")
