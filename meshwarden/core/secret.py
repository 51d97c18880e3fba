"""Keeping credentials out of logs and errors.

`redacted` works on any log event: fields whose name says that they hold a credential lose their
value, and text that looks like one (a JSON Web Token, an API key of ours, `Bearer ...`) is masked
wherever it stands. Known weakness: an opaque secret in a field with an innocent name can't be
recognised; don't log one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "[redacted]"

_SECRET_NAMES = re.compile(
    r"(authorization|cookie|password|passwd|secret|pepper|api[-_]?key|token|credential|jwt)s?$",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile(
    r"""eyJ[\w-]{5,}(?:\.[\w-]*)+             # a JSON Web Token, cut or whole, signed or encrypted
      | mwk_[0-9A-Za-z_-]{8,}                # an API key of ours
      | \b(?:Bearer|Basic)\s+[\w.~+/=-]+     # a credential in an Authorization value
      | (?<=://)[^/\s]*(?=@)                 # user and password in a URL
    """,
    re.VERBOSE | re.IGNORECASE,
)


def redacted_text(text: str) -> str:
    """`text` with everything that looks like a credential masked."""
    return _SECRET_TEXT.sub(MASK, text)


def redacted(value: Any, name: str = "") -> Any:
    """`value` as it may be logged under `name`.

    Looks into mappings, sequences and (name, value) pairs; what is neither plain nor a collection,
    such as an exception, becomes its masked text, because a renderer would write that text.
    """
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if name and value and _SECRET_NAMES.search(name):
        return MASK
    if isinstance(value, str):
        return redacted_text(value)
    if isinstance(value, bytes):
        return redacted_text(value.decode("utf-8", "replace"))
    if isinstance(value, Mapping):
        return {redacted_text(str(key)): redacted(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return _redacted_items(value)
    return redacted_text(repr(value))


def _redacted_items(values: list[Any] | tuple[Any, ...]) -> list[Any]:
    """The items; in a pair whose first is a text, that names the second, as in gRPC metadata."""
    if len(values) == 2 and isinstance(values[0], str):
        return [redacted_text(values[0]), redacted(values[1], values[0])]
    return [redacted(inner) for inner in values]
