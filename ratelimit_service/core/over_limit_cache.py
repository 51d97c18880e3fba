"""Counters known to be over their limit, so that the store needn't be asked while their window
lasts.

Bounded in bytes; full, the oldest entry goes. A limit raised meanwhile is obeyed at once, since the
count is kept and judged anew. Known weakness: hits given back through another replica are not seen
until the window is over.
"""

from __future__ import annotations

from typing import NamedTuple

from ratelimit_service.core.model import Increment

ENTRY_BYTES = 200
"""What an entry takes besides its key's characters: the dictionary's part, the tuple, two ints."""


class Figures(NamedTuple):
    """What the cache did so far; the names are the reference's `localcache` statistics."""

    entry_count: int = 0
    evacuate_count: int = 0
    expired_count: int = 0
    hit_count: int = 0
    miss_count: int = 0
    lookup_count: int = 0
    overwrite_count: int = 0


class _Entry(NamedTuple):
    stands_at: int
    end: int


class OverLimitCache:
    """At most `bytes_at_most` of keys and counts; 0 keeps none."""

    def __init__(self, *, bytes_at_most: int) -> None:
        self._bytes_at_most = bytes_at_most
        self._bytes = 0
        self._entries: dict[str, _Entry] = {}
        self._evacuated = self._expired = self._hits = self._misses = self._overwritten = 0

    def count_of(self, increment: Increment, *, now: int) -> int | None:
        """What the counter of `increment` stood at when last seen, if that is over its limit."""
        entry = self._entries.get(increment.key)
        if entry is not None and entry.end <= now:
            self._expired += 1
            self.drop(increment.key)
            entry = None
        if entry is None or entry.stands_at <= increment.at_most:
            self._misses += 1
            return None
        self._hits += 1
        return entry.stands_at

    def keep(self, increment: Increment, count: int) -> None:
        """Note that the counter of `increment` stands at `count`, over its limit."""
        if increment.key in self._entries:
            self._overwritten += 1
            self.drop(increment.key)
        size = _size(increment.key)
        if size > self._bytes_at_most:
            return
        while self._bytes + size > self._bytes_at_most:
            self._evacuated += 1
            self.drop(next(iter(self._entries)))
        self._bytes += size
        self._entries[increment.key] = _Entry(count, increment.window.end)

    def drop(self, key: str) -> None:
        """Forget a counter, as when hits are given back."""
        if self._entries.pop(key, None) is not None:
            self._bytes -= _size(key)

    def figures(self) -> Figures:
        """What it holds and did so far."""
        return Figures(
            entry_count=len(self._entries),
            evacuate_count=self._evacuated,
            expired_count=self._expired,
            hit_count=self._hits,
            miss_count=self._misses,
            lookup_count=self._hits + self._misses,
            overwrite_count=self._overwritten,
        )


def _size(key: str) -> int:
    """The bytes of an entry: CPython keeps a text of other characters with up to four for each."""
    return ENTRY_BYTES + (len(key) if key.isascii() else 4 * len(key))
