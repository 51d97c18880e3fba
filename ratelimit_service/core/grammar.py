"""The grammar of an envoyproxy/ratelimit file: which keys there are, and what each may hold.

Words every fault as the reference does (its `validateYamlKeys`, and its library's type errors), but
finds all of them, each with its line. What only shows when the levels are put together (duplicates,
units, wildcards) is the business of `tree`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any

from meshwarden.core.faults import Problem
from ratelimit_service.core.go_yaml import Mapping, Scalar, Sequence, Value, plain

TEXT_KEYS = frozenset({"domain", "key", "value", "unit", "name"})
"""Where a string is wanted: a scalar there keeps the text of the file."""

FLAG_KEYS = (
    "shadow_mode",
    "quota_mode",
    "detailed_metric",
    "value_to_metric",
    "share_threshold",
    "unlimited",
)
KEYS = TEXT_KEYS.union(
    FLAG_KEYS, ("descriptors", "rate_limit", "requests_per_unit", "replaces", "metadata")
)
"""The reference's keys; it accepts each of them anywhere."""
OWN_KEYS = frozenset({"atomic"})
"""Ours, which stand in `rate_limit` and nowhere else."""


@dataclass(frozen=True, slots=True)
class RateLimitSpec:
    """`rate_limit` as written; `unit` is not judged yet."""

    unit: str
    requests_per_unit: int
    unlimited: bool
    name: str
    replaces: tuple[str, ...]
    atomic: bool
    line: int


@dataclass(frozen=True, slots=True)
class DescriptorSpec:
    """One descriptor as written, and what stands below it."""

    key: str
    value: str
    rate_limit: RateLimitSpec | None
    flags: frozenset[str]
    metadata: Any
    descriptors: tuple[DescriptorSpec, ...]
    line: int


@dataclass(frozen=True, slots=True)
class DomainSpec:
    """One file's domain, or one RateLimit resource's."""

    file: str
    domain: str
    descriptors: tuple[DescriptorSpec, ...]
    line: int


def key_problems(file: str, value: Value, *, known: Set[str] = KEYS) -> Iterator[Problem]:
    """Unknown keys anywhere, lists of anything but mappings, scalars that are floats."""
    if not isinstance(value, Mapping):
        return
    for key, inner in value.items:
        if not isinstance(key, Scalar) or not isinstance(key.value, str):
            what = f"config error, key is not of type string: {_go_text(key)}"
            yield Problem(file, key.line, what)
        elif key.text not in known:
            yield Problem(file, key.line, f"config error, unknown key '{key.text}'")
        elif key.text == "rate_limit" and isinstance(inner, Mapping):
            yield from key_problems(file, inner, known=KEYS | OWN_KEYS)
        elif key.text != "metadata":
            yield from _value_problems(file, inner)


def _value_problems(file: str, value: Value) -> Iterator[Problem]:
    if isinstance(value, Mapping):
        yield from key_problems(file, value)
    elif isinstance(value, Sequence):
        for item in value.items:
            if isinstance(item, Mapping):
                yield from key_problems(file, item)
            else:
                what = "config error, yaml file contains list of type other than map: "
                yield Problem(file, item.line, what + _go_text(item))
    elif isinstance(value.value, float) or (isinstance(value.value, int) and value.value >= 2**63):
        yield Problem(file, value.line, "error checking config")


def _go_text(value: Value) -> str:
    """`value` as Go's `%v` prints it."""
    if isinstance(value, Scalar):
        if value.value is None:
            return "<nil>"
        return str(value.value).lower() if isinstance(value.value, bool) else str(value.value)
    if isinstance(value, Sequence):
        return f"[{' '.join(_go_text(item) for item in value.items)}]"
    pairs = sorted(f"{_go_text(key)}:{_go_text(inner)}" for key, inner in value.items)
    return f"map[{' '.join(pairs)}]"


class TypedReader:
    """Reads one document into specs; collects a problem for each value of the wrong type."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []

    def domain(self, root: Value) -> DomainSpec:
        """The whole document. A value of the wrong type is reported and read as if absent."""
        mapping = self._mapping(root, "config.YamlRoot") or Mapping((), root.line)
        return DomainSpec(
            self.file,
            self._text(mapping.get("domain")),
            self._descriptors(mapping.get("descriptors")),
            root.line,
        )

    def _descriptors(self, value: Value | None) -> tuple[DescriptorSpec, ...]:
        items = self._items(value, "[]config.YamlDescriptor")
        return tuple(self._descriptor(item) for item in items)

    def _descriptor(self, mapping: Mapping) -> DescriptorSpec:
        flags = {name for name in FLAG_KEYS if self._flag(mapping.get(name))}
        return DescriptorSpec(
            key=self._text(mapping.get("key")),
            value=self._text(mapping.get("value")),
            rate_limit=self._rate_limit(mapping.overlaid("rate_limit")),
            flags=frozenset(flags),
            metadata=self._metadata(mapping.get("metadata")),
            descriptors=self._descriptors(mapping.get("descriptors")),
            line=mapping.line,
        )

    def _rate_limit(self, value: Value | None) -> RateLimitSpec | None:
        mapping = self._mapping(value, "config.YamlRateLimit")
        if mapping is None:
            return None
        replaces = self._items(mapping.get("replaces"), "[]config.yamlReplaces")
        return RateLimitSpec(
            unit=self._text(mapping.get("unit")),
            requests_per_unit=self._number(mapping.get("requests_per_unit")),
            unlimited=self._flag(mapping.get("unlimited")),
            name=self._text(mapping.get("name")),
            replaces=tuple(self._text(item.get("name")) for item in replaces),
            atomic=self._flag(mapping.get("atomic")),
            line=mapping.line,
        )

    def _metadata(self, value: Value | None) -> Any:
        mapping = self._mapping(value, "map[string]interface {}")
        if mapping is None:
            return None
        for _, inner in mapping.items:
            for key in _odd_keys(inner):
                what = "error parsing metadata: key is not of type string: "
                self.problems.append(Problem(self.file, key.line, what + _go_text(key)))
            for number in _numbers_that_are_none(inner):
                what = "error parsing metadata: no finite number: "
                self.problems.append(Problem(self.file, number.line, what + number.text))
        return plain(mapping)

    def _text(self, value: Value | None) -> str:
        if value is None or (isinstance(value, Scalar) and value.value is None):
            return ""
        if isinstance(value, Scalar):
            return value.text
        self._refuse(value, "string")
        return ""

    def _flag(self, value: Value | None) -> bool:
        if value is None or (isinstance(value, Scalar) and value.value is None):
            return False
        if isinstance(value, Scalar) and isinstance(value.value, bool):
            return value.value
        self._refuse(value, "bool")
        return False

    def _number(self, value: Value | None) -> int:
        if value is None or (isinstance(value, Scalar) and value.value is None):
            return 0
        number = value.value if isinstance(value, Scalar) else None
        if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**32:
            return number
        self._refuse(value, "uint32")
        return 0

    def _mapping(self, value: Value | None, wanted: str) -> Mapping | None:
        if value is None or (isinstance(value, Scalar) and value.value is None):
            return None
        if isinstance(value, Mapping):
            return value
        self._refuse(value, wanted)
        return None

    def _items(self, value: Value | None, wanted: str) -> list[Mapping]:
        """The mappings of a list; anything else in it was refused by `key_problems`."""
        if isinstance(value, Sequence):
            return [item for item in value.items if isinstance(item, Mapping)]
        if value is not None and not (isinstance(value, Scalar) and value.value is None):
            self._refuse(value, wanted)
        return []

    def _refuse(self, value: Value, wanted: str) -> None:
        """A value of the wrong type, in yaml.v2's words."""
        shown = "!!map"
        if isinstance(value, Sequence):
            shown = "!!seq"
        elif isinstance(value, Scalar):
            text = value.text if len(value.text) <= 10 else f"{value.text[:7]}..."
            shown = f"{_tag(value)} `{text}`"
        what = f"line {value.line}: cannot unmarshal {shown} into {wanted}"
        what = f"error loading config file: yaml: unmarshal errors:\n  {what}"
        self.problems.append(Problem(self.file, value.line, what))


def _tag(scalar: Scalar) -> str:
    kinds: dict[type, str] = {bool: "!!bool", int: "!!int", float: "!!float"}
    return kinds.get(type(scalar.value), "!!str")


def _numbers_that_are_none(value: Value) -> Iterator[Scalar]:
    """Infinities and not-a-number in metadata, which JSON can't say."""
    if isinstance(value, Mapping):
        for _, inner in value.items:
            yield from _numbers_that_are_none(inner)
    elif isinstance(value, Sequence):
        for item in value.items:
            yield from _numbers_that_are_none(item)
    elif isinstance(value.value, float) and not math.isfinite(value.value):
        yield value


def _odd_keys(value: Value) -> Iterator[Value]:
    """Keys of metadata that a `google.protobuf.Struct` can't hold."""
    if isinstance(value, Mapping):
        for key, inner in value.items:
            if not isinstance(key, Scalar) or not isinstance(key.value, str):
                yield key
            yield from _odd_keys(inner)
    elif isinstance(value, Sequence):
        for item in value.items:
            yield from _odd_keys(item)
