"""Which limit a descriptor meets: exact value, then wildcard, then key alone; no going back.

A limit counts only where the descriptor ends: one met on the way is ignored. Known weakness, the
reference's own: a level is searched by the joined text `key_value`, so `{key: a_b}` and
`{key: a, value: b}` are one and the same.
"""

from __future__ import annotations

from collections.abc import Iterator
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


class Step(NamedTuple):
    """How one entry was matched: by a wildcard, by its value (`is_exact`), or by its key alone."""

    node: Node
    wildcard: Wildcard | None = None
    is_exact: bool = False


def find_limit(domain: str, descriptor: Descriptor, *, rules: Rules) -> Match | None:
    """The limit of `descriptor`, or None where it is not limited.

    Raises `InvalidInput` for an override whose unit is none (the reference's process dies of it).
    """
    root = rules.domains.get(domain)
    if root is None:
        return None
    if descriptor.override is not None:
        return _overridden(domain, descriptor, descriptor.override)
    node = root
    steps: list[Step] = []
    for entry in descriptor.entries:
        step = _first(node, entry)
        if step is None:
            return None
        steps.append(step)
        node = step.node
    if not steps or node.match is None:
        return None
    if node.has_plain_path:
        return node.match
    return _with_values(node.match, descriptor, steps=steps)


def _first(node: Node, entry: Entry) -> Step | None:
    """The step that is taken, None where there is none."""
    if not node.wildcards and f"{entry.key}_{entry.value}" not in node.children:
        # By far the most frequent case: nothing but the key alone is left to be tried.
        default = node.children.get(entry.key)
        return None if default is None else Step(default)
    return next((step for step in tries(node, entry) if step is not None), None)


def tries(node: Node, entry: Entry) -> Iterator[Step | None]:
    """What is tried for `entry` below `node`, in this order; the first that is a step is taken.

    None where nothing is configured for the value, a wildcard doesn't match it, or nothing is
    configured for the key alone.
    """
    composite = f"{entry.key}_{entry.value}"
    exact = node.children.get(composite)
    yield None if exact is None else Step(exact, is_exact=True)
    for wildcard in node.wildcards:
        yield Step(wildcard.node, wildcard) if is_match(wildcard.parts, composite) else None
    default = node.children.get(entry.key)
    yield None if default is None else Step(default)


def _with_values(match: Match, descriptor: Descriptor, *, steps: list[Step]) -> Match:
    """`match` with what depends on the request: shared counters and detailed statistics."""
    shared = tuple(
        (index, _pattern(step.wildcard, entry))
        for index, (entry, step) in enumerate(zip(descriptor.entries, steps, strict=True))
        if step.wildcard is not None and step.wildcard.shares_threshold
    )
    key = _statistics_key(match, descriptor, steps=steps, shared=dict(shared))
    if not shared and key == match.statistics_key:
        return match
    return replace(match, shared_values=shared, statistics_key=key)


def _pattern(wildcard: Wildcard, entry: Entry) -> str:
    """The pattern as a value of the entry's key. Where the key itself was matched by the `*`, or
    holds part of the value, the whole `key_value` stands for it (as in the reference).
    """
    return wildcard.pattern.removeprefix(f"{entry.key}_")


def _statistics_key(
    match: Match, descriptor: Descriptor, *, steps: list[Step], shared: dict[int, str]
) -> str:
    """`detailed_metric` shows all values, `value_to_metric` its level's, sharing the pattern.

    An empty value is shown as `key_` with `detailed_metric`, unless some level shares: the
    reference builds those two names in two ways.
    """
    parts = [match.path[0]]
    is_detailed = match.limit.detailed_metric
    for index, (entry, step) in enumerate(zip(descriptor.entries, steps, strict=True)):
        if is_detailed and not shared:
            parts.append(f"{entry.key}_{entry.value}")
            continue
        value = ""
        if index in shared:
            value = shared[index]
        elif is_detailed or step.is_exact or step.node.value_to_metric:
            value = entry.value
        elif step.wildcard is not None:
            value = _pattern(step.wildcard, entry)
        parts.append(composite_key(entry.key, value))
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
