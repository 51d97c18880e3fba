"""Reading plain YAML values that may be of any shape: what is not there is empty, never an error.

The API server refuses wrong shapes; here they must only not stop the search.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from meshwarden.core.documents import Path

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|us|ns|m|s)")


def at(value: Any, *path: str | int) -> Any:
    """What stands at `path`; None where nothing does."""
    for part in path:
        try:
            value = value[part]
        except (LookupError, TypeError):
            return None
    return value


def mapping(value: Any, *path: str | int) -> dict[str, Any]:
    """The mapping at `path`, or an empty one."""
    found = at(value, *path)
    return found if isinstance(found, dict) else {}


def items(value: Any, *path: str | int) -> list[Any]:
    """The list at `path`, or an empty one."""
    found = at(value, *path)
    return found if isinstance(found, list) else []


def text(value: Any, *path: str | int) -> str:
    """The string at `path`, or an empty one."""
    found = at(value, *path)
    return found if isinstance(found, str) else ""


def texts(value: Any, *path: str | int) -> list[str]:
    """The strings in the list at `path`."""
    return [one for one in items(value, *path) if isinstance(one, str)]


def labels(value: Any, *path: str | int) -> dict[str, str]:
    """The labels at `path`."""
    return {key: str(one) for key, one in mapping(value, *path).items()}


def selects(selector: Mapping[str, str], own: Mapping[str, str]) -> bool:
    """Whether a selector (all of its labels) fits a workload's labels; an empty one fits all."""
    return all(own.get(key) == value for key, value in selector.items())


def seconds(duration: Any) -> float | None:
    """A duration as Go writes it (`1m30s`, `0.25s`, `150ms`); None where it is none."""
    if not isinstance(duration, str) or not duration:
        return None
    parts = _PART.findall(duration)
    if "".join(number + unit for number, unit in parts) != duration:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def walked(value: Any, path: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every mapping within `value`, itself first, with the path that leads to it."""
    if isinstance(value, dict):
        yield path, value
        for key, child in value.items():
            yield from walked(child, (*path, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from walked(child, (*path, index))
