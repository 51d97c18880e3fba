"""Statistics as lines of statsd: as gostats writes them, and as DogStatsD reads them.

    ratelimit.service.rate_limit.domain.key.total_hits.__zone=a:7|c         gostats
    ratelimit.service.rate_limit.total_hits:7|c|#zone:a,domain:domain       DogStatsD, mogrified

No socket here. Source: what envoyproxy/ratelimit was seen to send, and DogStatsD's datagram format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from meshwarden.core.faults import Misconfigured

Kind = Literal["c", "g", "ms"]
"""Counter (what was added since the last flush), gauge, timing in milliseconds."""

Line = Callable[[Kind, str, int], str]
"""One statistic as one line, its newline included."""

NAMES_REMEMBERED = 65_536

_TAG_CHARACTERS = re.compile(r"[.:|]")
_PLACEHOLDER = re.compile(r"\$([0-9]+)")


def parse_tags(text: str) -> dict[str, str]:
    """Tags from `name:value,name:value`. Raises `ValueError` where a pair is none.

    >>> parse_tags("zone:eu,app:a")
    {'zone': 'eu', 'app': 'a'}
    """
    pairs = [pair.split(":") for pair in text.split(",")] if text else []
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("must be name:value,name:value, without a further : or , in either")
    return dict(pairs)


def clean_tags(tags: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Name and value of each tag, by name; without those that have no name or no value.

    >>> clean_tags({"zone": "eu.1", "app": "a:b", "empty": ""})
    (('app', 'a_b'), ('zone', 'eu_1'))
    """
    return tuple(
        (name, _TAG_CHARACTERS.sub("_", value))
        for name, value in sorted(tags.items())
        if name and value
    )


def tag_suffix(tags: Mapping[str, str]) -> str:
    """What gostats writes after a name for `tags`.

    >>> tag_suffix({"zone": "eu.1", "app": "a"})
    '.__app=a.__zone=eu_1'
    """
    return "".join(f".__{name}={value}" for name, value in clean_tags(tags))


def statsd_line(tags: Mapping[str, str]) -> Line:
    """Lines as gostats writes them.

    >>> statsd_line({"app": "a"})("c", "hits", 3)
    'hits.__app=a:3|c\\n'
    """
    suffix = tag_suffix(tags)
    return lambda kind, name, value: f"{name}{suffix}:{value}|{kind}\n"


@dataclass(frozen=True, slots=True)
class Mogrifier:
    """Renames what `pattern` is found in, and gives it tags; `$1` stands for the first group."""

    pattern: str
    name: str
    tags: Mapping[str, str] = field(default_factory=dict)


def dogstatsd_line(tags: Mapping[str, str], mogrifiers: Sequence[Mogrifier]) -> Line:
    """Lines as DogStatsD reads them; the first of `mogrifiers` that matches a name is used.

    Raises `Misconfigured` for a pattern that is none.
    """
    everywhere = [f"{name}:{value}" for name, value in clean_tags(tags)]
    compiled = [(_compiled(mogrifier.pattern), mogrifier) for mogrifier in mogrifiers]

    @lru_cache(maxsize=NAMES_REMEMBERED)
    def header(name: str) -> tuple[str, str]:
        found, own = name, []
        for pattern, mogrifier in compiled:
            match = pattern.search(name)
            if match is not None:
                found = _filled(mogrifier.name, match)
                own = [f"{tag}:{_filled(text, match)}" for tag, text in mogrifier.tags.items()]
                break
        shown = ",".join(everywhere + own).replace("\n", "")
        return found, f"|#{shown}" if shown else ""

    def line(kind: Kind, name: str, value: int) -> str:
        shown, suffix = header(name)
        number = f"{value}.000000" if kind == "ms" else str(value)
        return f"{shown}:{number}|{kind}{suffix}\n"

    return line


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.ASCII)
    except re.error as error:
        raise Misconfigured(f"the mogrifier's pattern {pattern!r} is none: {error}") from None


def _filled(template: str, match: re.Match[str]) -> str:
    """`template` with its placeholders filled; one that has no group stays as it is."""

    def fill(placeholder: re.Match[str]) -> str:
        number = int(placeholder[1])
        groups = match.re.groups
        return placeholder[0] if number > groups else match[number] or ""

    return _PLACEHOLDER.sub(fill, template)
