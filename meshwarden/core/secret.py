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
    r"(^|[-_.])(authorization|cookie|set-cookie|password|passwd|secret|pepper|api[-_]?key|token|credential|jwt)s?$",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile(
    r"""eyJ[\w-]{5,}\.[\w-]*\.?[\w-]*        # a JSON Web Token, cut or whole
      | \bmwk_[0-9A-Za-z_-]{8,}              # an API key of ours
      | \b(?:Bearer|Basic)\s+[\w.~+/=-]+     # a credential in an Authorization value
      | (?<=://)[^/\s:@]*:[^/\s@]+(?=@)      # user and password in a URL
    """,
    re.VERBOSE | re.IGNORECASE,
)


def redacted_text(text: str) -> str:
    """`text` with everything that looks like a credential masked."""
    return _SECRET_TEXT.sub(MASK, text)


def redacted(value: Any, name: str = "") -> Any:
    """`value` as it may be logged under `name`; looks into mappings and sequences."""
    if name and _SECRET_NAMES.search(name) and isinstance(value, (str, bytes)) and value:
        return MASK
    if isinstance(value, str):
        return redacted_text(value)
    if isinstance(value, bytes):
        return redacted_text(value.decode("utf-8", "replace"))
    if isinstance(value, Mapping):
        return {key: redacted(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(inner, name) for inner in value]
    return value
