"""The name of a counter in its store.

Two formats. Ours is injective: unit, window, domain, keys and values each stand with their length,
so no value that a client sends can reach the counter of another descriptor; long ones are counted
under their digest, so that no client chooses how much memory a counter takes. The reference's joins
with `_` and escapes nothing: it is there for a rolling change on one Redis, and its collisions come
with it (("a", "b_c") counts as ("a_b", "c"), and two units share a key whenever their windows start
together), and so do the lengths of what clients send.

A domain with atomic limits stands in braces: a Redis Cluster puts all its counters into one slot,
where one script can judge them together. The cost: one node counts the whole domain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

from ratelimit_service.core.model import Descriptor, Entry, Rules
from ratelimit_service.core.window import Window

KEY_FORMATS = ("meshwarden", "envoyproxy")
FRAMED_AT_MOST = 256
"""Characters of keys and values in a counter's key; longer ones are named by their SHA-256, which
begins with a letter: no framed one does.
"""


def counter_key(
    domain: str, values: Sequence[tuple[str, str]], *, window: Window, rules: Rules
) -> str:
    """The key of the counter of `values` (key and value of each entry, as counted) in `window`."""
    options = rules.options
    if options.key_format == "envoyproxy":
        joined = "".join(f"{key}_{value}_" for key, value in values)
        return f"{options.key_prefix}{domain}_{joined}{window.start}"
    framed = "".join([f"{len(key)}:{key}{len(value)}:{value}" for key, value in values])
    if len(framed) > FRAMED_AT_MOST:
        framed = f"sha256:{hashlib.sha256(framed.encode()).hexdigest()}"
    place = _framed_place(domain, window, is_tagged=domain in rules.atomic_domains)
    return f"{options.key_prefix}{place}{framed}"


@lru_cache(maxsize=1024)
def _framed_place(domain: str, window: Window, *, is_tagged: bool) -> str:
    """A tag starts with a digit: an empty one, as `{}` of a domain `}`, would be none."""
    framed = f"{len(domain)}:{domain}"
    framed = f"{{{framed}}}" if is_tagged else framed
    return f"rl:{window.unit.name.lower()}:{window.start}:{framed}"


def counted_values(
    descriptor: Descriptor, shared_values: Sequence[tuple[int, str]]
) -> Sequence[Entry]:
    """Key and value of each entry; a shared wildcard's pattern instead of the value."""
    if not shared_values:
        return descriptor.entries
    values = list(descriptor.entries)
    for index, pattern in shared_values:
        values[index] = values[index]._replace(value=pattern)
    return values
