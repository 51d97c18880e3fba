"""From statuses to the answer for the request: overall code, headers, dynamic metadata.

Doesn't count and doesn't look limits up. Source: envoyproxy/ratelimit's rules for quota mode,
shadow mode, the `RateLimit-*` headers and RESPONSE_DYNAMIC_METADATA.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ratelimit_service.core.model import (
    Code,
    Decision,
    Descriptor,
    DescriptorSet,
    HeaderNames,
    Limit,
    Metadata,
    Options,
    Status,
)
from ratelimit_service.core.window import Unit


def answer(descriptors: DescriptorSet, statuses: tuple[Status, ...], options: Options) -> Decision:
    """The decision that follows from `statuses`."""
    code = _overall(statuses, options)
    is_shadowed = options.shadow_mode and code is Code.OVER_LIMIT
    return Decision(
        code=Code.OK if is_shadowed else code,
        statuses=statuses,
        headers=_headers(statuses, options) if options.header_names is not None else (),
        metadata=_metadata(descriptors, statuses, options)
        if options.has_dynamic_metadata
        else None,
        is_shadowed=is_shadowed,
    )


def _overall(statuses: Sequence[Status], options: Options) -> Code:
    """Over when a limit is over, or when there are quotas and every one of them is used up."""
    quotas = quotas_over = 0
    for status in statuses:
        is_over = status.code is Code.OVER_LIMIT
        if is_quota(status.limit, options=options):
            quotas += 1
            quotas_over += is_over
        elif is_over:
            return Code.OVER_LIMIT
    return Code.OVER_LIMIT if quotas and quotas_over == quotas else Code.OK


def is_quota(limit: Limit | None, *, options: Options) -> bool:
    """With the service-wide quota mode every descriptor is one, even one without a limit."""
    return options.quota_mode or (limit is not None and limit.quota_mode)


def _headers(statuses: Sequence[Status], options: Options) -> tuple[tuple[str, str], ...]:
    """Those of the last limit that is over, else of the limit with the least remaining."""
    chosen: Status | None = None
    for status in statuses:
        if status.limit is not None and (
            chosen is None or status.limit_remaining < chosen.limit_remaining
        ):
            chosen = status
    for status in statuses:
        if status.code is Code.OVER_LIMIT and not is_quota(status.limit, options=options):
            chosen = status
    if chosen is None or chosen.limit is None:
        return ()
    names = options.header_names or HeaderNames()
    return (
        (names.limit, str(chosen.limit.requests_per_unit)),
        (names.remaining, str(chosen.limit_remaining)),
        (names.reset, str(chosen.reset_seconds)),
    )


def _metadata(descriptors: DescriptorSet, statuses: Sequence[Status], options: Options) -> Metadata:
    """What was asked, and the configured metadata of every limit that is not over."""
    result: dict[str, Any] = {
        "domain": descriptors.domain,
        "descriptors": [_described(descriptor) for descriptor in descriptors.descriptors],
        "quotaModeEnabled": options.quota_mode,
    }
    if descriptors.hits_addend:
        result["hitsAddend"] = descriptors.hits_addend
    configured: dict[str, Any] = {}
    for status in statuses:
        if status.code is Code.OK and status.limit is not None and status.limit.metadata:
            configured = _merged(configured, status.limit.metadata)
    if configured:
        result["metadata"] = configured
    return result


def _described(descriptor: Descriptor) -> dict[str, Any]:
    result: dict[str, Any] = {
        "entries": [f"{entry.key}={entry.value}" for entry in descriptor.entries]
    }
    if descriptor.override is not None:
        result["limit"] = {
            "requestsPerUnit": descriptor.override.requests_per_unit,
            "unit": Unit(descriptor.override.unit).name,
        }
    if descriptor.hits_addend is not None:
        result["hitsAddend"] = descriptor.hits_addend
    return result


def _merged(first: Metadata, second: Metadata) -> dict[str, Any]:
    """Both, the first winning where both have a value; mappings are merged, none is changed."""
    result = dict(first)
    for key, value in second.items():
        present = result.get(key)
        if key not in result:
            result[key] = value
        elif isinstance(present, dict) and isinstance(value, dict):
            result[key] = _merged(present, value)
    return result
