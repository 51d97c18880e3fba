"""A pydantic model's JSON Schema (2020-12) as a structural schema of Kubernetes (OpenAPI 3.0).

A structural schema has no references, no choices of types and no defaults of ours: what a model
fills in by itself is not written into the user's object. Source: Kubernetes, "Specifying a
structural schema"; its regular expressions are RE2, those of the models Rust's.
Not carried over, since only the model can check it: what the keys of a mapping must look like.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STORED_BYTES_AT_MOST = 1_572_864
"""etcd takes no larger object (`--max-request-bytes`)."""
ITEMS_AT_MOST = STORED_BYTES_AT_MOST // 3
"""An item takes three bytes of JSON: no list that can be stored is longer."""

ANYTHING = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}

_CARRIED = (
    *("description", "enum", "format", "minimum", "maximum", "minLength", "maxLength"),
    *("minItems", "maxItems", "minProperties", "maxProperties", "required", "type"),
)
_LEFT_OUT = {
    # What an editor is told, what the model does, and what is read here itself.
    *("$defs", "$schema", "title", "examples", "default", "propertyNames", "patternProperties"),
    *("$ref", "anyOf", "const", "pattern", "properties", "items", "additionalProperties"),
    *("exclusiveMinimum", "exclusiveMaximum"),
}
_WORD = (
    r"\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{200c}\x{200d}"
    r"\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189}"
)
r"""What `\w` is in Rust (Unicode's UTS #18, annex C); in RE2 it is ASCII alone."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """How a schema is converted: `additions` are merged into the schema of the model of that name;
    a model that holds itself is written out `levels` times, and below that takes anything.
    """

    definitions: Mapping[str, Any]
    additions: Mapping[str, Mapping[str, Any]]
    levels: int

    def schema(self, source: Mapping[str, Any], inside: tuple[str, ...] = ()) -> dict[str, Any]:
        """The structural schema of `source`, which stands in the models `inside`. Raises
        `ValueError` for a keyword that it does not know.
        """
        source = _without_null(source)
        name = str(source.get("$ref", "")).rpartition("/")[2]
        if name:
            if inside.count(name) >= self.levels:
                return dict(ANYTHING)
            inside = (*inside, name)
            source = {**self.definitions[name], **{k: source[k] for k in source if k != "$ref"}}
        unknown = sorted(set(source) - set(_CARRIED) - _LEFT_OUT)
        if unknown:
            raise ValueError(f"{name or inside}: no structural schema says {', '.join(unknown)}")
        result = {keyword: source[keyword] for keyword in _CARRIED if keyword in source}
        if "description" in result:
            result["description"] = " ".join(result["description"].split())
        _translate_values(source, result)
        _bound(result)
        self._add_parts(source, result, inside)
        return merged(result, self.additions.get(name, {}))

    def _add_parts(
        self, source: Mapping[str, Any], result: dict[str, Any], inside: tuple[str, ...]
    ) -> None:
        """Fields, items and the values of a mapping."""
        if "properties" in source:
            required = source.get("required", ())
            result["properties"] = {
                field: self.schema(part, inside)
                if field in required
                else _kept(self.schema(part, inside))
                for field, part in source["properties"].items()
            }
        if "items" in source:
            result["items"] = self.schema(source["items"], inside)
        values = [*source.get("patternProperties", {}).values()]
        if isinstance(source.get("additionalProperties"), dict):
            values.append(source["additionalProperties"])
        if values:
            result["additionalProperties"] = _kept(self.schema(values[0], inside))
        elif source.get("additionalProperties") is True:
            result |= ANYTHING


def _kept(field: dict[str, Any]) -> dict[str, Any]:
    """A field whose null reaches the model, which takes or refuses it. The API server would drop it
    else: `roles:` with nothing after it would be a rule that asks for no role.
    """
    return {**field, "nullable": True}


def _without_null(source: Mapping[str, Any]) -> dict[str, Any]:
    """`source` without the choice of null. An enumeration becomes a pattern then: the API server
    refuses null for an enumeration, also where it names it.
    """
    if "anyOf" not in source:
        return dict(source)
    choices = [choice for choice in source["anyOf"] if choice != {"type": "null"}]
    if len(choices) != 1:
        raise ValueError(f"a structural schema can't choose between types: {choices}")
    result = {
        **choices[0],
        **{keyword: source[keyword] for keyword in source if keyword != "anyOf"},
    }
    if "enum" in result and len(choices) < len(source["anyOf"]):
        words = result.pop("enum")
        result["pattern"] = f"^({'|'.join(map(re.escape, words))})$"
        result["maxLength"] = max(map(len, words))
    return result


def _translate_values(source: Mapping[str, Any], result: dict[str, Any]) -> None:
    """What OpenAPI 3.0 says in other words."""
    if "const" in source:
        result["enum"] = [source["const"]]
    if "pattern" in source:
        result["pattern"] = re2(source["pattern"])
    for ours, theirs in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if ours in source:
            result |= {theirs: source[ours], ours: True}
    if result.get("type") == "integer":
        result.setdefault("format", "int64")


def _bound(result: dict[str, Any]) -> None:
    """Bounds where the model has none: larger than what can be stored, so that nothing is refused
    for them.
    """
    if result.get("type") == "string" and "enum" not in result:
        result.setdefault("maxLength", STORED_BYTES_AT_MOST)
    if result.get("type") == "array":
        result.setdefault("maxItems", ITEMS_AT_MOST)


def re2(pattern: str) -> str:
    r"""A pattern of the models in RE2's words: `\w` and `\d` are Unicode's there, not ASCII's.

    >>> re2(r"^[\w.-]+$").startswith(r"^[\p{L}")
    True
    """
    result, is_in_class, position = "", False, 0
    while position < len(pattern):
        found = pattern[position : position + 2]
        if not found.startswith("\\"):
            found = found[0]
            is_in_class = found == "[" or (is_in_class and found != "]")
        position += len(found)
        if found == r"\w":
            found = _WORD if is_in_class else f"[{_WORD}]"
        result += r"\p{Nd}" if found == r"\d" else found
    return result


def merged(schema: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """`schema` with the keywords of `added`, which win; mappings in both are merged."""
    result = dict(schema)
    for keyword, value in added.items():
        old = result.get(keyword)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[keyword] = merged(dict(old or {}), value) if both else value
    return result
