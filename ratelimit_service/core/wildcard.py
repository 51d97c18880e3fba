"""Patterns with `*`: any number of them, each for any number of characters, none for itself.

The pattern is matched against the whole `key_value`, case-sensitively; there is no escape for a
literal `*`.
"""

from __future__ import annotations


def split_pattern(pattern: str) -> tuple[str, ...]:
    """The literal parts of `pattern`, ready for `is_match`."""
    return tuple(pattern.split("*"))


def is_match(parts: tuple[str, ...], text: str) -> bool:
    """Whether `text` holds all parts in order, the first at its start and the last at its end.

    >>> is_match(split_pattern("bar*b"), "bar123b"), is_match(split_pattern("bar*b"), "bara")
    (True, False)
    """
    first, last = parts[0], parts[-1]
    if not (text.startswith(first) and text.endswith(last)):
        return False
    position, end = len(first), len(text) - len(last)
    for part in parts[1:-1]:
        found = text.find(part, position, end) if position <= end else -1
        if found < 0:
            return False
        position = found + len(part)
    return position <= end
