"""Values of environment variables as the reference reads them: Go's `strconv`, `time.ParseDuration`
and the lists and maps of `kelseyhightower/envconfig`.

Knows no variable. Lists and maps are judged here and passed on as they were written.
"""

from __future__ import annotations

import re
from typing import Literal

from ratelimit_service.core.statsd_lines import parse_tags

Kind = Literal["text", "integer", "number", "flag", "duration", "list", "map"]

_FLAGS = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}
_SECONDS = {
    "ns": 1e-9,
    "us": 1e-6,
    "\u00b5s": 1e-6,  # The micro sign; Go takes the Greek letter as well.
    "\u03bcs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(" + "|".join(_SECONDS) + ")", re.ASCII)
_DURATION = re.compile(rf"([+-]?)((?:{_PART.pattern})+)", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(
    r"[+-]?(0[xX](_?[0-9a-fA-F])+|0[bB](_?[01])+|0[oO]?(_?[0-7])+|[1-9](_?\d)*|0)", re.ASCII
)

Value = str | int | float | bool


def parse(kind: Kind, text: str) -> Value:
    """`text` as a value of `kind`; durations in seconds. Raises `ValueError`, which says what would
    be taken.
    """
    match kind:
        case "flag":
            return _flag(text)
        case "integer":
            return _integer(text)
        case "number":
            if not _NUMBER.fullmatch(text):
                raise ValueError("must be a number, such as 0.8")
            return float(text)
        case "duration":
            return _seconds(text)
        case "map":
            return _map(text)
        case "text" | "list":
            return text


def _flag(text: str) -> bool:
    if text not in _FLAGS:
        raise ValueError(f"must be one of {', '.join(_FLAGS)}")
    return _FLAGS[text]


def _integer(text: str) -> int:
    """As `strconv.ParseInt` with base 0: 010 is eight, 0x10 sixteen."""
    if not _INTEGER.fullmatch(text):
        raise ValueError("must be a whole number")
    octal = re.fullmatch(r"([+-]?)0(_?[0-7][0-7_]*)", text)
    return int(f"{octal[1]}0o{octal[2]}" if octal else text, 0)


def _seconds(text: str) -> float:
    if text in ("0", "+0", "-0"):
        return 0.0
    found = _DURATION.fullmatch(text)
    if not found:
        raise ValueError("must be a duration with its unit, such as 100ms or 1m30s")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(found[2]))
    return -seconds if found[1] == "-" else seconds


def _map(text: str) -> str:
    # What is wrong is not quoted: a header may hold a credential.
    if text.strip():
        parse_tags(text)
    return text
