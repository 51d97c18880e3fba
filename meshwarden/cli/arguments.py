"""Values that several commands take on their command line, checked in one place."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import typer

from meshwarden.core.faults import Misconfigured

SECONDS_AT_MOST = 10e9
"""Three hundred years: later times can't be shown as a date."""


def seconds(text: str | float) -> float:
    """A number of seconds, negative ones included; anything else is refused by its value."""
    try:
        value = float(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not a number of seconds") from None
    if math.isnan(value) or abs(value) > SECONDS_AT_MOST:
        raise typer.BadParameter(f"{text} seconds is no time that can be kept")
    return value


def content(name: str) -> bytes:
    """The content of the file of that name; `-` is standard input."""
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise Misconfigured(f"{name} can't be read: {error.strerror}") from None
