"""What a folder of configuration holds, in words: `1 issuer, 3 roles, 1 policy (6 rules)`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from meshwarden.adapters.folder_source import FolderSource
from meshwarden.cli import configuration_folder
from meshwarden.core.documents import parse
from meshwarden.core.faults import InvalidInput
from ratelimit_service.core.model import Node, Rules

_WORDS = {
    "TokenIssuer": ("issuer", "issuers"),
    "AccessRole": ("role", "roles"),
    "AccessRoleBinding": ("binding", "bindings"),
    "AccessPolicy": ("policy", "policies"),
}


def inventory(folder: Path) -> str:
    """How many of each kind are in a folder that has no faults."""
    kinds: Counter[str] = Counter()
    rules = 0
    for name, content in FolderSource(folder).read().files.items():
        try:
            documents = parse(name, content)
        except InvalidInput:
            continue  # A plain rate-limit file may hold what a resource may not.
        for document in documents:
            kinds[document.kind] += 1
            if document.kind == "AccessPolicy":
                rules += len(document.value["spec"]["rules"])
    told = [_counted(kinds[kind], *words) for kind, words in _WORDS.items() if kinds[kind]]
    if kinds["AccessPolicy"]:
        told[-1] += f" ({_counted(rules, 'rule', 'rules')})"
    if limits := _limits(configuration_folder.limits(folder)):
        told.append(_counted(limits, "limit", "limits"))
    return ", ".join(told) or "nothing is configured, so everything is denied"


def _limits(rules: Rules) -> int:
    return sum(node.match is not None for root in rules.domains.values() for node in _nodes(root))


def _nodes(root: Node) -> Iterator[Node]:
    """`root` and everything below it, each once."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        waiting += [*node.children.values(), *(wildcard.node for wildcard in node.wildcards)]


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
