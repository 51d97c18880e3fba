"""The reference's statistics: their names and their counting.

Where they go (statsd, DogStatsD, Prometheus, the log, `/stats`) is read out of here by others.
Prometheus has metrics of our own, too (`/metrics`); these names are for dashboards made for
envoyproxy/ratelimit.

Memory is bounded: the limits of the configuration are always listed; of names made from requests
(overrides, `detailed_metric`; domains without configuration) there are `names_at_most` of each
sort, and the one that was idle longest makes room for a new one.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from ratelimit_service.core.bounded_names import BoundedNames
from ratelimit_service.core.model import Count, Decision, Increment, Limit, Match
from ratelimit_service.core.near_limit import Tally, near_threshold, tally
from ratelimit_service.core.reading import Reading, together

Counts = Callable[[], Mapping[str, int]]
"""Reads the counters and gauges of a part, by the last word of their names."""

Dropped = Callable[[str, int], None]
"""Told what was dropped, and how much of it."""

FIELDS = Tally._fields
NAME_LENGTH_AT_MOST = 1024
MILLISECONDS_AT_MOST = 60_000
LEAVING_AT_MOST = 20_000

_TOTAL_HITS = FIELDS.index("total_hits")
_WITHIN_LIMIT = FIELDS.index("within_limit")
_DOMAIN_FIELDS = ("domain_not_found",)
_SERVICE = "ratelimit.service"
_LIMITS = f"{_SERVICE}.rate_limit"
_IPV4 = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_UNFIT = str.maketrans(dict.fromkeys(":|\n\r\0", "_"))


class _Row:
    """The values of one name, and what of them was handed on already."""

    __slots__ = ("taken", "values")

    def __init__(self, fields: int) -> None:
        self.values = [0] * fields
        self.taken = [0] * fields


_NamedRow = tuple[str, _Row, tuple[str, ...]]
"""A limit or domain (empty: the service itself), its row, and the last words of its counters."""


def _forget(_what: str, _count: int) -> None:
    """Nobody asked to be told."""


class Statistics:
    """Counts decisions and calls under the reference's names.

    No lock: one event loop counts. `reading` may be asked for in a thread, so that thousands of
    names keep no request waiting.
    """

    def __init__(
        self, *, near_limit_ratio: float, names_at_most: int, dropped: Dropped = _forget
    ) -> None:
        self._near_limit_ratio = near_limit_ratio
        self.dropped = dropped
        """To be told, too, by who sends what is taken here."""
        self._limits = BoundedNames(
            at_most=names_at_most, make=lambda: _Row(len(FIELDS)), drop=self._drop_limits
        )
        self._domains = BoundedNames(
            at_most=names_at_most, make=lambda: _Row(1), drop=self._drop_domains
        )
        self._service = {
            name: _Row(1)
            for name in (
                "config_load_success",
                "config_load_error",
                "global_shadow_mode",
                "call.should_rate_limit.redis_error",
                "call.should_rate_limit.service_error",
            )
        }
        self._calls: dict[str, dict[int, int]] = {}
        self._timings_taken: dict[str, dict[int, int]] = {}
        self._watched: list[tuple[str, Counts, frozenset[str]]] = []
        self._taken_elsewhere: dict[str, int] = {}
        self._inherited: Reading | None = None
        self._leaving: deque[tuple[str, int]] = deque()
        self.is_taken = False
        """Whether somebody takes `changes`: what leaves then waits to be taken."""

    @property
    def name_count(self) -> int:
        """Names of limits and of unknown domains."""
        return len(self._limits) + len(self._domains)

    def keep(self, limits: Iterable[Limit]) -> None:
        """List these limits, those of the configuration, however idle they are."""
        self._limits.keep(_short(limit.full_key) for limit in limits)

    def record(self, decision: Decision) -> None:
        """Tally the counts of `decision` under their limits."""
        if decision.is_shadowed:
            self.add("global_shadow_mode")
        for status in decision.statuses:
            counted = status.counted
            if counted is None:
                continue
            key = counted.statistics_key
            row = self._limits.recent.get(key) or self._limits.row(_short(key))
            found = self._tallied(status.limit, counted)
            if found is None:
                row.values[_TOTAL_HITS] += counted.hits
                row.values[_WITHIN_LIMIT] += counted.hits
            else:
                row.values = [*map(int.__add__, row.values, found)]

    def _tallied(self, limit: Limit | None, counted: Count) -> Tally | None:
        """The tallies of the hits; None in by far the most frequent case: within, and not near."""
        _, hits, outcome, at_most = counted
        ratio = self._near_limit_ratio
        if hits < 0:
            return Tally(total_negative_hits=-hits)
        if limit is None:
            return None
        if outcome.__class__ is int and outcome <= near_threshold(at_most, ratio):
            return None
        return tally(limit, hits=hits, outcome=outcome, at_most=at_most, near_limit_ratio=ratio)

    def record_uncounted(self, matches: Sequence[Match], increments: Sequence[Increment]) -> None:
        """Tally hits whose counters could not be reached: they were asked for, and no more."""
        for match, increment in zip(matches, increments, strict=True):
            if increment.hits > 0:
                row = self._limits.row(_short(match.statistics_key))
                row.values[_TOTAL_HITS] += increment.hits

    def add(self, name: str) -> None:
        """One more under `ratelimit.service.<name>`, a name of the service's own."""
        row = self._service.get(name)
        if row is None:
            row = self._service[name] = _Row(1)
        row.values[0] += 1

    def add_unknown_domain(self, domain: str, *, descriptors: int) -> None:
        """So many more descriptors of a domain that has no configuration."""
        self._domains.row(_short(domain)).values[0] += descriptors

    def observe_call(self, path: str, seconds: float) -> None:
        """One more call of the gRPC method `path`, which took `seconds`."""
        timings = self._calls.get(path)
        if timings is None:
            timings = self._calls[path] = {}
        milliseconds = min(int(seconds * 1000), MILLISECONDS_AT_MOST)
        timings[milliseconds] = timings.get(milliseconds, 0) + 1

    def watch(self, prefix: str, read: Counts, *, gauges: Collection[str]) -> None:
        """Ask `read` for what another part counts, under `<prefix>.<name>`.

        Those of `gauges` may fall; the others are counters.
        """
        self._watched.append((prefix, read, frozenset(gauges)))

    def inherit(self, reading: Reading) -> None:
        """Go on where a process left off whose place this one takes."""
        self._inherited = Reading(reading.counters, {}, reading.timings)

    def reading(self) -> Reading:
        """Everything as it is now."""
        counters = {
            f"{_named(key)}{word}": value
            for key, row, words in self._rows()
            for word, value in zip(words, row.values, strict=True)
        }
        counters.update(self._counters_elsewhere())
        timings = {
            _call_name(path, "response_time"): dict(n) for path, n in list(self._calls.items())
        }
        own = Reading(counters, dict(self.gauges()), timings)
        return own if self._inherited is None else together((self._inherited, own))

    def changes(self) -> Iterator[tuple[str, int]]:
        """Each counter that grew since it was last given here, and by how much."""
        while self._leaving:
            yield self._leaving.popleft()
        for key, row, words in self._rows():
            if row.values != row.taken:
                yield from _taken(key, row, words)
        for name, value in self._counters_elsewhere():
            more = value - self._taken_elsewhere.get(name, 0)
            self._taken_elsewhere[name] = value
            if more > 0:
                yield name, more

    def gauges(self) -> Iterator[tuple[str, int]]:
        """Each gauge and its value now."""
        for prefix, read, gauges in self._watched:
            for name, value in read().items():
                if name in gauges:
                    yield f"{prefix}.{name}", value

    def timings(self) -> Iterator[tuple[str, int, int]]:
        """Name, milliseconds and number of the calls since they were last given here."""
        for path, found in list(self._calls.items()):
            name = _call_name(path, "response_time")
            taken = self._timings_taken.setdefault(path, {})
            for milliseconds, count in list(found.items()):
                more = count - taken.get(milliseconds, 0)
                if more:
                    taken[milliseconds] = count
                    yield name, milliseconds, more

    def _counters_elsewhere(self) -> Iterator[tuple[str, int]]:
        """The counters that have no row here."""
        for path, found in list(self._calls.items()):
            yield _call_name(path, "total_requests"), sum(found.values())
        for prefix, read, gauges in self._watched:
            for name, value in read().items():
                if name not in gauges:
                    yield f"{prefix}.{name}", value

    def _rows(self) -> Iterator[_NamedRow]:
        yield from (("", row, (name,)) for name, row in list(self._service.items()))
        yield from ((key, row, FIELDS) for key, row in self._limits.items())
        yield from ((domain, row, _DOMAIN_FIELDS) for domain, row in self._domains.items())

    def _drop_limits(self, rows: Mapping[str, _Row]) -> None:
        self._drop(rows, FIELDS)

    def _drop_domains(self, rows: Mapping[str, _Row]) -> None:
        self._drop(rows, _DOMAIN_FIELDS)

    def _drop(self, rows: Mapping[str, _Row], words: tuple[str, ...]) -> None:
        self.dropped("names", len(rows))
        if not self.is_taken:
            return
        for key, row in rows.items():
            for change in _taken(key, row, words):
                if len(self._leaving) < LEAVING_AT_MOST:
                    self._leaving.append(change)
                else:
                    self.dropped("lines", 1)


def _taken(key: str, row: _Row, words: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Each counter of a row that grew since it was taken, and by how much.

    The row may grow while this is walked over: that is given the next time.
    """
    prefix = _named(key)
    for field, word in enumerate(words):
        more = row.values[field] - row.taken[field]
        if more:
            row.taken[field] += more
            yield f"{prefix}{word}", more


def _named(key: str) -> str:
    """What the names of a row's counters begin with."""
    return f"{_LIMITS}.{sanitised(key)}." if key else f"{_SERVICE}."


def _call_name(path: str, word: str) -> str:
    return f"ratelimit_server.{path.rpartition('/')[2]}.{word}"


def _short(name: str) -> str:
    """A name as long as it may be: longer ones that begin alike are counted together."""
    return name if len(name) <= NAME_LENGTH_AT_MOST else f"{name[:NAME_LENGTH_AT_MOST]}..."


@lru_cache(maxsize=4096)
def sanitised(name: str) -> str:
    """`name` without what separates statistics, and without dots inside an IPv4 address."""
    return _IPV4.sub(lambda found: found[0].replace(".", "_"), name.translate(_UNFIT))
