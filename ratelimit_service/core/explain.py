"""Why a request is answered as it is: the lookup level by level, the counters, the answer.

Plain values to print. Finds nothing by itself: the steps are `lookup.tries`, what is counted is
`decide.plan`, the answer `decide.judge`. Counts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from meshwarden.core.documents import hint_for
from ratelimit_service.core.counter import counted, left_out
from ratelimit_service.core.decide import Plan, judge, plan
from ratelimit_service.core.keys import KEY_FORMATS
from ratelimit_service.core.lookup import composite_key, find_limit, tries
from ratelimit_service.core.model import (
    Descriptor,
    DescriptorSet,
    Entry,
    Increment,
    Limit,
    Node,
    Outcome,
    Rules,
)
from ratelimit_service.core.which_limit import described

KNOWN_SHOWN = 10
"""Names of a level that are told where none of them matches."""


class Counter(NamedTuple):
    """One counter of the request, under its key in each format, in `KEY_FORMATS`' order."""

    position: int
    increment: Increment
    keys: tuple[str, ...]


def counters(request: DescriptorSet, rules: Rules, *, now: int) -> list[Counter]:
    """What `request` would count at `now`. Raises as `decide.plan` does."""
    planned = plan(request, rules, now=now)
    by_format = [plan(request, _in_format(rules, name), now=now).increments for name in KEY_FORMATS]
    positions = [place for place, status in enumerate(planned.statuses) if status is None]
    keys = [tuple(increment.key for increment in found) for found in zip(*by_format, strict=True)]
    return [Counter(*found) for found in zip(positions, planned.increments, keys, strict=True)]


def _in_format(rules: Rules, name: str) -> Rules:
    return replace(rules, options=replace(rules.options, key_format=name))


def explain(
    request: DescriptorSet, rules: Rules, *, now: int, counts: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """`answer`, and for each of `descriptors` what was tried, met and counted.

    `counts` are the counters' values by key, in both formats; without them the answer is that of a
    window in which nothing was counted yet.
    """
    planned = plan(request, rules, now=now)
    found = [_descriptor(place, request, rules) for place in range(len(request.descriptors))]
    for counter in counters(request, rules, now=now):
        found[counter.position]["counter"] = _counter(counter, counts, now=now)
    decision = judge(planned, _outcomes(planned, counts or {}), now=now)
    domain = request.domain
    for told, descriptor, status in zip(found, request.descriptors, decision.statuses, strict=True):
        told["answer"] = described(domain, descriptor, status)
    result: dict[str, Any] = {"domain": domain, "is_configured": domain in rules.domains}
    if not result["is_configured"]:
        result["hint"] = hint_for(domain, rules.domains)
    return result | {
        "at": now,
        "answer": decision.code.name,
        "is_shadowed": decision.is_shadowed,
        "headers": dict(decision.headers),
        "descriptors": found,
    }


def _outcomes(planned: Plan, counts: Mapping[str, int]) -> list[Outcome]:
    """What would come of each increment, as a store that stands at `counts` has it."""
    values = dict(counts)

    def read(increment: Increment) -> int:
        return values.get(increment.key, 0)

    outcomes: list[Outcome] = []
    left = left_out(planned.increments, mode=planned.mode, read=read)
    for increment, skipped in zip(planned.increments, left, strict=True):
        if skipped is None:
            values[increment.key] = counted(read(increment), increment.hits)
        outcomes.append(values[increment.key] if skipped is None else skipped)
    return outcomes


def _counter(counter: Counter, counts: Mapping[str, int] | None, *, now: int) -> dict[str, Any]:
    increment, window = counter.increment, counter.increment.window
    keys = dict(zip(KEY_FORMATS, counter.keys, strict=True))
    told: dict[str, Any] = {
        "key": increment.key,
        "keys": keys,
        "hits": increment.hits,
        "window": {
            "unit": window.unit.name.lower(),
            "start": window.start,
            "end": window.end,
            "seconds_until_reset": window.seconds_until_reset(now),
        },
    }
    if counts is not None:
        told["counts"] = {name: counts.get(key, 0) for name, key in keys.items()}
    return told


def _descriptor(position: int, request: DescriptorSet, rules: Rules) -> dict[str, Any]:
    """What was tried for a descriptor, why it ended so, and the limit, where it met one."""
    descriptor = request.descriptors[position]
    root = rules.domains.get(request.domain)
    levels, node = ([], None) if root is None else _levels(root, descriptor)
    match = find_limit(request.domain, descriptor, rules=rules)
    if match is None:
        outcome, why = _unmatched(request.domain, descriptor, levels, root=root, node=node)
    else:
        outcome, why = _matched(match.limit, request, descriptor, rules)
    told: dict[str, Any] = {
        "entries": [{"key": entry.key, "value": entry.value} for entry in descriptor.entries],
        "levels": levels,
        "outcome": outcome,
        "why": why,
    }
    if match is not None:
        told["limit"] = _limit(match.limit)
        told["statistics"] = match.statistics_key
        told["shared"] = [
            {"entry": index, "pattern": pattern} for index, pattern in match.shared_values
        ]
    return told


def _levels(root: Node, descriptor: Descriptor) -> tuple[list[dict[str, Any]], Node | None]:
    """One for each entry, as far as something is met, and the node of the last."""
    levels: list[dict[str, Any]] = []
    node: Node | None = root
    if descriptor.override is not None:
        return levels, node
    for entry in descriptor.entries:
        if node is None:
            break
        if levels and node.match is not None:
            levels[-1]["passed_over"] = _limit(node.match.limit)
        level, node = _level(node, entry)
        levels.append(level)
    return levels, node


def _level(node: Node, entry: Entry) -> tuple[dict[str, Any], Node | None]:
    """What is tried for `entry` in order, and the node that is taken."""
    ways = [
        ("value", f"{entry.key}_{entry.value}"),
        *(("wildcard", wildcard.pattern) for wildcard in node.wildcards),
        ("key", entry.key),
    ]
    tried: list[dict[str, Any]] = []
    taken: Node | None = None
    for (way, name), step in zip(ways, tries(node, entry), strict=True):
        is_taken = step is not None and taken is None
        if step is not None and taken is None:
            taken = step.node
        tried.append({"by": way, "name": name, "matches": step is not None, "is_taken": is_taken})
    level: dict[str, Any] = {"entry": f"{entry.key}={entry.value}", "tried": tried}
    if taken is None and node.children:
        level["hint"] = hint_for(
            composite_key(entry.key, entry.value), sorted(node.children)[:KNOWN_SHOWN]
        )
    return level, taken


def _unmatched(
    domain: str,
    descriptor: Descriptor,
    levels: Sequence[Mapping[str, Any]],
    *,
    root: Node | None,
    node: Node | None,
) -> tuple[str, str]:
    """Why no limit applies."""
    if root is None:
        return "unknown_domain", f"nothing is configured for the domain '{domain}'"
    if not descriptor.entries:
        return "no_entries", "the descriptor has no entries"
    if node is None:
        number, entry = len(levels), levels[-1]["entry"]
        passed = levels[-2].get("passed_over") if number > 1 else None
        if passed is not None and "hint" not in levels[-1]:
            why = f"nothing is configured below {passed['rule']}, whose limit counts only where"
            return (
                "too_deep",
                f"{why} the descriptor ends: it has {len(descriptor.entries)} entries",
            )
        return "no_match", f"nothing is configured that matches {entry} (entry {number})"
    if node.children:
        return (
            "too_shallow",
            "what is met has no limit of its own; the limits below need more entries",
        )
    return "not_limited", "what is met is configured without a limit"


def _matched(
    limit: Limit, request: DescriptorSet, descriptor: Descriptor, rules: Rules
) -> tuple[str, str]:
    """Whether the limit counts, or what stands in its way."""
    if descriptor.override is not None:
        return "own_limit", "the request brings the limit along; the configuration isn't asked"
    if limit.unlimited:
        return "unlimited", "the limit is unlimited: it is not counted"
    found = [find_limit(request.domain, other, rules=rules) for other in request.descriptors]
    replacing = [
        match.limit.full_key
        for match in found
        if match is not None and limit.name in match.limit.replaces
    ]
    if replacing:
        return "replaced", f"'{limit.name}' is replaced by {', '.join(replacing)}: not counted"
    return "limited", "the descriptor ends where this limit is configured"


def _limit(limit: Limit) -> dict[str, Any]:
    return {
        "rule": limit.full_key,
        "name": limit.name,
        "requests_per_unit": limit.requests_per_unit,
        "unit": limit.unit.name.lower(),
        "unlimited": limit.unlimited,
        "shadow_mode": limit.shadow_mode,
        "quota_mode": limit.quota_mode,
        "atomic": limit.atomic,
        "replaces": sorted(limit.replaces),
        "metadata": limit.metadata,
    }
