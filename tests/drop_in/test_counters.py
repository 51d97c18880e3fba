"""The counters of both in one Redis: the same keys, values and lives, and one count for both."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import chain, repeat
from pathlib import Path

from redis import Redis

from tests.support.processes import wait_until
from tests.support.random_limits import RandomLimits
from tests.support.redis_server import RedisServer, running_redis
from tests.support.side_by_side import (
    drop_in_environment,
    limits_folder,
    request_of,
    running_ours,
    running_reference,
    side_by_side,
)

FORMAT = {"COUNTER_KEY_FORMAT": "envoyproxy"}
JITTER_SECONDS = 25
LENGTHS = {1, 60, 3600, 86_400, 604_800, 2_592_000, 31_536_000}

ROLLING = """
domain: rolling
descriptors:
- {key: user, rate_limit: {unit: year, requests_per_unit: 50}}
- {key: files, value: "a*", share_threshold: true, rate_limit: {unit: year, requests_per_unit: 50}}
"""

SPLIT = """
domain: split
descriptors:
- {key: user, rate_limit: {unit: second, requests_per_unit: 5}}
- {key: path, rate_limit: {unit: year, requests_per_unit: 5}}
"""


def test_counters_have_the_same_keys_values_and_lives(redis: RedisServer, tmp_path: Path):
    """With COUNTER_KEY_FORMAT=envoyproxy; ours creates none for a hit of 0."""
    limits = [RandomLimits(seed) for seed in range(20)]
    folder = limits_folder(tmp_path)
    for number, one in enumerate(limits):
        (folder / f"{number}.yaml").write_text(one.file(f"keys-{number}"))
    jitter = {"EXPIRATION_JITTER_MAX_SECONDS": str(JITTER_SECONDS)}
    environment = drop_in_environment(tmp_path, redis, **FORMAT, **jitter)
    with (
        Redis(port=redis.port, decode_responses=True) as client,
        running_reference({**environment, "CACHE_KEY_PREFIX": "theirs:"}) as theirs,
        running_ours({**environment, "CACHE_KEY_PREFIX": "ours:"}) as ours,
    ):
        for side in (theirs, ours):
            side.wait_until_ready("/healthcheck")
        # What is asked at the end of a minute would be counted under two names.
        wait_until(lambda: time.time() % 60 < 50, "the minute lasts", limit_seconds=20)
        for number, one in enumerate(limits):
            for step in one.history(steps=10):
                step.request.domain = f"keys-{number}"
                for side in (theirs, ours):
                    side.ask(step.request)
        found = {name: _counters(client, f"{name}:") for name in ("theirs", "ours")}
    assert found["ours"] == found["theirs"]
    assert len(found["ours"]) > 50


def _counters(client: Redis, prefix: str) -> dict[str, int]:
    """The counters of windows longer than a second, without the prefix, each with a right life."""
    result = {}
    for key in client.scan_iter(match=f"{prefix}*", count=1000, _type="string"):
        value, life = int(client.get(key) or 0), client.ttl(key)
        length = min(length for length in LENGTHS if life <= length + JITTER_SECONDS)
        assert length - 30 < life
        if value and length > 1:
            result[key.removeprefix(prefix)] = value
    return result


def test_a_rolling_change_shares_every_counter(redis: RedisServer, tmp_path: Path):
    """Half of the requests through each, at once: as many as the limit says are let through."""
    (limits_folder(tmp_path) / "rolling.yaml").write_text(ROLLING)
    with (
        side_by_side(tmp_path, redis, CACHE_KEY_PREFIX="rolling:", **FORMAT) as pair,
        ThreadPoolExecutor(8) as threads,
    ):
        for entry in (("user", "rita"), ("files", "a/1")):
            request = request_of("rolling", [entry])
            sides = list(chain.from_iterable(repeat((pair.theirs, pair.ours), 60)))
            answers = list(threads.map(lambda side, request=request: side.ask(request), sides))
            codes = Counter(answer["answer"]["overallCode"] for answer in answers)
            assert codes == {"OK": 50, "OVER_LIMIT": 70}
        # One that shares: what one service counted for a/1, the other counts for a/2.
        theirs, ours = pair.ask(request_of("rolling", [("files", "a/2")]))
        assert theirs == ours
        assert ours["answer"]["overallCode"] == "OVER_LIMIT"


def test_limits_per_second_are_counted_in_the_redis_of_their_own(
    redis: RedisServer, tmp_path: Path
):
    (limits_folder(tmp_path) / "split.yaml").write_text(SPLIT)
    with running_redis() as per_second, ExitStack() as stack:
        environment = {
            **drop_in_environment(tmp_path, redis, **FORMAT),
            "REDIS_PERSECOND": "true",
            "REDIS_PERSECOND_SOCKET_TYPE": "tcp",
            "REDIS_PERSECOND_URL": f"127.0.0.1:{per_second.port}",
            "REDIS_PERSECOND_TIMEOUT": "5s",
        }
        clients = [
            stack.enter_context(Redis(port=server.port, decode_responses=True))
            for server in (redis, per_second)
        ]
        for run, name in ((running_reference, "split-theirs:"), (running_ours, "split-ours:")):
            side = stack.enter_context(run({**environment, "CACHE_KEY_PREFIX": name}))
            side.wait_until_ready("/healthcheck")
            answer = side.ask(request_of("split", [("user", "a")], [("path", "b")]))
            assert [one["limitRemaining"] for one in answer["answer"]["statuses"]] == [4, 4]
            kept = [list(client.scan_iter(match=f"{name}split_*")) for client in clients]
            assert [[key.rpartition("_")[0] for key in keys] for keys in kept] == [
                [f"{name}split_path_b"],
                [f"{name}split_user_a"],
            ]
