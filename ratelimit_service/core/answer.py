"""From statuses to the answer for the request: overall code, headers, dynamic metadata.

Doesn't count and doesn't look limits up. Source: envoyproxy/ratelimit's rules for quota mode,
shadow mode, the `RateLimit-*` headers and RESPONSE_DYNAMIC_METADATA.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ratelimit_service.core import which_limit
from ratelimit_service.core.model import (
    Code,
    Decision,
    Descriptor,
    DescriptorSet,
    Limit,
    Metadata,
    Options,
    Override,
    Status,
)
from ratelimit_service.core.window import Unit


def answer(descriptors: DescriptorSet, statuses: tuple[Status, ...], options: Options) -> Decision:
    """The decision that follows from `statuses`."""
    code = _overall(statuses, options)
    is_shadowed = options.shadow_mode and code is Code.OVER_LIMIT
    code = Code.OK if is_shadowed else code
    headers: tuple[tuple[str, str], ...] = ()
    if options.header_names is not None or options.rule_header:
        headers = _headers(descriptors, statuses, options)
    metadata: dict[str, Any] | None = None
    if options.has_dynamic_metadata:
        metadata = _metadata(descriptors, statuses, options)
    if options.has_rule_metadata:
        deciding = _deciding(statuses, options)
        told = which_limit.metadata(descriptors, statuses, code=code, deciding=deciding)
        metadata = {**(metadata or {}), which_limit.METADATA_KEY: told}
    return Decision(code, statuses, headers, metadata, is_shadowed)


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


def _deciding(statuses: Sequence[Status], options: Options) -> int | None:
    """The place of the last limit that is over, else of the limit with the least remaining."""
    chosen: int | None = None
    for position, status in enumerate(statuses):
        if status.limit is not None and (
            chosen is None or status.limit_remaining < statuses[chosen].limit_remaining
        ):
            chosen = position
    for position, status in enumerate(statuses):
        if status.code is Code.OVER_LIMIT and not is_quota(status.limit, options=options):
            chosen = position
    return chosen


def _headers(
    descriptors: DescriptorSet, statuses: Sequence[Status], options: Options
) -> tuple[tuple[str, str], ...]:
    """Those of the limit that decides; none where there is no limit."""
    position = _deciding(statuses, options)
    if position is None:
        return ()
    chosen = statuses[position]
    limit = chosen.limit
    if limit is None:
        return ()
    headers: tuple[tuple[str, str], ...] = ()
    names = options.header_names
    if names is not None:
        headers = (
            (names.limit, str(limit.requests_per_unit)),
            (names.remaining, str(chosen.limit_remaining)),
            (names.reset, str(chosen.reset_seconds)),
        )
    if options.rule_header:
        rule = which_limit.rule_of(descriptors.domain, descriptors.descriptors[position], limit)
        headers += ((options.rule_header, which_limit.header_value(rule)),)
    return headers


def _metadata(
    descriptors: DescriptorSet, statuses: Sequence[Status], options: Options
) -> dict[str, Any]:
    """What was asked, which quotas are used up (by index), and the configured metadata of every
    limit that is not over. `quotaModeEnabled` is of the limits alone, not of the service's setting.
    """
    result: dict[str, Any] = {
        "domain": descriptors.domain,
        "descriptors": [_described(descriptor) for descriptor in descriptors.descriptors],
        "quotaModeEnabled": any(
            status.limit is not None and status.limit.quota_mode for status in statuses
        ),
    }
    used_up = [
        index
        for index, status in enumerate(statuses)
        if status.code is Code.OVER_LIMIT and is_quota(status.limit, options=options)
    ]
    if used_up:
        result["quotaModeViolations"] = used_up
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
        result["limit"] = _override_text(descriptor.override)
    if descriptor.hits_addend is not None:
        result["hitsAddend"] = descriptor.hits_addend
    return result


def _override_text(override: Override) -> str:
    """The message as text, as protobuf writes it on one line; a unit that its enum doesn't name (it
    has no WEEK) is a number.
    """
    fields = []
    if override.requests_per_unit:
        fields.append(f"requests_per_unit:{override.requests_per_unit}")
    if override.unit:
        has_name = override.unit in Unit.__members__.values() and override.unit != Unit.WEEK
        fields.append(f"unit:{Unit(override.unit).name if has_name else override.unit}")
    return " ".join(fields)


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
