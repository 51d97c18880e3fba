"""Objects of a cluster as files."""

from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwarden.core.documents import parse
from meshwarden.core.faults import Problem
from meshwarden.core.offered_objects import as_yaml, placed
from ratelimit_service.core import go_yaml

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(plain)
@settings(max_examples=40, deadline=None)
def test_json_is_written_so_that_yaml_readers_take_it_for_the_same(value: Any) -> None:
    content = as_yaml({"value": value})
    assert parse("file", content)[0].value == {"value": value}
    assert yaml.safe_load(content) == {"value": value}
    assert go_yaml.plain(go_yaml.read("file", content)[0]) == {"value": value}


def test_a_problem_tells_the_field_in_place_of_a_line_that_nobody_sees():
    content = as_yaml({"spec": {"rules": [{"roles": ["a"]}, {"roles": []}]}})
    line = content.decode().splitlines().index('     "a"') + 1
    problem = Problem("file", line, "there is no AccessRole 'a'", "define it")
    assert placed(problem, content) == Problem(
        "file", 0, "spec.rules[0].roles[0]: there is no AccessRole 'a'", "define it"
    )
    named = Problem("file", 2, "spec.rules: is wrong")
    assert placed(named, content).what == "spec.rules: is wrong"
    assert placed(Problem("file", 9999, "what"), content).what == "what"
