"""SPIFFE IDs, read strictly. Source: the SPIFFE ID standard, sections 2.1 to 2.4."""

from __future__ import annotations

import re
from dataclasses import dataclass

BYTES_AT_MOST = 2048
TRUST_DOMAIN = r"[a-z0-9._-]{1,255}"

_ID = re.compile(rf"spiffe://({TRUST_DOMAIN})((?:/[A-Za-z0-9._-]+)*)\Z")


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """`path` begins with a slash, or is empty for the trust domain itself."""

    text: str
    trust_domain: str
    path: str


def parse_spiffe_id(text: str) -> SpiffeId | None:
    """The SPIFFE ID that `text` writes, or None.

    >>> parse_spiffe_id("spiffe://cluster.local/ns/shop/sa/web").trust_domain
    'cluster.local'
    >>> parse_spiffe_id("spiffe://cluster.local/ns/../sa/web") is None
    True
    """
    found = _ID.match(text) if len(text) <= BYTES_AT_MOST else None
    if found is None or any(segment in (".", "..") for segment in found[2].split("/")):
        return None
    return SpiffeId(text, found[1], found[2])
