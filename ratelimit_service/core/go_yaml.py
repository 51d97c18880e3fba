"""YAML as yaml.v2 (Go) reads it, which is how envoyproxy/ratelimit's files were written to be read.

Every scalar keeps the text that stands in the file and its line; what it means (`010` is eight, `y`
is true, a date is a string) is resolved by that library's rules, not PyYAML's. Knows no keys:
`grammar` does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from meshwarden.core import documents
from meshwarden.core.documents import NODES_AT_MOST, decode
from meshwarden.core.faults import InvalidInput, Problem

DEPTH_AT_MOST = 100
INTEGER_CHARACTERS_AT_MOST = 100
"""More than 64 bits take in base 2; Python refuses to read some thousands of digits."""

_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(
        ("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True
    ),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "off", "Off", "OFF"), False),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}
_INTEGERS = (
    (re.compile(r"[-+]?0[xX][0-9a-fA-F]+"), 16),
    (re.compile(r"[-+]?0[bB][01]+"), 2),
    (re.compile(r"[-+]?0[oO]?[0-7]+"), 8),
    (re.compile(r"[-+]?(0|[1-9][0-9]*)"), 10),
)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_NUMBERS = re.compile(r"\.(nan|NaN|NAN)|[-+]?\.(inf|Inf|INF)")
_DATE = re.compile(
    r"\d{4}-\d{1,2}-\d{1,2}([Tt ]\d{1,2}:\d{1,2}:\d{1,2}(\.\d+)?(Z|[-+]\d{2}:\d{2})?)?"
)


@dataclass(frozen=True, slots=True)
class Scalar:
    """`text` as written; `value` is what it means: str, int, float, bool or None."""

    text: str
    value: str | int | float | bool | None
    line: int


@dataclass(frozen=True, slots=True)
class Sequence:
    items: tuple[Value, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys in the order of the file, merges (`<<`) expanded where they stand."""

    items: tuple[tuple[Value, Value], ...]
    line: int

    def get(self, name: str) -> Value | None:
        """The value of the key `name`; the last one where it stands twice, as in yaml.v2."""
        found = None
        for key, value in self.items:
            if isinstance(key, Scalar) and key.text == name:
                found = value
        return found

    def overlaid(self, name: str) -> Value | None:
        """As `get`; but mappings of a key that stands twice, as a merged one and its override do,
        are laid over each other: so yaml.v2 fills what a pointer of a struct holds.
        """
        found: Value | None = None
        for key, value in self.items:
            if not isinstance(key, Scalar) or key.text != name:
                continue
            if isinstance(found, Mapping) and isinstance(value, Mapping):
                found = Mapping(found.items + value.items, value.line)
            else:
                found = value
        return found


Value = Scalar | Sequence | Mapping


def read(file: str, content: bytes) -> list[Value]:
    """The documents of one file. Raises `InvalidInput`, in the reference's words where it can."""
    text = decode(file, content)
    try:
        nodes = documents.nodes(text)
        reader = _Reader(file)
        return [reader.value(node, depth=0) for node in nodes if node is not None]
    except yaml.MarkedYAMLError as error:
        raise _syntax_fault(file, error) from None
    except (yaml.YAMLError, RecursionError) as error:
        reason = getattr(error, "reason", type(error).__name__)
        what = f"error loading config file: yaml: {reason}"
        raise InvalidInput([Problem(file, 0, what)]) from None


def _syntax_fault(file: str, error: yaml.MarkedYAMLError) -> InvalidInput:
    """yaml.v2 counts a scanner's lines from 1 and a parser's from 0, and leaves line 0 out."""
    mark = error.problem_mark or error.context_mark
    line = 0 if mark is None else mark.line
    shown = line + 1 if line and isinstance(error, yaml.scanner.ScannerError) else line
    where = f"line {shown}: " if shown else ""
    what = f"error loading config file: yaml: {where}{error.problem or error.context}"
    return InvalidInput([Problem(file, line + 1, what)])


class _Reader:
    """Turns nodes into values; bounds what aliases may expand to."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._count = 0

    def value(self, node: yaml.Node, *, depth: int) -> Value:
        self._count += 1
        line = node.start_mark.line + 1
        if self._count > NODES_AT_MOST or depth > DEPTH_AT_MOST:
            what = (
                "error loading config file: yaml: document contains excessive aliasing or nesting"
            )
            raise InvalidInput([Problem(self._file, line, what)])
        if isinstance(node, yaml.MappingNode):
            return Mapping(tuple(self._pairs(node, depth)), line)
        if isinstance(node, yaml.SequenceNode):
            return Sequence(tuple(self.value(item, depth=depth + 1) for item in node.value), line)
        style = getattr(node, "style", None)
        return Scalar(str(node.value), _meaning(str(node.value), style), line)

    def _pairs(self, node: yaml.MappingNode, depth: int) -> Iterator[tuple[Value, Value]]:
        for key_node, value_node in node.value:
            value = self.value(value_node, depth=depth + 1)
            if key_node.tag != "tag:yaml.org,2002:merge":
                yield self.value(key_node, depth=depth + 1), value
                continue
            merged = value.items[::-1] if isinstance(value, Sequence) else (value,)
            for source in merged:
                if not isinstance(source, Mapping):
                    what = (
                        "error loading config file: yaml: "
                        "map merge requires map or sequence of maps as the value"
                    )
                    raise InvalidInput([Problem(self._file, value.line, what)])
                yield from source.items


def _meaning(text: str, style: str | None) -> str | int | float | bool | None:
    """What a scalar means; quoted (`style` is not empty) it is text."""
    if style:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _NOT_NUMBERS.fullmatch(text):
        return float(text.replace(".", ""))
    if not text[0].isdigit() and text[0] not in "+-.":
        return text
    if _DATE.fullmatch(text):
        return text
    return _number(text.replace("_", ""), text)


def _number(digits: str, text: str) -> str | int | float:
    """A number that fits into 64 bits, or into a double; any other is text."""
    for pattern, base in _INTEGERS:
        if len(digits) <= INTEGER_CHARACTERS_AT_MOST and pattern.fullmatch(digits):
            number = int(re.sub(r"^([-+]?)0[xXbBoO]?(?=.)", r"\1", digits), base)
            if -(2**63) <= number < 2**64:
                return number
    if _FLOAT.fullmatch(digits) and math.isfinite(double := float(digits)):
        return double
    return text


def plain(value: Value, *, texts: frozenset[str] = frozenset()) -> Any:
    """`value` as lists, dicts and scalars; those under the keys `texts` as they were written."""
    if isinstance(value, Mapping):
        result: dict[Any, Any] = {}
        for key, inner in value.items:
            name = key.text if isinstance(key, Scalar) else str(plain(key))
            if name in texts and isinstance(inner, Scalar):
                result[name] = "" if inner.value is None else inner.text
            else:
                result[name] = plain(inner, texts=texts)
        return result
    if isinstance(value, Sequence):
        return [plain(item, texts=texts) for item in value.items]
    return value.value


def lines(
    value: Value, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], int]]:
    """The line of each path in `value`."""
    yield path, value.line
    if isinstance(value, Mapping):
        for key, inner in value.items:
            name = key.text if isinstance(key, Scalar) else ""
            yield from lines(inner, (*path, name))
            yield (*path, name), key.line
    elif isinstance(value, Sequence):
        for index, item in enumerate(value.items):
            yield from lines(item, (*path, index))
