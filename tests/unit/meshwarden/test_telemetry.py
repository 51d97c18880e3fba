"""Metrics: exact, with a bounded number of series, and one sum over several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from meshwarden.adapters.telemetry import DURATIONS_AT_MOST, SERIES_AT_MOST, Metrics


def samples(metrics: Metrics) -> dict[str, float]:
    lines = metrics.exposition().decode().splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
    }


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5), st.booleans())))
def test_every_hit_is_counted_once_whenever_it_is_flushed(hits: list[tuple[str, int, bool]]):
    metrics = Metrics()
    tally = metrics.tally("hits", "Hits.", ["kind"])
    for kind, count, is_flushed in hits:
        tally.add(kind, count=count)
        if is_flushed:
            metrics.flush()
    shown = samples(metrics)
    for wanted in "abc":
        total = sum(count for kind, count, _ in hits if kind == wanted)
        assert shown.get(f'hits_total{{kind="{wanted}"}}', 0) == total


def test_beyond_the_bound_new_labels_are_counted_as_other_and_known_ones_go_on():
    metrics = Metrics()
    tally = metrics.tally("hits", "Hits.", ["path", "code"])
    for number in range(SERIES_AT_MOST + 500):
        tally.add(f"/{number}", "200")
    metrics.flush()
    tally.add("/0", "200")
    tally.add("/new", "200", count=2)
    shown = {name: value for name, value in samples(metrics).items() if "hits_total" in name}
    assert len(shown) == SERIES_AT_MOST + 1
    assert shown['hits_total{code="other",path="other"}'] == 502
    assert shown['hits_total{code="200",path="/0"}'] == 2
    assert sum(shown.values()) == SERIES_AT_MOST + 500 + 3


def test_a_counter_without_labels_counts():
    metrics = Metrics()
    tally = metrics.tally("hits", "Hits.")
    tally.add()
    tally.add(count=2)
    assert samples(metrics)["hits_total"] == 3


def test_a_duration_is_in_its_bucket_and_memory_is_bounded():
    metrics = Metrics()
    durations = metrics.durations("call_seconds", "Seconds.")
    for seconds in (0.0001, 0.003, 7.0):
        durations.add(seconds)
    shown = samples(metrics)
    assert shown['call_seconds_bucket{le="0.0001"}'] == 1
    assert shown['call_seconds_bucket{le="0.005"}'] == 2
    assert shown['call_seconds_bucket{le="+Inf"}'] == shown["call_seconds_count"] == 3
    for _ in range(DURATIONS_AT_MOST + 10):
        durations.add(0.5)
    assert samples(metrics)["call_seconds_count"] == 3 + DURATIONS_AT_MOST


def test_a_gauge_shows_its_value_at_the_scrape():
    metrics, value = Metrics(), 1.0
    metrics.gauge("depth", "Depth.", lambda: value)
    assert samples(metrics)["depth"] == 1
    value = 2.0
    assert samples(metrics)["depth"] == 2


_WORKER = """
import sys
from meshwarden.adapters.telemetry import Metrics
metrics = Metrics()
metrics.tally("hits", "Hits.", ["kind"]).add("a", count=2)
metrics.durations("call_seconds", "Seconds.").add(0.2)
metrics.gauge("depth", "Depth.", lambda: 5.0)
metrics.flush()
print("flushed", flush=True)
sys.stdin.read()
sys.stdout.write(metrics.exposition().decode())
"""


def test_each_of_several_workers_answers_a_scrape_for_all_of_them(tmp_path: Path):
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "flushed\n"
    for worker in workers:
        shown, _ = worker.communicate(timeout=20)
        assert 'hits_total{kind="a"} 4.0' in shown
        assert "call_seconds_count 2.0" in shown
        assert "depth 10.0" in shown
