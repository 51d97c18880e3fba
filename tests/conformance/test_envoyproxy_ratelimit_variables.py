"""Every variable of envoyproxy/ratelimit is known, with its type and default, and has a fate."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshwarden.adapters.settings import leaves
from ratelimit_service.adapters.go_values import parse
from ratelimit_service.adapters.reference_environment import Reading, read
from ratelimit_service.adapters.reference_variable import Variable
from ratelimit_service.adapters.reference_variables import VARIABLES
from ratelimit_service.settings import Settings

LISTED = [
    line.split(" ", 2)
    for line in (Path(__file__).parent / "envoyproxy_ratelimit_variables.txt")
    .read_text()
    .splitlines()
    if not line.startswith("#")
]
KINDS = {
    "string": "text",
    "bool": "flag",
    "int": "integer",
    "int64": "integer",
    "float32": "number",
    "float64": "number",
    "time.Duration": "duration",
    "[]string": "list",
    "map[string]string": "map",
}
SETTINGS = {setting for variable in VARIABLES for setting in variable.settings}
SAMPLES = {
    "text": "sample",
    "flag": "true",
    "integer": "7",
    "number": "0.25",
    "duration": "90s",
    "list": "a,b",
    "map": "a:b",
}
WORDS = {
    "LOG_LEVEL": ("ERROR", "error"),
    "LOG_FORMAT": ("JSON", "json"),
    "CONFIG_TYPE": ("GRPC_XDS_SOTW", "xds"),
    "BACKEND_TYPE": ("redis", "redis"),
    "REDIS_TYPE": ("Cluster", "cluster"),
    "REDIS_PERSECOND_TYPE": ("SENTINEL", "sentinel"),
    "HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED": ("true", "with_domains"),
}
"""A value of the reference, and ours for it."""

AWAITED = (
    *("xds.", "statistics."),
    "configuration.source",
)
"""Settings that other branches bring; to be emptied, then removed, as they are merged."""


def asked(environment: dict[str, str]) -> Reading:
    return read(environment, known=SETTINGS)


def value_of(reading: Reading, setting: str) -> object:
    found: object = reading.settings
    for part in setting.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def test_the_table_has_every_variable_of_the_reference_with_its_type_and_default():
    assert len(LISTED) == 108
    expected = {name: (KINDS[kind], "".join(default)) for name, kind, *default in LISTED}
    assert {v.name: (v.kind, v.default) for v in VARIABLES} == expected


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.name)
def test_every_variable_is_honoured_or_without_effect_as_its_row_says(variable: Variable):
    text, ours = WORDS.get(variable.name, (SAMPLES[variable.kind], None))
    environment = {variable.name: text}
    for setting in variable.settings:
        environment |= dict.fromkeys(variable.switches(setting), "true")
    reading = asked(environment)
    assert reading.problems == []
    if variable.fate == "without effect":
        assert variable.note
        assert variable.settings == ()
        assert variable.name not in reading.set_by.values()
        return
    is_switch = any(variable.name in other.when for other in VARIABLES)
    assert variable.settings or is_switch or variable.refused
    expected = parse(variable.kind, text) if ours is None else ours
    for setting in variable.settings:
        assert value_of(reading, setting) == expected
        assert reading.set_by[setting] == variable.name


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.name)
def test_a_variable_that_the_reference_does_not_read_sets_nothing(variable: Variable):
    """That of a switch which is off."""
    if variable.when:
        assert asked({variable.name: SAMPLES[variable.kind]}).settings == {}


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"BACKEND_TYPE": "memcache"}, "BACKEND_TYPE=memcache is not supported (there is no"),
        ({"BACKEND_TYPE": "etcd"}, "BACKEND_TYPE: must be redis"),
        ({"CONFIG_TYPE": "file"}, "CONFIG_TYPE: must be one of FILE, GRPC_XDS_SOTW"),
        ({"REDIS_TYPE": "pair"}, "REDIS_TYPE: must be SINGLE, SENTINEL or CLUSTER"),
        (
            {"REDIS_POOL_ON_EMPTY_BEHAVIOR": "Create"},
            "REDIS_POOL_ON_EMPTY_BEHAVIOR=Create is not supported (the reference ends with a panic",
        ),
        (
            {"REDIS_PERSECOND": "1", "REDIS_PERSECOND_POOL_ON_EMPTY_BEHAVIOR": "ERROR"},
            "REDIS_PERSECOND_POOL_ON_EMPTY_BEHAVIOR=ERROR is not supported",
        ),
        (
            {"TRACING_ENABLED": "true", "TRACING_EXPORTER_PROTOCOL": "grpc"},
            "TRACING_EXPORTER_PROTOCOL=grpc is not supported (set http",
        ),
        ({"SHADOW_MODE": "yes"}, "SHADOW_MODE: must be one of 1, t, T, TRUE, true, True, 0, f,"),
        ({"REDIS_TIMEOUT": "5"}, "REDIS_TIMEOUT: must be a duration with its unit"),
        ({"REDIS_POOL_SIZE": "many"}, "REDIS_POOL_SIZE: must be a whole number"),
        ({"TRACING_SAMPLING_RATE": "all"}, "TRACING_SAMPLING_RATE: must be a number"),
        ({"GRPC_MAX_CONNECTION_AGE": "-1s"}, "GRPC_MAX_CONNECTION_AGE: must not be negative"),
        (
            {"CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS": "authorization:secret:x"},
            "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS: must be name:value,name:value",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(environment: dict[str, str], told: str):
    problems = [str(problem) for problem in asked(environment).problems]
    assert len(problems) == 1
    assert problems[0].startswith(told)
    assert "secret" not in problems[0]


def test_what_is_not_read_is_not_refused():
    unread = {
        "TRACING_EXPORTER_PROTOCOL": "grpc",
        "REDIS_PERSECOND_POOL_ON_EMPTY_BEHAVIOR": "ERROR",
    }
    assert asked(unread) == Reading()


def test_every_setting_that_a_variable_sets_is_there():
    known = {name for name, _ in leaves(Settings)}
    assert {name for name in SETTINGS - known if not name.startswith(AWAITED)} == set()
