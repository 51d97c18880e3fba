"""Makers of rate-limit rules, requests and counters for tests."""

from __future__ import annotations

from collections.abc import Sequence

from meshwarden.core.snapshot import Bundle
from ratelimit_service.core.compile import compile_limits
from ratelimit_service.core.counter import counted, left_out
from ratelimit_service.core.model import (
    Descriptor,
    DescriptorSet,
    Entry,
    Increment,
    Mode,
    Options,
    Outcome,
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

    def add(self, increments: Sequence[Increment], *, mode: Mode, now: int) -> list[Outcome]:
        """Count, ignoring time: the key names the window."""
        del now
        left = left_out(increments, mode=mode, read=lambda one: self.values.get(one.key, 0))
        outcomes: list[Outcome] = []
        for increment, one_left in zip(increments, left, strict=True):
            if one_left is not None:
                outcomes.append(one_left)
                continue
            after = counted(self.values.get(increment.key, 0), increment.hits)
            self.values[increment.key] = after
            outcomes.append(after)
        return outcomes
