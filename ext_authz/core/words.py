"""Which text is fit to name a caller."""

from __future__ import annotations

SUBJECT_CHARACTERS_AT_MOST = 256


def is_header_safe(text: str) -> bool:
    """Whether `text` is fit to be a header's value: printable, bounded, no space at its ends,
    encodable.
    """
    return len(text) <= SUBJECT_CHARACTERS_AT_MOST and text.isprintable() and text == text.strip()
