"""A file that envoyproxy/ratelimit refuses is refused in its very words, and every other fault with
it.
"""

from __future__ import annotations

import pytest

from meshwarden.core.faults import InvalidInput
from meshwarden.core.snapshot import Bundle
from ratelimit_service.core import go_yaml
from ratelimit_service.core.compile import compile_limits, reference_message
from ratelimit_service.core.tree import described_limits
from tests.support.limits import rules

LIMIT = "rate_limit: {unit: minute, requests_per_unit: 1}"


def refusals(*texts: str, merges_domains: bool = False) -> list[str]:
    with pytest.raises(InvalidInput) as refused:
        rules(*texts, merges_domains=merges_domains)
    return [reference_message(problem) for problem in refused.value.problems]


def described(text: str) -> list[str]:
    return described_limits(rules(text).domains.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("domain: d\nbad: 1", "config error, unknown key 'bad'"),
        (
            "domain: d\ndescriptors: [{key: a, rate_limit: {per: 1}}]",
            "config error, unknown key 'per'",
        ),
        ("domain: d\n5: x", "config error, key is not of type string: 5"),
        ("domain: d\ntrue: x", "config error, key is not of type string: true"),
        (
            "domain: d\ndescriptors: [a]",
            "config error, yaml file contains list of type other than map: a",
        ),
        (
            "domain: d\ndescriptors: [[a, 1, ~]]",
            "config error, yaml file contains list of type other than map: [a 1 <nil>]",
        ),
        ("domain: 1.5", "error checking config"),
        ("domain: d\nvalue: 18446744073709551615", "error checking config"),
        ("domain: ''", "config file cannot have empty domain"),
        ("# nothing", "config file cannot have empty domain"),
        ("domain:", "config file cannot have empty domain"),
        ("descriptors: []", "config file cannot have empty domain"),
        ("domain: d\ndescriptors: [{value: a}]", "descriptor has empty key"),
        (
            "domain: d\ndescriptors: [{key: a, value: b}, {key: a_b}]",
            "duplicate descriptor composite key 'd.a_b'",
        ),
        (
            "domain: d\ndescriptors: [{key: a, descriptors: [{key: b}, {key: b}]}]",
            "duplicate descriptor composite key 'd.a.b'",
        ),
        (
            "domain: d\ndescriptors: [{key: a, rate_limit: {unit: fortnight}}]",
            "invalid rate limit unit 'fortnight'",
        ),
        ("domain: d\ndescriptors: [{key: a, rate_limit: {}}]", "invalid rate limit unit ''"),
        (
            "domain: d\ndescriptors: [{key: a, rate_limit: {unit: Unknown}}]",
            "invalid rate limit unit 'Unknown'",
        ),
        (
            "domain: d\ndescriptors: [{key: a, rate_limit: {unlimited: true, unit: day}}]",
            "should not specify rate limit unit when unlimited",
        ),
        (
            "domain: d\ndescriptors: [{key: a, rate_limit: {unit: day, replaces: [{name: ''}]}}]",
            "should not have an empty replaces entry",
        ),
        (
            "domain: d\ndescriptors:\n"
            "- {key: a, rate_limit: {unit: day, name: n, replaces: [{name: n}]}}",
            "replaces should not contain name of same descriptor",
        ),
        (
            "domain: d\ndescriptors: [{key: a, value: b, share_threshold: true}]",
            "share_threshold can only be used with wildcard values (containing '*'), "
            "but found key 'a_b'",
        ),
        (
            "domain: d\ndescriptors: [{key: a, metadata: {b: [.nan]}}]",
            "error parsing metadata: no finite number: .nan",
        ),
        (
            "domain: d\ndescriptors: [{key: a, metadata: {b: {5: c}}}]",
            "error parsing metadata: key is not of type string: 5",
        ),
        (
            'domain: d\ndescriptors: [{key: a, rate_limit: {unit: day, requests_per_unit: "7"}}]',
            "error loading config file: yaml: unmarshal errors:\n"
            "  line 2: cannot unmarshal !!str `7` into uint32",
        ),
        (
            "domain: d\ndescriptors: [{key: a, rate_limit: {unit: day, requests_per_unit: -1}}]",
            "error loading config file: yaml: unmarshal errors:\n"
            "  line 2: cannot unmarshal !!int `-1` into uint32",
        ),
        (
            "domain: d\ndescriptors: [{key: a, shadow_mode: certainly-not}]",
            "error loading config file: yaml: unmarshal errors:\n"
            "  line 2: cannot unmarshal !!str `certain...` into bool",
        ),
        (
            "domain: {key: a}",
            "error loading config file: yaml: unmarshal errors:\n"
            "  line 1: cannot unmarshal !!map into string",
        ),
        (
            "domain: d\ndescriptors: {key: a}",
            "error loading config file: yaml: unmarshal errors:\n"
            "  line 2: cannot unmarshal !!map into []config.YamlDescriptor",
        ),
        (
            "domain: d\ndescriptors: [{key: a, rate_limit: [{unit: day}]}]",
            "error loading config file: yaml: unmarshal errors:\n"
            "  line 2: cannot unmarshal !!seq into config.YamlRateLimit",
        ),
        (
            "domain: d\ndescriptors:\n- key: a\n   value: b",
            "error loading config file: yaml: line 4: "
            "mapping values are not allowed in this context",
        ),
        (
            "domain: d\0",
            "error loading config file: yaml: control characters are not allowed",
        ),
        (
            "domain: d\nunit:\n  <<: [5]",
            "error loading config file: yaml: map merge requires map or sequence of maps "
            "as the value",
        ),
    ],
)
def test_a_fault_is_worded_as_the_reference_words_it(text: str, message: str):
    assert refusals(text) == [f"0.yaml: {message}"]


def test_a_domain_that_stands_twice_is_refused_unless_merging_is_on():
    first, second = (f"domain: d\ndescriptors: [{{key: {key}, {LIMIT}}}]" for key in "ab")
    assert refusals(first, second) == ["1.yaml: duplicate domain 'd' in config file"]
    merged = rules(first, second, merges_domains=True)
    assert set(merged.domains["d"].children) == {"a", "b"}
    assert refusals(first, first, merges_domains=True) == [
        "1.yaml: duplicate descriptor composite key 'd.a'"
    ]


def test_every_fault_of_every_file_is_told_at_once_with_its_line():
    with pytest.raises(InvalidInput) as refused:
        rules(
            "domain: d\nwrong: 1\nworse: 2",
            "domain: e\ndescriptors:\n- key: a\n  rate_limit: {unit: x}\n- value: b",
            "domain: [\n",
        )
    assert [(problem.file, problem.line) for problem in refused.value.problems] == [
        ("0.yaml", 2),
        ("0.yaml", 3),
        ("1.yaml", 4),
        ("1.yaml", 5),
        ("2.yaml", 2),
    ]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("010", "a_010"),
        ("on", "a_on"),
        ("0x1F", "a_0x1F"),
        ("1_000", "a_1_000"),
        ("12:30:00", "a_12:30:00"),
        ("y", "a_y"),
        ("NO", "a_NO"),
        ("2001-02-03", "a_2001-02-03"),
        ("'quoted'", "a_quoted"),
        ("~", "a"),
        ("null", "a"),
    ],
)
def test_a_scalar_keeps_its_source_text_where_a_string_is_wanted(written: str, shown: str):
    text = f"domain: d\ndescriptors: [{{key: a, value: {written}, {LIMIT}}}]"
    assert described(text) == [
        f"d.{shown}: unit=MINUTE requests_per_unit=1, shadow_mode: false, quota_mode: false"
    ]


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("010", 8),
        ("0x10", 16),
        ("1_000", 1000),
        ("0b101", 5),
        ("0o17", 15),
        ("+5", 5),
        ("~", 0),
        ("4294967295", 4294967295),
    ],
)
def test_numbers_are_read_as_yaml_v2_reads_them(written: str, number: int):
    limit = f"{{unit: DAY, requests_per_unit: {written}}}"
    text = f"domain: d\ndescriptors: [{{key: a, rate_limit: {limit}}}]"
    assert f"unit=DAY requests_per_unit={number}," in described(text)[0]


@pytest.mark.parametrize("written", ["08", "1e3", "4.0", ".5", ".inf", "-.INF", ".nan"])
def test_floats_are_refused_wherever_they_stand(written: str):
    assert refusals(f"domain: d\nvalue: {written}") == ["0.yaml: error checking config"]


@pytest.mark.parametrize(
    "written", ["9" * 400, "9" * 5000, "0x" + "f" * 400, "-0b" + "1" * 99, "1e999"]
)
def test_a_number_that_no_double_holds_is_text(written: str):
    """Taken as a name, refused as a number (both tried on the real one), and never a crash."""
    text = "domain: d\ndescriptors: [{key: a, rate_limit: {unit: DAY, name: %s}}]"
    assert described(text % written)
    (refusal,) = refusals(text.replace("name", "requests_per_unit") % written)
    assert f"cannot unmarshal !!str `{written[:7]}" in refusal


@pytest.mark.parametrize("word", ["y", "Yes", "on", "TRUE", "true"])
def test_a_flag_takes_every_word_for_true(word: str):
    text = f"domain: d\ndescriptors: [{{key: a, shadow_mode: {word}, quota_mode: n, {LIMIT}}}]"
    assert described(text)[0].endswith("shadow_mode: true, quota_mode: false")


def test_a_misplaced_key_is_accepted_in_a_plain_file():
    assert described(f"domain: d\nunit: day\ndescriptors: [{{key: a, unit: day, {LIMIT}}}]")


def test_anchors_and_merges_are_read_as_yaml_v2_reads_them():
    text = f"""
domain: d
descriptors:
- &base {{key: a, {LIMIT}}}
- {{<<: *base, key: b}}
- {{<<: [{{key: c, value: late}}, *base], value: v}}
"""
    assert [line.split(":")[0] for line in described(text)] == ["d.a", "d.b", "d.c_v"]


def test_of_a_key_that_stands_twice_the_last_counts_in_a_plain_file():
    assert described(f"domain: d\ndescriptors: [{{key: a, key: b, {LIMIT}}}]")[0].startswith("d.b:")


def test_a_rate_limit_that_overrides_a_merged_one_keeps_what_it_does_not_name():
    text = """
domain: d
descriptors:
- &base {key: a, rate_limit: {unit: day, requests_per_unit: 5, name: n}}
- {<<: *base, key: b, rate_limit: {requests_per_unit: 7}}
- {<<: *base, key: c, rate_limit: ~}
"""
    assert [line.split(",")[0] for line in described(text)] == [
        "d.a: unit=DAY requests_per_unit=5",
        "d.b: unit=DAY requests_per_unit=7",
    ]


def test_a_file_made_to_exhaust_memory_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(go_yaml, "NODES_AT_MOST", 10_000)
    layers = "\n".join(
        f"l{depth}: &l{depth} [{', '.join([f'*l{depth - 1}'] * 10)}]" for depth in range(1, 9)
    )
    assert refusals(f"l0: &l0 [a]\n{layers}") == [
        "0.yaml: error loading config file: yaml: document contains excessive aliasing or nesting"
    ]
    assert "excessive" in refusals("domain: &d [*d]")[0]


def test_what_is_not_text_is_refused():
    with pytest.raises(InvalidInput, match="not UTF-8"):
        compile_limits(Bundle({"a.yaml": b"domain: \xff"}))
