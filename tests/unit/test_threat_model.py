"""The documents name only tests that there are."""

from __future__ import annotations

import ast
import re

from tests.support.processes import CHECKOUT

NAMED = re.compile(r"`(tests/[a-z_/]+\.py)(?:::(test_[a-z0-9_]+))?`")


def test_every_test_that_the_threat_model_names_is_there():
    text = (CHECKOUT / "docs" / "explanation" / "threat_model.md").read_text()
    named = NAMED.findall(text)
    assert len(named) > 25
    for file, test in named:
        path = CHECKOUT / file
        assert path.exists(), file
        tree = ast.parse(path.read_text())
        tests = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert not test or test in tests, f"{file}::{test}"


def test_every_attack_in_the_threat_model_has_a_test_that_tries_it():
    text = (CHECKOUT / "docs" / "explanation" / "threat_model.md").read_text()
    table = text.partition("## Attacks")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    assert [row for row in rows if NAMED.search(row.split("|")[3]) is None] == []
