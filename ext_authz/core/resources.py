"""The resources in a bundle's files, by kind and name, and what is wrong with each alone.

Takes the kinds of authorization; `RateLimit` resources and plain rate-limit files are another
service's business. What several resources mean together is `compile.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from ext_authz.core.kind_parts import Resource
from ext_authz.core.kinds import MODELS
from meshwarden.core.documents import (
    Document,
    Path,
    envelope_problems,
    no_document,
    parse,
    validate,
    validate_in_part,
)
from meshwarden.core.faults import InvalidInput, Problem

SomeResource = TypeVar("SomeResource", bound=Resource)


SHARED = ""
"""The namespace of resources that name none: every other one sees them."""


def qualified(namespace: str, name: str) -> str:
    """A name as it is told: `orders`, or `shop/orders` in the namespace `shop`."""
    return f"{namespace}/{name}" if namespace else name


class Resources:
    """What was read; `problems` grows as more is found to be wrong."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.problems: list[Problem] = []
        self._is_whole = dict.fromkeys(MODELS, True)
        self._named: dict[str, dict[str, set[str]]] = {kind: {} for kind in MODELS}
        self._valid: dict[str, dict[str, dict[str, tuple[Document, Any]]]] = {
            kind: {} for kind in MODELS
        }
        for name, content in files.items():
            if name.endswith((".yaml", ".yml")):
                self._read(name, content)

    @property
    def namespaces(self) -> set[str]:
        """Every namespace that has a resource, and the shared one."""
        return {SHARED}.union(*self._valid.values())

    def names(self, kind: str, namespace: str) -> set[str]:
        """Every resource by its name, the faulty ones, too: naming one of those is no fault."""
        return self._named[kind].get(namespace, set())

    def of_kind(
        self, model: type[SomeResource], namespace: str | None = None
    ) -> list[tuple[Document, SomeResource]]:
        """The valid resources of one kind, of all namespaces or of one, each with the document that
        it stands in.
        """
        found = self._valid[model.__name__]
        parts = found.values() if namespace is None else [found.get(namespace, {})]
        return [pair for part in parts for pair in part.values()]

    def are_all_valid(self, kind: str) -> bool:
        """Whether every resource of that kind that has a name was read whole."""
        valid = {namespace: set(part) for namespace, part in self._valid[kind].items()}
        return self._is_whole[kind] and valid == self._named[kind]

    def refuse(self, document: Document, what: str, path: Path = (), hint: str = "") -> None:
        """Note that `what` is wrong at `path` of `document`."""
        self.problems.append(document.problem(what, path, hint))

    def _read(self, name: str, content: bytes) -> None:
        try:
            documents = parse(name, content)
        except InvalidInput as error:
            self.problems.extend(error.problems)
            return
        if not documents:
            self.problems.append(no_document(name))
        for document in documents:
            value = document.value
            is_plain_limit = isinstance(value, dict) and "domain" in value and "kind" not in value
            if is_plain_limit or document.kind == "RateLimit":
                continue
            problems = list(envelope_problems(document))
            self.problems.extend(problems)
            model = MODELS.get(document.kind)
            if model is None:
                continue
            if document.name:
                named = self._named[document.kind].setdefault(document.namespace, set())
                named.add(document.name)
            if any("apiVersion" in problem.what for problem in problems):
                continue
            try:
                resource = validate(document, model)
            except InvalidInput as error:
                known = {problem.line for problem in problems}
                self.problems.extend(p for p in error.problems if p.line not in known)
                part = validate_in_part(document, model)
                if part is None:
                    continue
                # The configuration is refused already; the rest may have faults that can be told.
                self._is_whole[document.kind] = False
                resource = part
            self._add(document, resource)

    def _add(self, document: Document, resource: Resource) -> None:
        named = self._valid[document.kind].setdefault(resource.metadata.namespace, {})
        if resource.name in named:
            first = named[resource.name][0]
            what = f"{document.kind} '{resource.name}' stands twice"
            place = f"the first is at {first.file}:{first.line()}"
            self.refuse(document, what, ("metadata", "name"), place)
            return
        named[resource.name] = (document, resource)
