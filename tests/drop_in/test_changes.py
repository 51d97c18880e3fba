"""Files that change while both run, and files that are wrong from the start."""

from __future__ import annotations

from pathlib import Path

from tests.support.processes import wait_until
from tests.support.redis_server import RedisServer
from tests.support.side_by_side import Pair, limits_folder, request_of, side_by_side


def _limits(number: int) -> str:
    limit = f"{{unit: year, requests_per_unit: {number}}}"
    return f"domain: d\ndescriptors: [{{key: a, rate_limit: {limit}}}]\n"


def _per_unit(pair: Pair) -> list[object]:
    """The limit that each answers with; None where there is none."""
    answers = pair.ask(request_of("d", [("a", "x")]))
    statuses = [one.get("answer", {}).get("statuses", [{}])[0] for one in answers]
    return [status.get("currentLimit", {}).get("requestsPerUnit") for status in statuses]


def test_a_broken_file_changes_nothing_and_a_good_one_is_followed(
    redis: RedisServer, tmp_path: Path
):
    file = limits_folder(tmp_path) / "limits.yaml"
    file.write_text(_limits(11))
    with side_by_side(tmp_path, redis, CACHE_KEY_PREFIX="changes:") as pair:
        assert _per_unit(pair) == [11, 11]
        file.write_text("domain: d\nwrong: 1\n")
        name = "ratelimit.service.config_load_error"
        wait_until(lambda: pair.theirs.statsd.counters()[name], "the reference has refused it")
        wait_until(lambda: f"{name}: 1" in pair.ours.lines("/stats"), "so have we")
        assert "unknown key 'wrong'" in pair.theirs.process.errors
        assert "unknown key 'wrong'" in pair.ours.process.output
        assert _per_unit(pair) == [11, 11]
        file.write_text(_limits(12))
        wait_until(lambda: _per_unit(pair) == [12, 12], "both follow")


def test_without_a_good_file_both_answer_that_there_is_no_configuration(
    redis: RedisServer, tmp_path: Path
):
    file = limits_folder(tmp_path) / "limits.yaml"
    file.write_text("domain: d\nwrong: 1\n")
    with side_by_side(tmp_path, redis, waits_for_ready=False) as pair:
        refusal = {"error": ("UNKNOWN", "no rate limit configuration loaded")}
        assert pair.ask(request_of("d", [("a", "x")])) == (refusal, refusal)
        file.write_text(_limits(13))
        wait_until(lambda: _per_unit(pair) == [13, 13], "both take the mended file")


def test_a_root_that_is_swapped_is_followed(redis: RedisServer, tmp_path: Path):
    """As a deployment does it: RUNTIME_ROOT is a link, which is replaced at once."""
    for number in (21, 22):
        folder = limits_folder(tmp_path / f"release-{number}")
        (folder / "limits.yaml").write_text(_limits(number))
    current = tmp_path / "current"
    current.symlink_to("release-21")
    with side_by_side(current, redis, RUNTIME_WATCH_ROOT="true") as pair:
        assert _per_unit(pair) == [21, 21]
        new = tmp_path / "new"
        new.symlink_to("release-22")
        new.replace(current)
        wait_until(lambda: _per_unit(pair) == [22, 22], "both follow")
