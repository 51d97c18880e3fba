"""Host patterns: a name, `*.` and a name (every name below it, not itself), or `*`."""

from __future__ import annotations

import re
from collections.abc import Iterator

_PATTERN = re.compile(r"(\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])\Z")


def parse_host_pattern(text: str) -> str:
    """The pattern in lower case. Raises `ValueError` for what is none."""
    pattern = text.lower()
    if _PATTERN.match(pattern) is None:
        raise ValueError(
            f"'{text}' is no host pattern: write a name, '*.' and a name, or '*'; no port"
        )
    return pattern


def wildcards_above(pattern: str) -> Iterator[str]:
    """The patterns that cover every host of `pattern`, the nearest first; not itself.

    >>> list(wildcards_above("*.shop.example.com"))
    ['*.example.com', '*.com', '*']
    """
    labels = pattern.removeprefix("*.").split(".")[1:]
    for start in range(len(labels)):
        yield f"*.{'.'.join(labels[start:])}"
    if pattern != "*":
        yield "*"
