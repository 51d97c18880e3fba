"""YAML text to plain values that remember where they stood, so that every fault can name its file
and line.

Knows YAML, and the envelope of a resource (`apiVersion`, `kind`, `metadata`, `spec`); knows no
kind's fields. Refused here: syntax errors, duplicate keys, deep nesting, anchors that expand
without bound, keys that are not strings.
"""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pydantic
import yaml

from meshwarden.core.faults import InvalidInput, Problem

API_VERSION = "meshwarden.io/v1alpha1"
KINDS = ("TokenIssuer", "AccessRole", "AccessRoleBinding", "AccessPolicy", "RateLimit")
NODES_AT_MOST = 2_000_000
"""A file's nodes with its aliases expanded: more is a file made to exhaust memory."""

DEPTH_AT_MOST = 100
"""Collections within each other: libyaml's composer recurses in C, and overflows the stack of the
process at some tens of thousands.
"""

_CONSTRUCTOR_FAILURES = (ValueError, LookupError, AttributeError, TypeError, OverflowError)
"""What PyYAML's constructors raise, besides errors of its own, for a tag that its text belies."""

IN_PART_TRIES = 3
"""A model's own checks run once its fields are right, so more may be wrong then."""

Path = tuple[str | int, ...]
Model = TypeVar("Model", bound=pydantic.BaseModel)


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document: its value, and the line (from 1) of each path in it.

    `kind` and `name` are empty where the document has no resource envelope (a plain rate-limit
    file).
    """

    file: str
    value: Any
    lines: Mapping[Path, int] = field(repr=False)
    kind: str = ""
    name: str = ""
    namespace: str = ""

    def line(self, path: Path = ()) -> int:
        """The line of `path`, or of its nearest parent that stands in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def problem(self, what: str, path: Path = (), hint: str = "") -> Problem:
        return Problem(self.file, self.line(path), what, hint)


class _Reader:
    """Turns the nodes of one document into a value and the lines of its paths."""

    def __init__(self, file: str, *, takes_scalar_keys: bool) -> None:
        self.file = file
        self._takes_scalar_keys = takes_scalar_keys
        self.lines: dict[Path, int] = {}
        self.problems: list[Problem] = []
        self._constructor = yaml.SafeLoader("")
        self._count = 0

    def value(self, node: yaml.Node, path: Path) -> Any:
        self._count += 1
        if self._count > NODES_AT_MOST:
            raise InvalidInput([Problem(self.file, 0, "the file expands to too many values")])
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*path, index)) for index, child in enumerate(node.value)]
        try:
            return self._constructor.construct_object(node)
        except yaml.MarkedYAMLError as error:
            what = str(error.problem)
        except _CONSTRUCTOR_FAILURES as error:
            what = str(error) if isinstance(error, ValueError) else f"not a {node.tag}"
        self.problems.append(
            Problem(self.file, node.start_mark.line + 1, f"not a readable value: {what}")
        )
        return None

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag != "tag:yaml.org,2002:str" and not (
                self._takes_scalar_keys and key_node.tag.endswith((":int", ":bool"))
            ):
                self.problems.append(Problem(self.file, line, *_key_fault(key_node)))
                continue
            key = str(key_node.value)
            if key in result:
                self.problems.append(Problem(self.file, line, f"the key '{key}' stands twice"))
                continue
            self.lines[(*path, key)] = line
            result[key] = self.value(value_node, (*path, key))
        return result


def _key_fault(node: yaml.Node) -> tuple[str, str]:
    """What is wrong with a key that is no string, and what to do about it."""
    if node.tag == "tag:yaml.org,2002:merge":
        return "merge keys ('<<') are not taken", "write the keys out"
    if isinstance(node, yaml.ScalarNode):
        return f"a key must be a string, not '{node.value}'", "put it in quotes"
    return "a key must be a string, not a collection", ""


def compose(file: str, text: str) -> list[yaml.Node]:
    """The node tree of each document in `text`. Raises `InvalidInput` for what is not YAML, naming
    the line.
    """
    try:
        return [node for node in nodes(text) if node is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = f"not YAML: {error.problem or error.context}"
        raise InvalidInput([Problem(file, mark.line + 1 if mark else 0, what)]) from None
    except yaml.reader.ReaderError as error:
        line = text.encode()[: error.position].count(b"\n") + 1
        raise InvalidInput([Problem(file, line, f"not YAML: {error.reason}")]) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidInput([Problem(file, 0, f"not YAML: {type(error).__name__}")]) from None


def nodes(text: str) -> list[yaml.Node | None]:
    """The node tree of each document in `text`, None for an empty one.

    Raises `yaml.YAMLError`, also where collections are nested more than `DEPTH_AT_MOST` deep: that
    is seen in the parser's events, before anything recurses.
    """
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEPTH_AT_MOST:
            # The stubs don't know that MarkedYAMLError takes the C parser's marks, too.
            mark: Any = event.start_mark
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=mark)
    return list(yaml.compose_all(text, Loader=yaml.CSafeLoader))


def decode(file: str, content: bytes) -> str:
    """The text of a file. Raises `InvalidInput` where it is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InvalidInput(
            [Problem(file, line, "not UTF-8 text", "save the file as UTF-8")]
        ) from None


def parse(file: str, content: bytes, *, takes_scalar_keys: bool = False) -> list[Document]:
    """The documents of one YAML file. Raises `InvalidInput` with everything that is wrong in it.

    With `takes_scalar_keys` a number or a boolean as a key is the text that stands there, as
    Kubernetes takes it.
    """
    documents, problems = [], []
    for node in compose(file, decode(file, content)):
        reader = _Reader(file, takes_scalar_keys=takes_scalar_keys)
        try:
            value = reader.value(node, ())
        except RecursionError:
            raise InvalidInput([Problem(file, 0, "nested too deeply")]) from None
        problems.extend(reader.problems)
        kind = value.get("kind", "") if isinstance(value, dict) else ""
        metadata = value.get("metadata") if isinstance(value, dict) else None
        named = metadata if isinstance(metadata, dict) else {}
        envelope = (kind, named.get("name"), named.get("namespace"))
        texts = (str(text or "") for text in envelope)
        documents.append(Document(file, value, reader.lines, *texts))
    if problems:
        raise InvalidInput(problems)
    return documents


def no_document(file: str) -> Problem:
    """What is wrong with a file of comments alone: it would lift what it held before."""
    return Problem(file, 0, "holds no document", "remove the file, or write what it is to say")


def parse_json(file: str, content: bytes) -> Any:
    """The value of a JSON file. Raises `InvalidInput`, naming the line; also for an object in which
    a member stands twice, which readers take in different ways (RFC 8259 section 4).
    """
    try:
        return json.loads(decode(file, content), object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        raise InvalidInput([Problem(file, error.lineno, f"not JSON: {error.msg}")]) from None
    except ValueError as error:
        raise InvalidInput([Problem(file, 0, f"not JSON that can be read: {error}")]) from None
    except RecursionError:
        raise InvalidInput([Problem(file, 0, "nested too deeply")]) from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"the member '{name}' stands twice")
        result[name] = value
    return result


def envelope_problems(document: Document) -> Iterator[Problem]:
    """What is wrong with a resource's `apiVersion`, `kind` and `metadata.name`."""
    value = document.value
    if not isinstance(value, dict):
        yield document.problem(
            "a resource must be a mapping with apiVersion, kind, metadata and spec"
        )
        return
    if value.get("apiVersion") != API_VERSION:
        yield document.problem(
            f"apiVersion must be '{API_VERSION}', not {value.get('apiVersion')!r}", ("apiVersion",)
        )
    if document.kind not in KINDS:
        yield document.problem(
            f"unknown kind '{document.kind}'", ("kind",), hint_for(document.kind, KINDS)
        )
    if not document.name:
        yield document.problem(
            "metadata.name is missing", ("metadata",), "give the resource a name"
        )


def validate(document: Document, model: type[Model]) -> Model:
    """The document as `model`. Raises `InvalidInput` with one problem for each field that is
    wrong.
    """
    try:
        return model.model_validate(document.value)
    except pydantic.ValidationError as error:
        problems = [
            document.problem(*_described(detail, model))
            for detail in error.errors(include_url=False)
        ]
        raise InvalidInput(problems) from None


def validate_json(file: str, value: Any, model: type[Model]) -> Model:
    """The value of a JSON file as `model`. Raises `InvalidInput` with one problem for each field
    that is wrong; what it holds is not told.
    """
    try:
        return model.model_validate(value)
    except pydantic.ValidationError as error:
        raise InvalidInput(
            Problem(file, 0, f"{'.'.join(str(part) for part in detail['loc'])}: {detail['msg']}")
            for detail in error.errors(include_url=False, include_input=False)
        ) from None


def validate_in_part(document: Document, model: type[Model]) -> Model | None:
    """The document as `model` without what is wrong in it, so that more can be found out about the
    rest; None where too little is left.
    """
    value = copy.deepcopy(document.value)
    for _ in range(IN_PART_TRIES):
        try:
            return model.model_validate(value)
        except pydantic.ValidationError as error:
            paths = {_removable(detail) for detail in error.errors(include_url=False)}
        if None in paths or not all(_remove(value, path) for path in paths if path is not None):
            return None
    return None


def _removable(detail: Any) -> Path | None:
    """The member of a mapping that is wrong, or holds what is; None where one is missing."""
    path: Path = tuple(part for part in detail["loc"] if isinstance(part, (str, int)))
    while path and isinstance(path[-1], int):
        path = path[:-1]
    return None if detail["type"] == "missing" or len(path) < 2 else path


def _remove(value: Any, path: Path) -> bool:
    for part in path[:-1]:
        try:
            value = value[part]
        except (LookupError, TypeError):
            return False
    if not isinstance(value, dict):
        return False
    value.pop(path[-1], None)
    return True


def _described(detail: Any, model: type[pydantic.BaseModel]) -> tuple[str, Path, str]:
    path = tuple(part for part in detail["loc"] if isinstance(part, (str, int)))
    where = ".".join(str(part) for part in path)
    if detail["type"] == "extra_forbidden":
        return f"unknown field '{where}'", path, hint_for(str(path[-1]), _field_names(model))
    if detail["type"] == "missing":
        return f"'{where}' is missing", path[:-1], ""
    message = str(detail["msg"]).removeprefix("Value error, ")
    return (f"{where}: {message}" if where else message), path, ""


def _field_names(model: type[pydantic.BaseModel]) -> set[str]:
    """Every field name that occurs anywhere in the model's schema, for a hint."""
    names: set[str] = set()
    schema = model.model_json_schema(by_alias=True)
    for part in (schema, *schema.get("$defs", {}).values()):
        names.update(part.get("properties", {}))
    return names


def hint_for(wrong: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`, or the known words where none is near."""
    words = sorted(known)
    near = difflib.get_close_matches(wrong, words, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(words)}"
