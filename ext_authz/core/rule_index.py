"""Finding the rules that may match a path without asking every one.

A tree of literal segments: a rule stands at the end of the literals with which its pattern begins,
one without paths at the root. The rules on the way of a path are candidates; whether they match,
`examine` says. The number of rules that don't lie on a path's way costs it nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from ext_authz.core.paths import PathPattern

if TYPE_CHECKING:
    from ext_authz.core.policies import CompiledRule

Found: TypeAlias = "tuple[int, CompiledRule]"
"""A rule and its place in the file."""


class _Node:
    __slots__ = ("below", "rules")

    def __init__(self) -> None:
        self.rules: list[Found] = []
        self.below: dict[str, _Node] = {}


class RuleIndex:
    """Rules by the literal beginning of their paths."""

    def __init__(self, rules: Sequence[CompiledRule]) -> None:
        self._root = _Node()
        for position, rule in enumerate(rules):
            starts = {_literal_start(pattern) for pattern in rule.patterns} or {()}
            for start in starts:
                self._node(start).rules.append((position, rule))

    def candidates(self, path: str) -> Sequence[CompiledRule]:
        """The rules that may match the normalised `path`, in the order of the file."""
        node = self._root
        found = node.rules
        if node.below:
            found = list(found)
            for segment in path.rstrip("/").split("/")[1:]:
                deeper = node.below.get(segment)
                if deeper is None:
                    break
                node = deeper
                found += node.rules
            found.sort(key=_position)
        # A rule with several paths may have been met twice.
        return list(dict(found).values())

    def _node(self, start: tuple[str, ...]) -> _Node:
        node = self._root
        for segment in start:
            node = node.below.setdefault(segment, _Node())
        return node


def _literal_start(pattern: PathPattern) -> tuple[str, ...]:
    start: list[str] = []
    for segment in pattern.segments:
        if segment is None:
            break
        start.append(segment)
    return tuple(start)


def _position(found: Found) -> int:
    return found[0]
