"""CustomResourceDefinitions from models: what of a JSON Schema a structural schema can say."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Literal

import pydantic
import pytest
import yaml
from pydantic import BaseModel, Field

import ext_authz.core.schema_rules
import ratelimit_service.core.schema_rules
from ext_authz.core import answer_kind, issuer_kind, kubernetes_kind, policy_kind, role_kinds
from meshwarden.adapters.istio import crds, structural_schema
from meshwarden.adapters.istio.crds import crd, crd_files
from meshwarden.adapters.istio.structural_schema import ITEMS_AT_MOST
from meshwarden.cli.render_crds import cluster_kinds
from meshwarden.core.schema_additions import none_of
from ratelimit_service.core.levels import LEVELS_AT_MOST, level_problems
from tests.support.cluster_resources import nested_limits
from tests.support.processes import CHECKOUT

KINDS = cluster_kinds()
FOLDER = CHECKOUT / "istio" / "crds"
NOT_STRUCTURAL = {"$ref", "$defs", "default", "title", "examples", "const", "patternProperties"}


def _schemas(value: Any) -> Iterator[dict[str, Any]]:
    """Every schema in a CRD, those of value validations not."""
    if isinstance(value, dict):
        if "type" in value or "properties" in value:
            yield value
        for inner in [*value.get("properties", {}).values(), value.get("items")]:
            yield from _schemas(inner)
        yield from _schemas(value.get("additionalProperties"))


@cache
def _schema(name: str) -> dict[str, Any]:
    kind = next(kind for kind in KINDS if kind.name == name)
    found: dict[str, Any] = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def _converted(model: type[BaseModel], *, levels: int = 1, **additions: Any) -> dict[str, Any]:
    source = model.model_json_schema()
    conversion = structural_schema.Conversion(source.get("$defs", {}), additions, levels)
    return conversion.schema(source)


def test_what_is_committed_is_what_the_models_say():
    rendered = crd_files(KINDS)
    assert {path.name for path in FOLDER.iterdir()} == set(rendered)
    for name, text in rendered.items():
        assert (FOLDER / name).read_text() == text, f"{name}: run `meshwarden render crds`"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_schema_is_structural_and_bounded(kind: crds.Kind):
    """But for `apiVersion` and `kind`, which are Kubernetes' own."""
    whole = _schema(kind.name)
    for schema in _schemas(whole):
        assert not NOT_STRUCTURAL & set(schema), schema
        assert isinstance(schema["type"], str)
    for part in (whole["properties"]["spec"], whole["properties"].get("status", {})):
        for schema in _schemas(part):
            if schema["type"] == "array":
                assert schema["maxItems"] <= ITEMS_AT_MOST
            if schema["type"] == "string":
                is_time = schema.get("format") == "date-time"
                assert {"maxLength", "enum"} & set(schema) or is_time, schema
            is_open = schema.get("x-kubernetes-preserve-unknown-fields", False)
            assert "additionalProperties" not in schema or "maxProperties" in schema or is_open


@pytest.mark.parametrize("kind", KINDS[:4], ids=lambda kind: kind.name)
def test_the_models_of_authorization_bound_everything_themselves(kind: crds.Kind):
    for schema in _schemas(_schema(kind.name)["properties"]["spec"]):
        assert schema.get("maxItems", 0) <= 10_000, schema
        assert schema.get("maxLength", 0) <= 16_384, schema
        is_open = schema.get("x-kubernetes-preserve-unknown-fields", False)
        assert "additionalProperties" not in schema or schema["maxProperties"] <= 20 or is_open


def test_every_check_of_a_model_across_fields_has_its_rule():
    """A new `model_validator` without one is seen here."""
    checked = {
        model
        for module in (answer_kind, issuer_kind, kubernetes_kind, policy_kind, role_kinds)
        for _, model in inspect.getmembers(module, inspect.isclass)
        if issubclass(model, BaseModel) and model.__pydantic_decorators__.model_validators
    }
    checked.discard(answer_kind.Value)  # What inherits from it stands in its place.
    assert checked - set(ext_authz.core.schema_rules.ADDITIONS) == set()


def test_every_addition_is_to_a_model_of_some_kind():
    named = {name for kind in KINDS for name in kind.model.model_json_schema()["$defs"]}
    for module in (ext_authz.core.schema_rules, ratelimit_service.core.schema_rules):
        assert {model.__name__ for model in module.ADDITIONS} - named == set()


class Leaf(BaseModel):
    word: Annotated[str, Field(pattern=r"^[\w.]+\w$", max_length=5)] | None = None
    choice: Literal["a.b", "c"] | None = None
    one: Literal["x"] = "x"
    share: float = Field(1, gt=0, lt=5, description="Of\nall.")
    open: dict[str, Any] = {}
    named: dict[str, int] = {}


class Tree(BaseModel):
    leaf: Leaf
    below: list[Tree] = []


def test_a_choice_of_null_is_a_field_that_may_be_null():
    fields = _converted(Leaf)["properties"]
    assert fields["word"]["nullable"] is True
    assert fields["word"]["maxLength"] == 5
    # The API server refuses null for an enumeration, whatever it names.
    assert fields["choice"]["pattern"] == r"^(a\.b|c)$"
    assert "enum" not in fields["choice"]


def test_patterns_mean_in_re2_what_they_mean_in_the_model():
    pattern = _converted(Leaf)["properties"]["word"]["pattern"]
    assert r"\w" not in pattern
    assert pattern.startswith(r"^[\p{L}")
    assert pattern.endswith("]$")
    assert structural_schema.re2(r"^\d[\d]\.\[\w$").startswith(r"^\p{Nd}[\p{Nd}]\.\[[\p{L}")


def test_bounds_that_a_number_may_not_reach_are_said_as_openapi_says_them():
    share = _converted(Leaf)["properties"]["share"]
    assert share["minimum"] == 0
    assert share["exclusiveMinimum"] is True
    assert share["maximum"] == 5
    assert share["exclusiveMaximum"] is True
    assert share["description"] == "Of all."


def test_mappings_keep_what_may_stand_in_them():
    fields = _converted(Leaf)["properties"]
    assert fields["open"]["x-kubernetes-preserve-unknown-fields"] is True
    assert fields["named"]["additionalProperties"]["type"] == "integer"


def test_a_model_that_holds_itself_is_written_out_and_below_takes_anything():
    schema = _converted(Tree, levels=3)
    depth = 0
    while "properties" in schema:
        depth += 1
        schema = schema["properties"]["below"]["items"]
    assert depth == 3
    assert schema == structural_schema.ANYTHING


def test_additions_are_merged_into_their_model_wherever_it_stands():
    added = {"x-kubernetes-validations": ["r"], "properties": {"word": {"minLength": 2}}}
    leaf = _converted(Tree, Leaf=added)["properties"]["leaf"]
    assert leaf["x-kubernetes-validations"] == ["r"]
    assert leaf["properties"]["word"]["minLength"] == 2
    assert leaf["properties"]["word"]["maxLength"] == 5


def test_what_no_structural_schema_can_say_is_refused():
    class Either(BaseModel):
        field: int | str

    class Stepped(BaseModel):
        field: int = Field(multiple_of=3)

    with pytest.raises(ValueError, match="can't choose between types"):
        _converted(Either)
    with pytest.raises(ValueError, match="multipleOf"):
        _converted(Stepped)


def test_a_kind_without_a_condition_has_no_status():
    """Such as what a replica reports."""

    class Report(BaseModel):
        class Metadata(BaseModel):
            name: str = pydantic.Field(max_length=253)

        metadata: Metadata
        spec: Leaf

    kind = crds.Kind(
        Report, "Report", "reports", "rr", {}, {"Word": ".spec.word"}, has_status=False
    )
    version = crd(kind)["spec"]["versions"][0]
    assert "subresources" not in version
    assert [column["name"] for column in version["additionalPrinterColumns"]] == ["Word", "Age"]
    assert "status" not in version["schema"]["openAPIV3Schema"]["properties"]


def test_a_message_names_the_word_that_is_not_allowed():
    found = none_of(("a", "b"), "self.x", "'{}' is ours")
    assert found["message"] == "'a | b' is ours"
    assert "filter(word, word in self.x)[0]" in found["messageExpression"]


@pytest.mark.parametrize("levels", [1, LEVELS_AT_MOST])
def test_descriptors_of_five_levels_are_taken(levels: int):
    assert level_problems(nested_limits(levels)["spec"]) == []


def test_descriptors_below_the_fifth_level_are_refused_each_with_its_place():
    spec = nested_limits(LEVELS_AT_MOST + 3)["spec"]
    spec["descriptors"] *= 2
    inner = ".descriptors[0]" * (LEVELS_AT_MOST - 1) + ".descriptors"
    told = level_problems(spec)
    assert [text.partition(":")[0] for text in told] == [
        f"spec.descriptors[{index}]{inner}" for index in (0, 1)
    ]
    assert "join levels into one key, or load the limits from files" in told[0]


@pytest.mark.parametrize(
    "spec", [None, [], {"descriptors": None}, {"descriptors": [None, {"descriptors": "x"}]}]
)
def test_values_of_the_wrong_type_are_not_the_levels_business(spec: Any):
    assert level_problems(spec) == []


def test_empty_descriptors_below_the_last_level_say_nothing():
    spec = nested_limits(LEVELS_AT_MOST)["spec"]
    text = json.dumps(spec).replace('"rate_limit"', '"descriptors": [], "rate_limit"')
    assert level_problems(yaml.safe_load(text)) == []
