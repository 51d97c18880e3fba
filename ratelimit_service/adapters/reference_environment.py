"""The environment of envoyproxy/ratelimit, as settings of ours.

    environment --go_values--> values --reference_variables--> nested settings, and what is wrong

A deployment that changes its image keeps its environment. Where it is one of the reference's (it
sets one of `TELLTALES`), the reference's defaults hold for what its variables name; ours come
before all of it. An empty value counts as none. What each variable becomes, the table in
`reference_variables` says.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from meshwarden.adapters.settings import leaves
from meshwarden.core.faults import Problem
from ratelimit_service.adapters.go_values import Value, parse
from ratelimit_service.adapters.reference_variable import Variable
from ratelimit_service.adapters.reference_variables import FURTHER, VARIABLES

TELLTALES = (
    "RUNTIME_ROOT",
    "RUNTIME_SUBDIRECTORY",
    "CONFIG_TYPE",
    "BACKEND_TYPE",
    "REDIS_URL",
    "REDIS_SOCKET_TYPE",
    "REDIS_TYPE",
)
"""An environment with any of these was written for the reference."""

_SINKS = ("USE_DOG_STATSD", "USE_PROMETHEUS")
_TRACES_PATH = "/v1/traces"


@dataclass(frozen=True, slots=True)
class Reading:
    """What an environment asks for: nested settings, the variable that set each, and what can't be
    honoured.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    set_by: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


class ReferenceEnvironment(PydanticBaseSettingsSource):
    """A source of settings that reads the reference's variables."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not used: `__call__` gives everything at once."""
        del field
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        return reading_for(self.settings_cls).settings


def reading_for(model: type[BaseSettings]) -> Reading:
    """What this process's environment asks of the settings `model`."""
    return read(os.environ, known={name for name, _ in leaves(model)})


def read(environment: Mapping[str, str], *, known: Collection[str]) -> Reading:
    """What `environment` asks for, of the settings in `known`."""
    reading = Reading()
    values = _parsed(environment, reading.problems)
    if any(environment.get(name) for name in TELLTALES):
        values = {**_defaults(values), **values}
    for variable in (*VARIABLES, *FURTHER):
        if variable.name in values and all(values.get(name) for name in variable.when):
            _apply(variable, values, known=known, reading=reading)
    if values.get("TRACING_ENABLED"):
        _set(reading, "tracing.otlp_endpoint", _traces_endpoint(environment), "TRACING_ENABLED")
    return reading


def _parsed(environment: Mapping[str, str], problems: list[Problem]) -> dict[str, Value]:
    """The values of all variables that are set and can be read."""
    values: dict[str, Value] = {}
    for variable in (*VARIABLES, *FURTHER):
        text = environment.get(variable.name)
        if not text:
            continue
        try:
            values[variable.name] = parse(variable.kind, text)
        except ValueError as error:
            problems.append(Problem("", 0, f"{variable.name}: {error}"))
    return values


def _defaults(given: Mapping[str, Value]) -> dict[str, Value]:
    """The reference's defaults.

    It ends where two statistics sinks are on. So that it starts with one of the others, statsd, on
    by default, is left off beside it.
    """
    values = {
        variable.name: parse(variable.kind, variable.default)
        for variable in VARIABLES
        if variable.default and not variable.keeps_our_default
    }
    if any(given.get(name) for name in _SINKS):
        values["USE_STATSD"] = False
    return values


def _apply(
    variable: Variable, values: Mapping[str, Value], *, known: Collection[str], reading: Reading
) -> None:
    """Put the value of `variable` where it belongs, or say why it can't be."""
    value = values[variable.name]
    hint = variable.refused.get(str(value).upper())
    if hint is not None:
        what = f"{variable.name}={value} is not supported"
        reading.problems.append(Problem("", 0, what, hint))
        return
    try:
        converted = variable.convert(value)
    except ValueError as error:
        reading.problems.append(Problem("", 0, f"{variable.name}: {error}"))
        return
    for setting in variable.settings:
        if setting in known and all(values.get(name) for name in variable.switches(setting)):
            _set(reading, setting, converted, variable.name)


def _set(reading: Reading, setting: str, value: Value, variable: str) -> None:
    *sections, name = setting.split(".")
    place = reading.settings
    for section in sections:
        place = place.setdefault(section, {})
    place[name] = value
    reading.set_by[setting] = variable


def _traces_endpoint(environment: Mapping[str, str]) -> str:
    """Where traces go, by OpenTelemetry's own variables and, without them, Go's default."""
    whole = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if whole:
        return whole
    start = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not start:
        is_plain = environment.get("OTEL_EXPORTER_OTLP_INSECURE", "").lower() == "true"
        start = f"{'http' if is_plain else 'https'}://localhost:4318"
    return start.rstrip("/") + _TRACES_PATH
