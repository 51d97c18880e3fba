"""Random files of limits, and an oracle that finds a limit in them without knowing trees."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

ENTRIES = st.tuples(
    st.sampled_from(["a", "b", "a_b"]), st.sampled_from(["", "x", "b_x", "xy", "*"])
)
CONFIGURED = st.tuples(
    st.sampled_from(["a", "b", "a_b", "a*"]), st.sampled_from(["", "x", "b_x", "x*", "*y", "b*x"])
)


def levels(depth: int) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Descriptors as a file holds them, composite keys unique in each level."""

    def made(parts: tuple[tuple[str, str], bool, list[dict[str, Any]]]) -> dict[str, Any]:
        (key, value), is_limited, below = parts
        written: dict[str, Any] = {"key": key, "descriptors": below}
        if value:
            written["value"] = value
        if is_limited:
            written["rate_limit"] = {"unit": "minute", "requests_per_unit": 1}
        return written

    below = levels(depth - 1) if depth else st.just([])
    return st.lists(
        st.tuples(CONFIGURED, st.booleans(), below).map(made),
        max_size=4,
        unique_by=lambda written: composite(written["key"], written.get("value", "")),
    )


def composite(key: str, value: str) -> str:
    return f"{key}_{value}" if value else key


def naive(configured: list[dict[str, Any]], entries: Sequence[tuple[str, str]]) -> str | None:
    """The path of the limit, found by trying everything in the order of the rules."""
    path = "domain"
    for position, (key, value) in enumerate(entries):
        names = {composite(c["key"], c.get("value", "")): c for c in configured}
        chosen = f"{key}_{value}" if f"{key}_{value}" in names else None
        if chosen is None:
            for name in names:
                pattern = ".*".join(re.escape(part) for part in name.split("*"))
                if "*" in name and re.fullmatch(pattern, f"{key}_{value}", re.DOTALL):
                    chosen = name
                    break
        if chosen is None and key in names:
            chosen = key
        if chosen is None:
            return None
        path = f"{path}.{chosen}"
        if position == len(entries) - 1:
            return path if "rate_limit" in names[chosen] else None
        configured = names[chosen]["descriptors"]
    return None
