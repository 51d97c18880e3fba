"""Reading the Cookie header."""

from __future__ import annotations


def cookies(header: str) -> list[tuple[str, str]]:
    """Name and value of each cookie in a Cookie header, in their order (RFC 6265 section 4.2.1)."""
    pairs = (part.strip().partition("=") for part in header.split(";") if part.strip())
    return [(name.strip(), value.strip().strip('"')) for name, _, value in pairs]
