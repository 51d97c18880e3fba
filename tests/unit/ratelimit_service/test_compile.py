"""What a folder of files becomes: rules, or every fault of it."""

from __future__ import annotations

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from meshwarden.cli.render import json_schemas
from meshwarden.core.faults import InvalidInput, Problem
from meshwarden.core.snapshot import Accepted, Bundle, Refused, SnapshotHolder
from ratelimit_service.core.compile import compile_limits
from ratelimit_service.core.tree import described_limits
from tests.support.limits import rules

RESOURCE = """
apiVersion: meshwarden.io/v1alpha1
kind: RateLimit
metadata: {name: orders}
spec:
  domain: d
  descriptors:
  - key: a
    value: 010
    rate_limit: {unit: Hour, requests_per_unit: 010, name: 5}
"""


def problems(*texts: str) -> list[str]:
    with pytest.raises(InvalidInput) as refused:
        rules(*texts)
    return [str(problem) for problem in refused.value.problems]


def test_a_resource_is_read_as_a_plain_file_is():
    compiled = rules(RESOURCE)
    assert described_limits(compiled.domains.values()) == [
        "d.a_010: unit=HOUR requests_per_unit=8, shadow_mode: false, quota_mode: false"
    ]
    match = compiled.domains["d"].children["a_010"].match
    assert match is not None
    assert match.limit.name == "5"


def test_other_services_resources_are_passed_over_and_unknown_kinds_are_not():
    assert rules("kind: AccessRole\nanything: 1.5\n---\nkind: TokenIssuer").domains == {}
    assert problems("kind: RateLimits") == [
        "0.yaml:1: unknown kind 'RateLimits' (did you mean 'RateLimit'?)"
    ]


def test_a_folder_without_limits_is_valid():
    assert compile_limits(Bundle({})).domains == {}


def test_only_yaml_files_that_are_no_tests_are_read():
    files = {"a.test.yaml": b"]", "b.txt": b"]", "@api_keys": b"]", "sub/c.yml": b"domain: d"}
    assert set(compile_limits(Bundle(files)).domains) == {"d"}


def test_one_file_may_hold_several_documents():
    assert set(rules(f"domain: first\n---\n{RESOURCE}").domains) == {"first", "d"}


@pytest.mark.parametrize(
    ("wrong", "right", "problem"),
    [
        ("unit: Hour", "per: 1, unit: Hour", "unknown field 'spec.descriptors.0.rate_limit.per'"),
        ("value: 010", "unit: day", "unknown field 'spec.descriptors.0.unit'"),
        ("unit: Hour", "unit: eon", "invalid rate limit unit 'eon'"),
        ("unit: Hour", "unit: [1]", "spec.descriptors.0.rate_limit.unit: Input should be a valid"),
        ("requests_per_unit: 010", "requests_per_unit: '7'", "requests_per_unit: Input should be"),
        ("requests_per_unit: 010", "requests_per_unit: -7", "requests_per_unit: Input should be"),
        ("value: 010", "shadow_mode: maybe", "spec.descriptors.0.shadow_mode: Input should be"),
        ("value: 010", "value: 1\n    value: 2", "the key 'value' stands twice"),
        ("  domain: d", "  domain: ''", "config file cannot have empty domain"),
        ("name: orders", "title: orders", "'metadata.name' is missing"),
        ("v1alpha1", "v9", "apiVersion: Input should be 'meshwarden.io/v1alpha1'"),
        ("spec:", "specs:", "unknown field 'specs'"),
    ],
)
def test_a_resource_is_refused_where_a_field_is_wrong_or_misplaced(
    wrong: str, right: str, problem: str
):
    assert wrong in RESOURCE
    assert any(problem in found for found in problems(RESOURCE.replace(wrong, right)))


def test_faults_of_a_resource_name_their_line():
    assert problems(RESOURCE.replace("value: 010", "valeu: x"))[0] == (
        "0.yaml:9: unknown field 'spec.descriptors.0.valeu' (did you mean 'value'?)"
    )


def test_what_could_not_be_read_refuses_everything():
    unreadable = Bundle({"a.yaml": b"domain: d"}, (Problem("b.yaml", 0, "is empty"),))
    with pytest.raises(InvalidInput, match=r"b\.yaml: is empty"):
        compile_limits(unreadable)


def test_a_bad_change_is_refused_whole_and_the_last_good_rules_stay():
    holder = SnapshotHolder(compile_limits)
    assert isinstance(holder.offer(Bundle({"a.yaml": b"domain: d"})), Accepted)
    before = holder.current
    refused = holder.offer(Bundle({"a.yaml": b"domain: d", "b.yaml": b"domain: ''"}))
    assert isinstance(refused, Refused)
    assert holder.current is before


PIECES = st.sampled_from(
    [
        *("[", "]", "{", "}", ": ", ", ", "- ", "? ", "\n", "\n  ", "---\n", "'", "#", "|"),
        *("&a ", "*a", "<<: ", "!!float ", "!!binary ", "!x ", "\0", "\t", "é", "5", "1.5", "~"),
        *("key", "value", "kind", "spec", "metadata", "unit", "y", "2001-01-01", "0x", "-"),
    ]
)


@given(
    text=st.sampled_from([RESOURCE, "domain: d\ndescriptors: [{key: a, value: b*}]"]),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 8), PIECES), max_size=4),
)
def test_any_file_is_taken_or_refused_with_a_place_and_never_breaks_us(
    text: str, edits: list[tuple[float, int, str]]
):
    for share, removed, piece in edits:
        position = int(share * len(text))
        text = text[:position] + piece + text[position + removed :]
    offered = SnapshotHolder(compile_limits).offer(Bundle({"0.yaml": text.encode()}))
    if isinstance(offered, Refused):
        assert {problem.file for problem in offered.problems} == {"0.yaml"}


def test_the_published_schema_accepts_the_grammar_and_refuses_a_misplaced_field():
    validator = jsonschema.Draft202012Validator(json_schemas()["RateLimit"])
    written = yaml.safe_load(
        RESOURCE.replace("010", "'x'", 1).replace("010", "8").replace("5", "n")
    )
    validator.validate(written)
    written["spec"]["descriptors"][0]["unit"] = "day"
    assert not validator.is_valid(written)
