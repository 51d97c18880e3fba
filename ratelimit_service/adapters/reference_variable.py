"""One variable of envoyproxy/ratelimit: how its text is read, and how a value becomes a setting's.

The table of them all is in `reference_variables`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ratelimit_service.adapters.go_values import Kind, Value

Fate = Literal["honoured", "without effect"]

FOR_EVER_SECONDS = 2.0**31
"""gRPC's options end there, and take it for never."""


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable: how its text is read, and which settings it sets.

    `default` is the reference's. `when` names variables that must be on, else the reference never
    reads this one; `when_for` says so for one of several settings. `refused` says for a value, in
    upper case, what to do instead. `convert` turns a parsed value into the setting's; it raises
    `ValueError` for one that can't be.
    """

    name: str
    kind: Kind
    default: str = ""
    settings: tuple[str, ...] = ()
    fate: Fate = "honoured"
    note: str = ""
    when: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    convert: Callable[[Value], Value] = lambda value: value
    keeps_our_default: bool = False
    when_for: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def switches(self, setting: str) -> tuple[str, ...]:
        """The variables that must be on for `setting` to be set by this one."""
        return (*self.when, *self.when_for.get(setting, ()))


def log_level(value: Value) -> Value:
    """logrus' levels as ours."""
    text = str(value).lower()
    words = {"trace": "debug", "warn": "warning", "fatal": "error", "panic": "error"}
    return words.get(text, text)


def log_format(value: Value) -> Value:
    return "json" if str(value).lower() == "json" else "console"


def store_kind(value: Value) -> Value:
    text = str(value).lower()
    if text not in ("redis", "memory"):
        raise ValueError("must be redis")
    return text


def configuration_source(value: Value) -> Value:
    sources = {"FILE": "folder", "GRPC_XDS_SOTW": "xds"}
    if value not in sources:
        raise ValueError(f"must be one of {', '.join(sources)}")
    return sources[str(value)]


def redis_type(value: Value) -> Value:
    text = str(value).lower()
    if text not in ("single", "sentinel", "cluster"):
        raise ValueError("must be SINGLE, SENTINEL or CLUSTER")
    return text


def age_seconds(value: Value) -> Value:
    return _not_negative(value) or FOR_EVER_SECONDS


def _not_negative(value: Value) -> Value:
    if isinstance(value, str) or value < 0:
        raise ValueError("must not be negative")
    return value


def at_least_zero(value: Value) -> Value:
    return value if isinstance(value, str) else max(0, value)


def share(value: Value) -> Value:
    return value if isinstance(value, str) else min(1.0, max(0.0, value))


def configuration_for_health(value: Value) -> Value:
    return "with_domains" if value else "not_needed"
