"""Texts of denials with places for what is known of the request, escaped for where they stand.

`${reason}` and its kin (`NAMES`) are replaced; `$$` is a dollar sign. What a client sent is escaped
for HTML, for JSON or for a URL, so that a page of ours can't be made to say or run what a client
wrote.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping
from urllib.parse import quote

NAMES = ("reason", "detail", "status", "policy", "principal", "host", "path", "url")
TEXT_CHARACTERS_AT_MOST = 16_384

_PLACE = re.compile(r"\$(?:\$|\{([^}]*)\}|)")


class Template:
    """One text. Raises `ValueError` for a place that nothing fills."""

    def __init__(self, text: str) -> None:
        self._parts: list[tuple[str, str]] = []
        position = 0
        for found in _PLACE.finditer(text):
            name = found[1]
            if found[0] == "$" or (name is not None and name not in NAMES):
                known = ", ".join(NAMES)
                raise ValueError(f"'{found[0]}' is no place in a text; ${{...}} of: {known}; $$")
            literal = text[position : found.start()] + ("$" if name is None else "")
            self._parts.append((literal, name or ""))
            position = found.end()
        self._parts.append((text[position:], ""))

    def filled(self, values: Mapping[str, str], escape: Callable[[str], str]) -> str:
        """The text with its places filled."""
        return "".join(
            literal + (escape(values[name]) if name else "") for literal, name in self._parts
        )


def escape_for(content_type: str) -> Callable[[str], str]:
    """How a value is written into a text of this type."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml", "text/xml", "application/xml"):
        return html.escape
    if kind == "application/json" or kind.endswith("+json"):
        return lambda value: json.dumps(value)[1:-1]
    return str


def escape_for_url(value: str) -> str:
    """As the value of a query parameter."""
    return quote(value, safe="")


def escape_for_header(value: str) -> str:
    """Without what no header can carry."""
    return "".join(c for c in value if c.isprintable() and c.isascii())
