"""The index of rules finds every rule that matches, and few others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ext_authz.core.paths import parse_pattern
from ext_authz.core.policies import CompiledRule
from ext_authz.core.rule_index import RuleIndex

SEGMENTS = st.sampled_from(["a", "b", "c"])
PATTERNS = st.builds(
    lambda parts, end: ("/" + "/".join(parts) + end).replace("//", "/"),
    st.lists(SEGMENTS | st.just("*"), max_size=3),
    st.sampled_from(["", "/**"]),
)
PATHS = st.builds(
    lambda parts, end: ("/" + "/".join(parts) + end).replace("//", "/"),
    st.lists(SEGMENTS, max_size=4),
    st.sampled_from(["", "/"]),
)


def rule(name: str, *paths: str) -> CompiledRule:
    return CompiledRule(name, is_for_anyone=True, patterns=tuple(map(parse_pattern, paths)))


@given(st.lists(st.lists(PATTERNS, max_size=3), max_size=8), PATHS)
def test_no_rule_that_matches_is_missed_and_the_order_is_the_files(written, path):
    rules = [rule(str(number), *paths) for number, paths in enumerate(written)]
    matching = [r for r in rules if not r.patterns or any(p.matches(path) for p in r.patterns)]
    found = RuleIndex(rules).candidates(path)
    assert [r for r in found if r in matching] == matching
    assert len({r.name for r in found}) == len(found)


def test_rules_elsewhere_are_not_looked_at():
    rules = [rule(str(number), f"/api/v1/r{number}/{{id}}") for number in range(1000)]
    found = RuleIndex([*rules, rule("all")]).candidates("/api/v1/r7/x")
    assert [r.name for r in found] == ["7", "all"]
