"""The levels of a domain, put together from what was written, every fault found.

A level tells its entries apart by the joined text `key_value` (so `{key: a_b}` and `{key: a, value:
b}` are one). Words each fault as the reference does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from meshwarden.core.faults import Problem
from ratelimit_service.core.grammar import DescriptorSpec, DomainSpec, RateLimitSpec
from ratelimit_service.core.lookup import composite_key
from ratelimit_service.core.model import Limit, Match, Node, Wildcard
from ratelimit_service.core.wildcard import split_pattern
from ratelimit_service.core.window import Unit

_ASKING_FOR_VALUES = frozenset({"value_to_metric", "share_threshold", "detailed_metric"})


class TreeBuilder:
    """Puts domains together; `problems` lists what is wrong with them."""

    def __init__(self, *, merges_domains: bool, atomic_refusal: str = "") -> None:
        self.domains: dict[str, Node] = {}
        self.atomic_domains: set[str] = set()
        self.problems: list[Problem] = []
        self._merges_domains = merges_domains
        self._atomic_refusal = atomic_refusal

    def add(self, spec: DomainSpec) -> None:
        """Add one file's domain, or what the file adds to a domain where merging is on."""
        if not spec.domain:
            self._refuse(spec.file, spec.line, "config file cannot have empty domain")
        elif spec.domain in self.domains and not self._merges_domains:
            what = f"duplicate domain '{spec.domain}' in config file"
            self._refuse(spec.file, spec.line, what)
        root = self.domains.setdefault(spec.domain, Node())
        self._add_level(root, spec.descriptors, path=(spec.domain,), file=spec.file)

    def _add_level(
        self, parent: Node, specs: Iterable[DescriptorSpec], *, path: tuple[str, ...], file: str
    ) -> None:
        for spec in specs:
            if not spec.key:
                self._refuse(file, spec.line, "descriptor has empty key")
                continue
            composite = composite_key(spec.key, spec.value)
            here = (*path, composite)
            if composite in parent.children:
                what = f"duplicate descriptor composite key '{'.'.join(here)}'"
                self._refuse(file, spec.line, what)
                continue
            node = Node(
                value_to_metric="value_to_metric" in spec.flags,
                has_plain_path=parent.has_plain_path
                and not spec.flags & _ASKING_FOR_VALUES
                and not ("*" in composite or composite.endswith("_")),
            )
            if spec.rate_limit is not None:
                limit = self._limit(spec, spec.rate_limit, path=here, file=file)
                node.match = Match(limit, here, limit.full_key)
            self._add_wildcard(parent, spec, node=node, composite=composite, file=file)
            self._add_level(node, spec.descriptors, path=here, file=file)
            parent.children[composite] = node

    def _add_wildcard(
        self, parent: Node, spec: DescriptorSpec, *, node: Node, composite: str, file: str
    ) -> None:
        shares_threshold = "share_threshold" in spec.flags
        if "*" in composite:
            parts = split_pattern(composite)
            parent.wildcards.append(Wildcard(parts, composite, shares_threshold, node))
        elif shares_threshold:
            what = "share_threshold can only be used with wildcard values (containing '*')"
            self._refuse(file, spec.line, f"{what}, but found key '{composite}'")

    def _limit(
        self, spec: DescriptorSpec, rate_limit: RateLimitSpec, *, path: tuple[str, ...], file: str
    ) -> Limit:
        unit = _unit(rate_limit.unit)
        line = rate_limit.line
        if rate_limit.unlimited and unit is not Unit.UNKNOWN:
            self._refuse(file, line, "should not specify rate limit unit when unlimited")
        elif not rate_limit.unlimited and unit is Unit.UNKNOWN:
            self._refuse(file, line, f"invalid rate limit unit '{rate_limit.unit}'")
        for name in rate_limit.replaces:
            if not name:
                self._refuse(file, line, "should not have an empty replaces entry")
            elif name == rate_limit.name:
                self._refuse(file, line, "replaces should not contain name of same descriptor")
        if rate_limit.atomic:
            self.atomic_domains.add(path[0])
            if self._atomic_refusal:
                self._refuse(file, line, f"atomic is not possible: {self._atomic_refusal}")
        return Limit(
            full_key=".".join(path),
            requests_per_unit=rate_limit.requests_per_unit,
            unit=unit,
            unlimited=rate_limit.unlimited,
            name=rate_limit.name,
            replaces=frozenset(rate_limit.replaces),
            shadow_mode="shadow_mode" in spec.flags,
            quota_mode="quota_mode" in spec.flags,
            detailed_metric="detailed_metric" in spec.flags,
            atomic=rate_limit.atomic,
            metadata=spec.metadata,
        )

    def _refuse(self, file: str, line: int, what: str) -> None:
        self.problems.append(Problem(file, line, what))


def _unit(word: str) -> Unit:
    """The unit of that name, in any case; UNKNOWN for any other word."""
    return Unit.__members__.get(word.upper(), Unit.UNKNOWN)


def configured_limits(domains: Iterable[Node]) -> Iterator[Limit]:
    """Every limit of the configuration."""
    for node in domains:
        if node.match is not None:
            yield node.match.limit
        yield from configured_limits(node.children.values())


def described_limits(domains: Iterable[Node]) -> list[str]:
    """A line for each configured limit, as the reference prints them on `/rlconfig`."""
    return [
        f"{limit.full_key}: unit={limit.unit.name} "
        f"requests_per_unit={limit.requests_per_unit}, "
        f"shadow_mode: {str(limit.shadow_mode).lower()}, "
        f"quota_mode: {str(limit.quota_mode).lower()}"
        for limit in configured_limits(domains)
    ]
