"""Makers of rate-limit rules, requests and counters for tests."""

from __future__ import annotations

from collections.abc import Sequence

from meshwarden.core.snapshot import Bundle
from ratelimit_service.core.compile import compile_limits
from ratelimit_service.core.counter import counted
from ratelimit_service.core.model import (
    Descriptor,
    DescriptorSet,
    Entry,
    Increment,
    Options,
    Override,
    Rules,
)


def rules(*texts: str, merges_domains: bool = False, options: Options | None = None) -> Rules:
    """The rules of files `0.yaml`, `1.yaml`, ... with these texts."""
    files = {f"{number}.yaml": text.encode() for number, text in enumerate(texts)}
    return compile_limits(Bundle(files), merges_domains=merges_domains, options=options)


def descriptor(
    *entries: tuple[str, str],
    override: Override | None = None,
    hits_addend: int | None = None,
    is_negative_hits: bool = False,
) -> Descriptor:
    """A descriptor of (key, value) pairs."""
    return Descriptor(
        tuple(Entry(key, value) for key, value in entries), override, hits_addend, is_negative_hits
    )


def request(
    *descriptors: Descriptor, domain: str = "domain", hits_addend: int = 0
) -> DescriptorSet:
    """A request for `domain`."""
    return DescriptorSet(domain, descriptors, hits_addend)


class DictionaryCounters:
    """The simplest counters that keep the law; `values` may be set beforehand."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}

    def add(self, increments: Sequence[Increment], *, now: int) -> list[int]:
        """Count, ignoring time: the key names the window."""
        del now
        counts = []
        for increment in increments:
            after = counted(self.values.get(increment.key, 0), increment.hits)
            self.values[increment.key] = after
            counts.append(after)
        return counts
