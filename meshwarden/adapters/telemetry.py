"""Prometheus metrics that cost the request path a dictionary entry and no lock.

A `Tally` and a `Durations` collect in plain containers; `Metrics.flush`, once a second and at each
scrape, moves what was collected into prometheus-client's objects. Label values are bounded: beyond
`SERIES_AT_MOST` combinations everything new is counted under `other`.
Known weakness: what was collected since the last flush is lost when the process is killed.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

SERIES_AT_MOST = 1000
DURATIONS_AT_MOST = 100_000
BUCKETS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.2,
    0.5,
    1.0,
    5.0,
)


class Tally:
    """A counter with labels; `add` takes no lock."""

    def __init__(self, counter: Counter, label_count: int) -> None:
        self._counter = counter
        self._other = ("other",) * label_count
        self._pending: dict[tuple[str, ...], int] = {}
        self._known: set[tuple[str, ...]] = set()

    def add(self, *labels: str, count: int = 1) -> None:
        """Count `count` more under `labels`, which are as many as the counter has."""
        if labels not in self._known:
            if len(self._known) >= SERIES_AT_MOST:
                labels = self._other
            self._known.add(labels)
        self._pending[labels] = self._pending.get(labels, 0) + count

    def flush(self) -> None:
        pending, self._pending = self._pending, {}
        for labels, count in pending.items():
            (self._counter.labels(*labels) if labels else self._counter).inc(count)


class Durations:
    """A histogram of seconds; `add` takes no lock."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._pending: deque[float] = deque(maxlen=DURATIONS_AT_MOST)
        self.add = self._pending.append

    def flush(self) -> None:
        pending = self._pending
        for _ in range(len(pending)):
            self._histogram.observe(pending.popleft())


class Metrics:
    """The metrics of one process; with several workers each answers a scrape for all of them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._flushed: list[Tally | Durations] = []
        self._before_flush: list[Callable[[], None]] = []

    def tally(self, name: str, text: str, labels: Sequence[str] = ()) -> Tally:
        """A counter `name`; its exposed name ends in `_total`."""
        made = Tally(Counter(name, text, labels, registry=self.registry), len(labels))
        self._flushed.append(made)
        return made

    def durations(self, name: str, text: str) -> Durations:
        made = Durations(Histogram(name, text, registry=self.registry, buckets=BUCKETS))
        self._flushed.append(made)
        return made

    def gauge(
        self,
        name: str,
        text: str,
        read: Callable[[], float],
        *,
        across_workers: Literal["livesum", "livemin"] = "livesum",
    ) -> None:
        """A gauge whose value is read at each flush; with several workers their sum is shown, or
        the least.
        """
        made = Gauge(name, text, registry=self.registry, multiprocess_mode=across_workers)
        self._before_flush.append(lambda: made.set(read()))

    def flush(self) -> None:
        for update in self._before_flush:
            update()
        for item in self._flushed:
            item.flush()

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format."""
        self.flush()
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)
