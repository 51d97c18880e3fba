"""Which limit a descriptor meets: exact value, then wildcard, then key alone; no going back.

A limit counts only where the descriptor ends: one met on the way is ignored. Known weakness, the
reference's own: a level is searched by the joined text `key_value`, so `{key: a_b}` and
`{key: a, value: b}` are one and the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from meshwarden.core.faults import InvalidInput
from ratelimit_service.core.model import (
    Descriptor,
    Entry,
    Limit,
    Match,
    Node,
    Override,
    Rules,
    Wildcard,
)
from ratelimit_service.core.wildcard import is_match
from ratelimit_service.core.window import Unit


class _Step(NamedTuple):
    """How one entry was matched; `wildcard` is the pattern, `is_default` means by its key alone."""

    node: Node
    wildcard: Wildcard | None = None
    is_default: bool = False


def find_limit(domain: str, descriptor: Descriptor, *, rules: Rules) -> Match | None:
    """The limit of `descriptor`, or None where it is not limited.

    Raises `InvalidInput` for an override whose unit is none (the reference's process dies of it).
    """
    root = rules.domains.get(domain)
    if root is None:
        return None
    if descriptor.override is not None:
        return _overridden(domain, descriptor, descriptor.override)
    steps: list[_Step] = []
    node = root
    for entry in descriptor.entries:
        step = _step(node, entry)
        if step is None:
            return None
        steps.append(step)
        node = step.node
    if not steps or node.match is None:
        return None
    if node.has_plain_path:
        return node.match
    return _with_values(node.match, descriptor, steps=steps)


def _step(node: Node, entry: Entry) -> _Step | None:
    composite = f"{entry.key}_{entry.value}"
    exact = node.children.get(composite)
    if exact is not None:
        return _Step(exact)
    for wildcard in node.wildcards:
        if is_match(wildcard.parts, composite):
            return _Step(wildcard.node, wildcard)
    default = node.children.get(entry.key)
    return None if default is None else _Step(default, is_default=True)


def _with_values(match: Match, descriptor: Descriptor, *, steps: list[_Step]) -> Match:
    """`match` with what depends on the request: shared counters and detailed statistics."""
    shared = tuple(
        (index, step.wildcard.value)
        for index, step in enumerate(steps)
        if step.wildcard is not None and step.wildcard.shares_threshold
    )
    return replace(
        match,
        shared_values=shared,
        statistics_key=_statistics_key(match, descriptor, steps=steps, shared=dict(shared)),
    )


def _statistics_key(
    match: Match, descriptor: Descriptor, *, steps: list[_Step], shared: dict[int, str]
) -> str:
    """`detailed_metric` shows all values, `value_to_metric` its level's, sharing the pattern."""
    parts = [match.path[0]]
    for index, (entry, step) in enumerate(zip(descriptor.entries, steps, strict=True)):
        shows_value = match.limit.detailed_metric or (
            step.node.value_to_metric and (step.is_default or step.wildcard is not None)
        )
        if not shows_value:
            parts.append(match.path[index + 1])
        elif match.limit.detailed_metric and not shared:
            # An empty value leaves its `_`, here alone: so the reference names it.
            parts.append(f"{entry.key}_{entry.value}")
        else:
            parts.append(composite_key(entry.key, shared.get(index, entry.value)))
    return ".".join(parts)


def composite_key(key: str, value: str) -> str:
    """`key`, or `key_value` where there is a value: how a level's entries are told apart."""
    return f"{key}_{value}" if value else key


def _overridden(domain: str, descriptor: Descriptor, override: Override) -> Match:
    try:
        unit = Unit(override.unit)
    except ValueError:
        unit = Unit.UNKNOWN
    if unit is Unit.UNKNOWN:
        raise InvalidInput(f"the descriptor's own limit has no known unit: {override.unit}")
    path = (domain, *(composite_key(entry.key, entry.value) for entry in descriptor.entries))
    limit = Limit(".".join(path), override.requests_per_unit, unit)
    return Match(limit, path, limit.full_key)
