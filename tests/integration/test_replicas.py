"""How the processes that share a Redis count each other and agree on the time."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator

import pytest
import redis

from meshwarden.adapters.redis_settings import RedisSettings
from meshwarden.adapters.redis_topology import Redis, connect
from ratelimit_service.adapters.replicas import LIVES_SECONDS, Replicas
from tests.support.redis_server import RedisServer, running_redis


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as running:
        yield running


@pytest.fixture
async def connected(server: RedisServer) -> AsyncIterator[Redis]:
    with redis.Redis(port=server.port) as client:
        client.flushall()
    made = connect(RedisSettings(url=server.url, time_limit_seconds=2))
    yield made
    await made.close()


def replica(connected: Redis, name: str, *, clock_is_ahead_seconds: float = 0) -> Replicas:
    return Replicas(
        connected,
        name=name,
        key="rl:replicas",
        count=1,
        time_limit_seconds=2,
        clock=lambda: time.time() + clock_is_ahead_seconds,
        monotonic=time.monotonic,
    )


async def test_each_learns_how_many_live(connected: Redis):
    first, second = replica(connected, "first"), replica(connected, "second")
    await first.beat()
    assert first.count == 1
    await second.beat()
    await first.beat()
    assert (first.count, second.count) == (2, 2)


async def test_who_says_nothing_is_soon_no_longer_counted_but_not_at_once(
    connected: Redis, server: RedisServer
):
    """A Redis that has just come back knows few: nobody takes a larger share because of that."""
    first, second = replica(connected, "first"), replica(connected, "second")
    await second.beat()
    await first.beat()
    with redis.Redis(port=server.port) as client:
        client.zadd("rl:replicas", {"second": 1})
    for _ in range(LIVES_SECONDS - 1):
        await first.beat()
        assert first.count == 2
    await first.beat()
    assert first.count == 1


async def test_replicas_whose_clocks_differ_agree_on_the_time(connected: Redis):
    ahead = replica(connected, "ahead", clock_is_ahead_seconds=100)
    behind = replica(connected, "behind", clock_is_ahead_seconds=-100)
    await ahead.beat()
    await behind.beat()
    assert abs(ahead.now() - behind.now()) < 0.1
    assert abs(ahead.now() - time.time()) < 0.1


async def test_without_redis_the_last_that_was_known_holds(
    connected: Redis, capsys: pytest.CaptureFixture[str]
):
    with running_redis() as own:
        leaving = connect(RedisSettings(url=own.url, time_limit_seconds=0.2))
        first, second = replica(leaving, "first"), replica(leaving, "second")
        await second.beat()
        await first.beat()
        own.kill()
        for _ in range(3):
            await first.beat()
        assert first.count == 2
        assert capsys.readouterr().out.count("replicas_not_counted") == 1
        await leaving.close()
