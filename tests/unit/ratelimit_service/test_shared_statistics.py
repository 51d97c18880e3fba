"""Workers that share a folder speak for each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from ratelimit_service.adapters.shared_statistics import SharedStatistics
from ratelimit_service.adapters.statistics import Statistics

HITS = "ratelimit.service.hits"


def worker(folder: Path, index: int) -> tuple[Statistics, SharedStatistics]:
    statistics = Statistics(near_limit_ratio=0.8, names_at_most=9)
    statistics.watch("pool", lambda: {"open": 1}, gauges=["open"])
    return statistics, SharedStatistics(statistics, folder, index)


def test_each_worker_shows_the_sum_of_all(tmp_path: Path):
    first, first_shared = worker(tmp_path, 0)
    second, second_shared = worker(tmp_path, 1)
    for statistics in (first, second):
        statistics.add("hits")
        statistics.observe_call("/s/Call", 0.001)
    first_shared.leave()
    second_shared.leave()
    first.add("hits")
    reading = first_shared.reading()
    assert reading.counters[HITS] == 3
    assert reading.gauges == {"pool.open": 2}
    assert reading.timings == {"ratelimit_server.Call.response_time": {1: 2}}
    assert second_shared.reading().counters[HITS] == 2


def test_counters_do_not_fall_when_a_worker_dies_and_another_takes_its_place(tmp_path: Path):
    first, first_shared = worker(tmp_path, 0)
    first.add("hits")
    first_shared.leave()
    successor, successor_shared = worker(tmp_path, 0)
    successor.add("hits")
    assert successor_shared.reading().counters[HITS] == 2
    successor_shared.leave()
    _, other_shared = worker(tmp_path, 1)
    assert other_shared.reading().counters[HITS] == 2


async def test_leaving_takes_a_hundredth_of_the_time_at_most(tmp_path: Path):
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            raise InterruptedError

    statistics, _ = worker(tmp_path, 0)
    with pytest.raises(InterruptedError):
        await SharedStatistics(statistics, tmp_path, 0, pause=pause).run()
    assert min(pauses) >= 1


def test_what_can_not_be_read_is_left_out_and_a_folder_that_is_gone_does_no_harm(tmp_path: Path):
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "statistics_7.json").write_text("{")
    statistics, shared = worker(folder, 0)
    statistics.add("hits")
    assert shared.reading().counters[HITS] == 1
    (folder / "statistics_7.json").unlink()
    folder.rmdir()
    shared.leave()
    assert shared.reading().counters[HITS] == 1
