"""Durations in settings: seconds as a number, or as Go writes them."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator

_DURATION = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_seconds(value: object) -> object:
    """Seconds from a number, or from a duration as Go writes it, such as `100ms` or `1m30s`."""
    if not isinstance(value, str) or not re.fullmatch(rf"(?:{_DURATION.pattern})+", value):
        return value
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(value))


Seconds = Annotated[float, BeforeValidator(parse_seconds)]
