"""From a bundle of files to rules, taken whole or refused with every fault of every file.

A bundle may hold other services' resources: known kinds that are not ours are passed over, unknown
kinds are faults. A file without a kind is an envoyproxy/ratelimit file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from meshwarden.core.documents import KINDS, Document, hint_for, validate
from meshwarden.core.faults import InvalidInput, Problem
from meshwarden.core.snapshot import Bundle
from ratelimit_service.core import go_yaml
from ratelimit_service.core.go_yaml import Mapping, Scalar, Value
from ratelimit_service.core.grammar import TEXT_KEYS, DomainSpec, TypedReader, key_problems
from ratelimit_service.core.model import Options, Rules
from ratelimit_service.core.resource import RateLimitResource
from ratelimit_service.core.tree import TreeBuilder

KIND = "RateLimit"


def compile_limits(
    bundle: Bundle,
    *,
    merges_domains: bool = False,
    options: Options | None = None,
    takes_every_file: bool = False,
    atomic_refusal: str = "",
) -> Rules:
    """The rules that `bundle` describes. Raises `InvalidInput` with all that is wrong in it.

    `takes_every_file`: whatever their names; else `*.yaml` and `*.yml`, without policy tests.
    `atomic_refusal` says why the store can't count all or nothing, where it can't.
    """
    specs, problems = domains_as_written(bundle, takes_every_file=takes_every_file)
    return rules_from(
        specs,
        problems,
        merges_domains=merges_domains,
        options=options,
        atomic_refusal=atomic_refusal,
    )


def domains_as_written(
    bundle: Bundle, *, takes_every_file: bool = False
) -> tuple[list[DomainSpec], list[Problem]]:
    """The domains that can be read, each in the order of its file, and what is wrong with the
    files.
    """
    problems = list(bundle.unreadable)
    specs: list[DomainSpec] = []
    for file in sorted(bundle.files if takes_every_file else filter(_is_ours, bundle.files)):
        try:
            documents = go_yaml.read(file, bundle.files[file])
            if not documents:
                problems.append(Problem(file, 0, "config file cannot have empty domain"))
            for document in documents:
                specs.extend(_specs(file, document, problems))
        except InvalidInput as error:
            problems.extend(error.problems)
    return specs, problems


def rules_from(
    specs: Iterable[DomainSpec],
    problems: Iterable[Problem] = (),
    *,
    merges_domains: bool = False,
    options: Options | None = None,
    atomic_refusal: str = "",
) -> Rules:
    """The rules of domains as written, wherever that was. Raises `InvalidInput` with `problems`,
    which were found in reading them, and what is wrong when they are put together.
    """
    builder = TreeBuilder(merges_domains=merges_domains, atomic_refusal=atomic_refusal)
    for spec in specs:
        builder.add(spec)
    found = [*problems, *builder.problems]
    if found:
        raise InvalidInput(found)
    return Rules(builder.domains, options or Options(), frozenset(builder.atomic_domains))


def reference_message(problem: Problem) -> str:
    """`problem` as the reference words it: the file, then what is wrong, without a line."""
    return f"{problem.file}: {problem.what}"


def _is_ours(file: str) -> bool:
    return file.endswith((".yaml", ".yml")) and not file.endswith((".test.yaml", ".test.yml"))


def _specs(file: str, document: Value, problems: list[Problem]) -> Iterator[DomainSpec]:
    """The document's domain, if it has one that can be read so far as to be judged further."""
    kind = document.get("kind") if isinstance(document, Mapping) else None
    if isinstance(kind, Scalar):
        if kind.text != KIND:
            if kind.text not in KINDS:
                hint = hint_for(kind.text, KINDS)
                problems.append(Problem(file, kind.line, f"unknown kind '{kind.text}'", hint))
            return
        found = _resource_problems(file, document)
        specification = document.get("spec") if isinstance(document, Mapping) else None
        document = specification or document
    else:
        found = list(key_problems(file, document))
    if not found:
        reader = TypedReader(file)
        spec = reader.domain(document)
        found = reader.problems
        if not found:
            yield spec
    problems.extend(found)


def _resource_problems(file: str, value: Value) -> list[Problem]:
    """What is wrong with the shape of a RateLimit resource."""
    plain = go_yaml.plain(value, texts=TEXT_KEYS)
    document = Document(file, plain, dict(go_yaml.lines(value)), KIND)
    try:
        validate(document, RateLimitResource)
    except InvalidInput as error:
        return list(error.problems)
    return list(_repeated_keys(file, value))


def _repeated_keys(file: str, value: Value) -> Iterator[Problem]:
    """Keys that stand twice in one mapping: yaml.v2 takes the last, a resource is refused."""
    if isinstance(value, Mapping):
        seen: set[str] = set()
        for key, inner in value.items:
            name = key.text if isinstance(key, Scalar) else ""
            if name in seen:
                yield Problem(file, key.line, f"the key '{name}' stands twice")
            seen.add(name)
            yield from _repeated_keys(file, inner)
    elif isinstance(value, go_yaml.Sequence):
        for item in value.items:
            yield from _repeated_keys(file, item)
