"""Which limit answered, in words for the log, for dynamic metadata and for a response header.

A limit is named as the configuration names it, so no value that a client sends is told: where a
descriptor brought its own limit along, its keys stand for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from ratelimit_service.core.model import (
    UNLIMITED_REMAINING,
    Code,
    Descriptor,
    DescriptorSet,
    Limit,
    Status,
)

METADATA_KEY = "meshwarden"
"""Where we stand in `RateLimitResponse.dynamic_metadata`, beside what the reference sends."""
CHARACTERS_AT_MOST = 256
"""Of a limit's name in any of these places; the rest is cut off."""

_SAFE_IN_A_HEADER = "!\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


def rule_of(domain: str, descriptor: Descriptor, limit: Limit) -> str:
    """The name of the limit that `descriptor` met: as in `/rlconfig`, else its domain and keys."""
    if descriptor.override is None:
        return limit.full_key[:CHARACTERS_AT_MOST]
    return ".".join((domain, *(entry.key for entry in descriptor.entries)))[:CHARACTERS_AT_MOST]


def header_value(rule: str) -> str:
    """`rule` in the characters that a header may hold; all others as in a URL.

    >>> header_value("shop.path_/café")
    'shop.path_/caf%C3%A9'
    """
    return quote(rule, safe=_SAFE_IN_A_HEADER)


def described(domain: str, descriptor: Descriptor, status: Status) -> dict[str, Any]:
    """The answer for `descriptor`, and the limit that gave it; without one its code alone."""
    told: dict[str, Any] = {"code": status.code.name}
    limit = status.limit
    if limit is None:
        if status.limit_remaining == UNLIMITED_REMAINING:
            told["unlimited"] = True
        return told
    told["rule"] = rule_of(domain, descriptor, limit)
    if limit.name:
        told["name"] = limit.name[:CHARACTERS_AT_MOST]
    told["limit"] = limit.requests_per_unit
    told["unit"] = limit.unit.name.lower()
    told["remaining"] = status.limit_remaining
    told["reset_seconds"] = status.reset_seconds
    if status.counted is not None:
        told["hits"] = status.counted.hits
    if limit.quota_mode:
        told["quota_mode"] = True
    if limit.shadow_mode:
        told["shadow_mode"] = True
        told["is_shadowed"] = status.is_over
    return told


def metadata(
    descriptors: DescriptorSet, statuses: Sequence[Status], *, code: Code, deciding: int | None
) -> dict[str, Any]:
    """What stands under `METADATA_KEY`: the limit that decided, flat, and every descriptor's.

    `deciding` is its place among `descriptors`, None where none has a limit. `code` is the overall
    answer.
    """
    domain = descriptors.domain
    found = [
        described(domain, descriptor, status)
        for descriptor, status in zip(descriptors.descriptors, statuses, strict=True)
    ]
    told = {} if deciding is None else found[deciding]
    return {**told, "overall_code": code.name, "descriptors": found}
