"""Which namespace may speak for what: hosts, and domains of limits. The platform's word, never a
tenant's.

The platform's own objects may claim anything. Where the setting says nothing at all about a sort of
claim, any namespace may claim what nobody holds; where it says something, a namespace that it does
not name may claim nothing of that sort.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from meshwarden.core.documents import Document, parse, validate
from meshwarden.core.faults import InvalidInput, Problem
from meshwarden.core.host_patterns import parse_host_pattern, wildcards_above

SHARED = ""
"""The platform's namespace, as a resource that names none has it."""

OWNERSHIP = "@ownership"
"""The name of its file in a bundle."""

HOST = "host"
DOMAIN = "domain"


_Owned = Mapping[str, Sequence[str]] | None


class _Written(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    hosts: dict[str, list[str]] | None = None
    domains: dict[str, list[str]] | None = None


@dataclass(frozen=True, slots=True)
class Ownership:
    """What each namespace may claim; None: the platform says nothing about that sort.

    A host is owned by its own pattern or a wildcard above it; a domain by its name, or by a
    beginning that ends in `*`.
    """

    hosts: Mapping[str, frozenset[str]] | None = None
    domains: Mapping[str, frozenset[str]] | None = None

    def allows(self, sort: str, value: str, namespace: str) -> bool:
        """Whether objects of `namespace` may claim `value`."""
        owned = {HOST: self.hosts, DOMAIN: self.domains}.get(sort)
        if namespace == SHARED or owned is None:
            return True
        patterns = owned.get(namespace, frozenset())
        above = wildcards_above if sort == HOST else _beginnings
        return value in patterns or any(pattern in patterns for pattern in above(value))


def parse_ownership(file: str, content: bytes) -> Ownership:
    """The ownership that a YAML file states: `hosts` and `domains`, each a mapping from namespaces
    to lists of patterns.

    Raises `InvalidInput` with all that is wrong, also where two namespaces are given the same.
    """
    documents = parse(file, content)
    if len(documents) != 1:
        raise InvalidInput([Problem(file, 0, "must hold one document")])
    document = documents[0]
    written = validate(document, _Written)
    problems = list(_host_problems(document, written.hosts or {}))
    if not problems:
        problems += _overlaps(document, "hosts", written.hosts, wildcards_above)
    problems += _overlaps(document, "domains", written.domains, _beginnings)
    if problems:
        raise InvalidInput(problems)
    return Ownership(_patterns(written.hosts), _patterns(written.domains))


def _patterns(written: _Owned) -> dict[str, frozenset[str]] | None:
    if written is None:
        return None
    return {namespace: frozenset(texts) for namespace, texts in written.items()}


def _beginnings(domain: str) -> Iterator[str]:
    """The patterns that cover `domain`, besides itself.

    >>> list(_beginnings("ab"))
    ['*', 'a*', 'ab*']
    """
    name = domain.removesuffix("*")
    for end in range(len(name) + (name == domain)):
        yield f"{name[:end]}*"


def _host_problems(document: Document, hosts: Mapping[str, Sequence[str]]) -> Iterator[Problem]:
    for namespace, texts in hosts.items():
        for index, text in enumerate(texts):
            try:
                if parse_host_pattern(text) != text:
                    raise ValueError(f"'{text}' must be in lower case")
            except ValueError as error:
                yield document.problem(str(error), ("hosts", namespace, index))


def _overlaps(
    document: Document, member: str, written: _Owned, above: Callable[[str], Iterable[str]]
) -> Iterator[Problem]:
    """Each pattern that lies within one of another namespace."""
    owners: dict[str, set[str]] = {}
    for namespace, texts in (written or {}).items():
        for text in texts:
            owners.setdefault(text, set()).add(namespace)
    for namespace, texts in (written or {}).items():
        for index, text in enumerate(texts):
            for pattern in (text, *above(text)):
                for other in sorted(owners.get(pattern, set()) - {namespace}):
                    what = f"'{text}' of '{namespace}' lies within '{pattern}' of '{other}'"
                    hint = (
                        "give each namespace patterns of its own; a shared policy can hold the rest"
                    )
                    yield document.problem(what, (member, namespace, index), hint)
