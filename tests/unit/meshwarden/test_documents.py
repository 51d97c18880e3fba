"""YAML and JSON as a user writes them wrongly: every fault named with its place, never a crash."""

from __future__ import annotations

import pydantic
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from meshwarden.core import documents
from meshwarden.core.documents import (
    DEPTH_AT_MOST,
    Document,
    envelope_problems,
    hint_for,
    parse,
    parse_json,
    validate,
)
from meshwarden.core.faults import InvalidInput


class Spec(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    size: int = 0
    colour: str = ""


class Thing(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    spec: Spec
    name: str = ""


def faults(content: bytes) -> list[str]:
    with pytest.raises(InvalidInput) as caught:
        parse("f.yaml", content)
    return [str(problem) for problem in caught.value.problems]


def one(content: bytes) -> Document:
    (document,) = parse("f.yaml", content)
    return document


def test_every_value_keeps_the_line_on_which_it_stands():
    document = one(b"a:\n  - x\n  -\n    b: 1\nc: 2\n")
    assert document.value == {"a": ["x", {"b": 1}], "c": 2}
    assert document.line(("a",)) == 1
    assert document.line(("a", 0)) == 2
    assert document.line(("a", 1, "b")) == 4
    assert document.line(("c",)) == 5
    assert document.line(("a", 1, "missing", "deeper")) == 4


def test_documents_of_one_file_keep_the_file_s_lines():
    first, second = parse("f.yaml", b"kind: A\n---\nkind: B\nmetadata: {name: b}\n")
    assert (first.kind, first.line(("kind",))) == ("A", 1)
    assert (second.kind, second.name, second.line(("kind",))) == ("B", "b", 3)


def test_every_fault_of_a_file_is_told_at_once():
    assert faults(b"a: 1\n2: b\na: 3\nc: !!int x\n") == [
        "f.yaml:2: a key must be a string, not '2' (put it in quotes)",
        "f.yaml:3: the key 'a' stands twice",
        "f.yaml:4: not a readable value: invalid literal for int() with base 10: 'x'",
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a: [1,\nb: 2\n", "f.yaml:3: not YAML: did not find expected ',' or ']'"),
        (b"ok: 1\na: *nowhere\n", "f.yaml:2: not YAML: found undefined alias"),
        (b"ok: 1\na: \xff\n", "f.yaml:2: not UTF-8 text (save the file as UTF-8)"),
        ("a: 1\n".encode("utf-16"), "f.yaml:1: not UTF-8 text (save the file as UTF-8)"),
        (b"ok: 1\na: \x00\n", "f.yaml:2: not YAML: control characters are not allowed"),
        (b"? [a]\n: x\n", "f.yaml:1: a key must be a string, not a collection"),
        (
            b"a: &a {x: 1}\nb:\n  <<: *a\n",
            "f.yaml:3: merge keys ('<<') are not taken (write the keys out)",
        ),
        (b"a: &a [*a]\n", "f.yaml: nested too deeply"),
        (b"a: !!bool x\n", "f.yaml:1: not a readable value: not a tag:yaml.org,2002:bool"),
        (b"a: !!timestamp x\n", "not a tag:yaml.org,2002:timestamp"),
        (b"a: !!python/name:os.system\n", "could not determine a constructor for the tag"),
        (b"a: 2026-99-99\n", "f.yaml:1: not a readable value: month must be in 1..12"),
        (b"a: " + b"9" * 5000 + b"\n", "f.yaml:1: not a readable value: Exceeds the limit"),
    ],
)
def test_what_is_no_yaml_is_told_with_its_line(content: bytes, told: str):
    (fault,) = faults(content)
    assert told in fault
    assert "\n" not in fault


@pytest.mark.parametrize("opening", [b"[", b"{a: ", b"- ", b"? ", b"? - "])
def test_a_hundred_thousand_nested_collections_are_refused_and_not_a_crash(opening: bytes):
    """libyaml's composer recurses in C: without the bound the process ends by SIGSEGV."""
    assert faults(b"ok: 1\n---\n" + opening * 100_000 + b"\n") == [
        "f.yaml:3: not YAML: nested too deeply"
    ]


def test_nesting_within_the_bound_is_read():
    depth = DEPTH_AT_MOST
    value = one(b"[" * depth + b"]" * depth).value
    for _ in range(depth - 1):
        (value,) = value
    assert value == []


def test_an_alias_bomb_is_refused_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(documents, "NODES_AT_MOST", 10_000)
    lines = [b"a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [
        b"a%d: &a%d [%s]" % (level, level, b",".join([b"*a%d" % (level - 1)] * 10))
        for level in range(1, 30)
    ]
    assert faults(b"\n".join(lines)) == ["f.yaml: the file expands to too many values"]


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes):
    """The law: no file makes anything but `InvalidInput`."""
    for read in (parse, parse_json):
        try:
            read("f", content)
        except InvalidInput:
            continue


TEXT = st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=20)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | TEXT,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
        max_leaves=20,
    )
)
def test_what_was_written_as_yaml_is_read_as_it_was(value: object):
    text = yaml.safe_dump(value, allow_unicode=True)
    assert one(text.encode()).value == value


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"a": 1,\n "b" 2}', "k.json:2: not JSON: Expecting ':' delimiter"),
        (b"[" * 100_000, "k.json: nested too deeply"),
        (b"9" * 5000, "k.json: not JSON that can be read: Exceeds the limit"),
        (b"\xff", "k.json:1: not UTF-8 text"),
        (b'{"a": {"b": 1, "b": 1}}', "k.json: not JSON that can be read: the member 'b' stands"),
    ],
)
def test_what_is_no_json_is_told_with_its_line(content: bytes, told: str):
    with pytest.raises(InvalidInput) as caught:
        parse_json("k.json", content)
    assert told in str(caught.value)


def test_every_field_that_is_wrong_is_told_with_its_line_and_a_hint():
    document = one(b"name: [x]\nspec:\n  size: big\n  color: red\n")
    with pytest.raises(InvalidInput) as caught:
        validate(document, Thing)
    assert [str(problem) for problem in caught.value.problems] == [
        "f.yaml:1: name: Input should be a valid string",
        "f.yaml:3: spec.size: Input should be a valid integer, "
        "unable to parse string as an integer",
        "f.yaml:4: unknown field 'spec.color' (did you mean 'colour'?)",
    ]


def test_a_missing_field_is_told_at_its_parent():
    with pytest.raises(InvalidInput) as caught:
        validate(one(b"\n\nname: x\n"), Thing)
    assert str(caught.value) == "f.yaml:3: 'spec' is missing"


def test_a_faulty_envelope_is_told_field_by_field():
    document = one(b"apiVersion: v1\nkind: AcessPolicy\nmetadata: {}\n")
    assert [str(problem) for problem in envelope_problems(document)] == [
        "f.yaml:1: apiVersion must be 'meshwarden.io/v1alpha1', not 'v1'",
        "f.yaml:2: unknown kind 'AcessPolicy' (did you mean 'AccessPolicy'?)",
        "f.yaml:3: metadata.name is missing (give the resource a name)",
    ]
    (problem,) = envelope_problems(one(b"- just a list\n"))
    assert "must be a mapping" in problem.what


def test_a_hint_names_what_is_near_or_all_that_is_known():
    assert hint_for("roels", ["roles", "paths"]) == "did you mean 'roles'?"
    assert hint_for("xyz", ["roles", "paths"]) == "known: paths, roles"
