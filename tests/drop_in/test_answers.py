"""Random limits, random histories of requests: both services answer each of them the same.

Both read their own clock. So a history is told within one second, or told again to a copy of its
limits in a fresh domain.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.documented_differences import LEFT_ALONE, expected, is_compared, shown
from tests.support.processes import wait_until
from tests.support.random_limits import RandomLimits, Step, in_domain, random_seeds
from tests.support.redis_server import RedisServer
from tests.support.side_by_side import Pair, limits_folder, side_by_side

DOMAINS = 16
COPIES = 4
STEPS = 16
CLOCKS_APART_SECONDS = 0.06
"""Ours follows Redis' clock, to half a round trip: an answer at a second's edge may be of the next
second.
"""
EARLY_SECONDS = 0.7
"""A history starts this early in a second, so that it ends in the same."""

ENVIRONMENTS: dict[str, dict[str, str]] = {
    "default": {},
    "headers": {"LIMIT_RESPONSE_HEADERS_ENABLED": "true"},
    "named-headers": {
        "LIMIT_RESPONSE_HEADERS_ENABLED": "true",
        "LIMIT_LIMIT_HEADER": "x-limit",
        "LIMIT_REMAINING_HEADER": "x-left",
        "LIMIT_RESET_HEADER": "x-reset",
    },
    "shadow": {"SHADOW_MODE": "true", "LIMIT_RESPONSE_HEADERS_ENABLED": "true"},
    "quota": {"QUOTA_MODE": "true", "LIMIT_RESPONSE_HEADERS_ENABLED": "true"},
    "metadata": {"RESPONSE_DYNAMIC_METADATA": "true", "NEAR_LIMIT_RATIO": "0.5"},
    "metadata-quota": {"RESPONSE_DYNAMIC_METADATA": "true", "QUOTA_MODE": "true"},
    "stopping": {
        "STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT": "true",
    },
    "remembering": {
        "LOCAL_CACHE_SIZE_IN_BYTES": "1000000",
        "LIMIT_RESPONSE_HEADERS_ENABLED": "true",
    },
    "stopping-remembering": {
        "STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT": "true",
        "LOCAL_CACHE_SIZE_IN_BYTES": "1000000",
    },
    "merged": {"MERGE_DOMAIN_CONFIG": "true", "CACHE_KEY_PREFIX": "prefix:"},
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_random_histories_are_answered_alike(name: str, redis: RedisServer, tmp_path: Path):
    """Answers over gRPC and /json, the limits on /rlconfig, the statistics."""
    environment = ENVIRONMENTS[name]
    # The domains are called alike in each of these tests; what one counted by the day the reference
    # would find again by the week, on a Thursday, when both windows begin.
    redis.ask("FLUSHALL")
    without = [left for variable, left in LEFT_ALONE.items() if variable in environment]
    limits = [RandomLimits(seed, without=without) for seed in random_seeds(name, DOMAINS)]
    _write(limits, limits_folder(tmp_path), is_merged="MERGE_DOMAIN_CONFIG" in environment)
    with side_by_side(tmp_path, redis, **environment) as pair:
        assert pair.ours.lines("/rlconfig") == pair.theirs.lines("/rlconfig")
        retold: set[str] = set()
        for number, one in enumerate(limits):
            steps = one.history(steps=STEPS)
            retold.update(_told_within_a_second(pair, number, steps, environment))
        _same_statistics(pair, environment, retold)


def _write(limits: list[RandomLimits], folder: Path, *, is_merged: bool) -> None:
    for number, one in enumerate(limits):
        for copy in range(COPIES):
            domain = _domain(number, copy)
            texts = one.files(domain) if is_merged else [one.file(domain)]
            for part, text in enumerate(texts):
                (folder / f"{domain}-{part}.yaml").write_text(text)


def _domain(number: int, copy: int) -> str:
    return f"shop-{number}-{copy}"


def _told_within_a_second(
    pair: Pair, number: int, steps: list[Step], environment: dict[str, str]
) -> Iterator[str]:
    """Yields the domains that were begun and not finished; some histories go on a second later."""
    for copy in range(COPIES):
        domain = _domain(number, copy)
        asked = list(in_domain(steps, domain))
        half = len(asked) // 2
        second = 0
        for part in [asked[:half], asked[half:]] if number % 4 == 0 else [asked]:
            second = _young_second(after=second)
            if not _is_told_alike(pair, part, environment, second=second):
                break
        else:
            return
        yield domain
    raise AssertionError(f"{STEPS} requests took more than half a second, {COPIES} times")


def _young_second(*, after: int) -> int:
    """A second that has just begun, later than `after`."""
    wait_until(
        lambda: time.time() >= after + 1 and CLOCKS_APART_SECONDS < time.time() % 1 < EARLY_SECONDS,
        "a second is young",
    )
    return int(time.time())


def _is_told_alike(
    pair: Pair, steps: list[Step], environment: dict[str, str], *, second: int
) -> bool:
    """Compare the answers; False where they were not given within `second`."""
    answers = [pair.ask(step.request, as_json=step.as_json) for step in steps]
    if int(time.time() + CLOCKS_APART_SECONDS) != second:
        return False
    for step, (theirs, ours) in zip(steps, answers, strict=True):
        right = expected(theirs, second=second, environment=environment)
        assert shown(ours) == right, f"{step.request}\n{shown(ours)}\n{right}"
    return True


def _same_statistics(pair: Pair, environment: dict[str, str], retold: set[str]) -> None:
    """Every counter that is not 0, but for those of domains that were not finished."""

    def counters(lines: dict[str, int]) -> dict[str, int]:
        return {
            name: value
            for name, value in lines.items()
            if value
            and name.startswith(("ratelimit.service.", "ratelimit_server.ShouldRateLimit."))
            and is_compared(name, environment)
            and not any(f".{domain}." in name or f".{domain}-" in name for domain in retold)
            and not (retold and name.endswith("global_shadow_mode"))
        }

    def both() -> tuple[dict[str, int], dict[str, int]]:
        theirs, ours = (dict(side.statsd.counters()) for side in (pair.theirs, pair.ours))
        return counters(theirs), counters(ours)

    def are_the_same() -> bool:
        theirs, ours = both()
        return theirs == ours

    try:
        wait_until(are_the_same, "their statistics are the same")
    except AssertionError:
        theirs, ours = both()
        names = sorted(theirs.keys() | ours.keys())
        differing = {n: (theirs.get(n), ours.get(n)) for n in names if theirs.get(n) != ours.get(n)}
        assert differing == {}, "name: (theirs, ours)"
