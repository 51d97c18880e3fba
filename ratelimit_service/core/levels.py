"""How deep the descriptors of a RateLimit object may stand in each other.

The schema of a cluster's API server can't recurse: it knows `LEVELS_AT_MOST` levels, and hands on
what is below them unread. Files are not bounded so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

LEVELS_AT_MOST = 5


def level_problems(spec: Any) -> list[str]:
    """What is wrong with `spec` of a RateLimit object: each descriptor of the last level that has
    descriptors, by its place. Takes any value: what is of the wrong type is not its business.
    """
    descriptors = spec.get("descriptors") if isinstance(spec, dict) else None
    return [
        f"{place}: descriptors are nested more than {LEVELS_AT_MOST} levels deep, which an object "
        "in a cluster can't be: join levels into one key, or load the limits from files"
        for place in _too_deep(descriptors, "spec.descriptors", 1)
    ]


def _too_deep(descriptors: Any, place: str, level: int) -> Iterator[str]:
    if not isinstance(descriptors, list) or not descriptors:
        return
    if level > LEVELS_AT_MOST:
        yield place
        return
    for index, descriptor in enumerate(descriptors):
        if isinstance(descriptor, dict):
            below = descriptor.get("descriptors")
            yield from _too_deep(below, f"{place}[{index}].descriptors", level + 1)
