"""`meshwarden limits explain key=value ...`: which limit a request meets, how, and what is left.

The service's own settings are read from its environment, so that inside its container the command
sees what the service sees. Its `app` is imported where it is needed: it takes a third of a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshwarden.adapters.folder_source import FolderSource
from meshwarden.adapters.settings import load
from meshwarden.cli.arguments import content
from meshwarden.cli.configuration_folder import QUICKSTART
from meshwarden.cli.limits_text import print_explanation
from meshwarden.cli.output import AsJson, print_json
from meshwarden.core.faults import InvalidInput, Misconfigured, Problem
from ratelimit_service.core.explain import counters
from ratelimit_service.core.explain import explain as explained
from ratelimit_service.core.model import Descriptor, DescriptorSet, Entry, Rules

if TYPE_CHECKING:
    from ratelimit_service.app import Settings

app = typer.Typer(help="Rate limits: which one a request meets, and why.", no_args_is_help=True)

ANOTHER = "+"
"""Stands between two descriptors on the command line, where `--` ends the options."""


@app.callback()
def _limits() -> None:
    """So that `explain` is a word of its own, though it is the only one."""


@app.command("explain")
def explain(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="key=value...|REQUEST.json",
            help="The entries of a descriptor, in Envoy's order; + begins another one. Or a "
            "RateLimitRequest as JSON; - reads it from standard input.",
        ),
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Folder of limits; unset: the service's own setting, else examples/quickstart.",
            file_okay=False,
        ),
    ] = None,
    domain: Annotated[
        str, typer.Option(help="The rate limit filter's domain; unset: the only one there is.")
    ] = "",
    hits: Annotated[int, typer.Option(min=0, help="The request's hits_addend.")] = 0,
    redis: Annotated[
        str,
        typer.Option(
            help="Also tell what the counters of this Redis stand at; it is only read. A password "
            "belongs into REDIS_AUTH. Unset: the service's own, where its settings name one."
        ),
    ] = "",
    key_format: Annotated[
        str, typer.Option(help="meshwarden or envoyproxy; unset: the service's own setting.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Say which limit each descriptor meets, what was tried on the way, under which key it is
    counted, and what would be answered now. Counts nothing.

    [bold]Example:[/bold] meshwarden limits explain --config examples/quickstart rule=limited
    principal=jwt:rita

    Exit status: 0 within the limits; 1 over a limit; 2 the request or the folder can't be read.
    """
    settings = _settings(config, redis, key_format)
    rules = _rules(settings)
    request = _request(words, hits)
    request = request._replace(domain=domain or request.domain or _only_domain(rules))
    now = int(time.time())
    counts = None
    if settings.store.kind == "redis":
        counts = asyncio.run(_counts(settings, request, rules, now=now))
    result = explained(request, rules, now=now, counts=counts)
    if as_json:
        print_json(result)
    else:
        print_explanation(result)
    raise typer.Exit(0 if result["answer"] == "OK" else 1)


def _settings(config: Path | None, redis: str, key_format: str) -> Settings:
    """Those of the environment, in which a running service's may stand, and the options'."""
    from ratelimit_service.app import Settings

    given = {
        "--configuration.folder": "" if config is None else str(config),
        "--redis.url": redis,
        "--store.key-format": key_format,
    }
    words = [word for flag, value in given.items() if value for word in (flag, value)]
    if redis:
        words += ["--store.kind", "redis"]
    return load(Settings, words, "meshwarden limits explain")


def _rules(settings: Settings) -> Rules:
    """Of the folder that the settings name, else of the quickstart."""
    from ratelimit_service.app import compiled, source

    if settings.configuration.source == "xds" and settings.configuration.folder is None:
        what = (
            "the limits come from a stream, which only the service reads (its /rlconfig lists them)"
        )
        raise Misconfigured([Problem("", 0, what, "--config: a folder of the same limits")])
    is_named = settings.configuration.folder is not None or settings.runtime.root is not None
    files = source(settings) if is_named else FolderSource(QUICKSTART)
    return compiled(settings, files.read())


def _only_domain(rules: Rules) -> str:
    if len(rules.domains) == 1:
        return next(iter(rules.domains))
    known = ", ".join(sorted(rules.domains)) or "none"
    raise Misconfigured([Problem("", 0, "which domain?", f"--domain; configured: {known}")])


def _request(words: Sequence[str], hits: int) -> DescriptorSet:
    """The request that the words describe. Raises `InvalidInput`."""
    if len(words) == 1 and "=" not in words[0]:
        from ratelimit_service.app import decoded_json

        try:
            asked = decoded_json(content(words[0]))
        except InvalidInput as fault:
            raise InvalidInput([Problem(words[0], 0, str(fault))]) from None
        return asked._replace(hits_addend=hits or asked.hits_addend)
    descriptors: list[list[Entry]] = [[]]
    for word in words:
        if word == ANOTHER:
            descriptors.append([])
            continue
        key, equals, value = word.partition("=")
        if not equals:
            hint = f"{word}= for an empty value"
            raise InvalidInput([Problem("", 0, f"'{word}' is not key=value", hint)])
        descriptors[-1].append(Entry(key, value))
    return DescriptorSet("", tuple(Descriptor(tuple(entries)) for entries in descriptors), hits)


async def _counts(
    settings: Settings, request: DescriptorSet, rules: Rules, *, now: int
) -> dict[str, int]:
    """What the request's counters stand at, by key, in both formats."""
    from ratelimit_service.app import read_counters

    increments = [
        counter.increment._replace(key=key)
        for counter in counters(request, rules, now=now)
        for key in counter.keys
    ]
    if not increments:
        return {}
    values = await read_counters(settings, increments, now=now)
    return {
        increment.key: value if isinstance(value, int) else value.stands_at
        for increment, value in zip(increments, values, strict=True)
    }
