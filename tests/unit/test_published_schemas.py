"""The JSON Schemas that editors use: current, and true of the examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from referencing import Registry, Resource

from tests.support.processes import CHECKOUT

SCHEMAS = {
    path.name: json.loads(path.read_text())
    for path in (CHECKOUT / "docs" / "reference" / "schemas").glob("*.json")
}


def _faults(resource: Any) -> list[str]:
    named = ((name, Resource.from_contents(schema)) for name, schema in SCHEMAS.items())
    validator = jsonschema.Draft202012Validator(
        {"$ref": "any.json"}, registry=Registry().with_resources(named)
    )
    return [error.message for error in validator.iter_errors(resource)]


RESOURCES = sorted(
    path for path in (CHECKOUT / "examples").rglob("*.yaml") if not path.name.endswith(".test.yaml")
)


@pytest.mark.parametrize("path", RESOURCES, ids=str)
def test_an_editor_finds_nothing_wrong_with_the_examples(path: Path):
    for resource in yaml.safe_load_all(path.read_text()):
        assert _faults(resource) == []


def test_an_editor_sees_an_unknown_field():
    role = {
        "apiVersion": "meshwarden.io/v1alpha1",
        "kind": "AccessRole",
        "metadata": {"name": "reader"},
        "spec": {"inherit": ["writer"]},
    }
    assert _faults(role) != []
