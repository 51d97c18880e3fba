"""One Redis that is slow, cut, stuck or gone: each call ends in time, and none is counted twice."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis import exceptions

from meshwarden.adapters.redis_topology import Redis
from tests.stores.conftest import Connect
from tests.support.processes import until
from tests.support.redis_server import RedisServer
from tests.support.redis_traffic import COUNT, LATE_SECONDS, count, traffic
from tests.support.tcp_proxy import running_proxy

LIMIT_SECONDS = 0.1


async def one(redis: Redis, hits: int = 1, key: str = "key") -> object:
    """One call's answer, which has to come in time."""
    began = time.monotonic()
    (answer,) = await redis.call_script(COUNT, [count(key, hits)])
    assert time.monotonic() - began < LIMIT_SECONDS + LATE_SECONDS
    return answer


async def test_a_slow_network_costs_the_time_limit_and_no_more(
    single: RedisServer, connected: Connect
):
    async with running_proxy(single.port) as proxy:
        redis = connected(url=proxy.url, time_limit_seconds=LIMIT_SECONDS)
        assert await one(redis) == 1
        proxy.answer_delay_seconds = 5
        assert isinstance(await one(redis, 10), TimeoutError)
        assert isinstance(await one(redis, 100), TimeoutError)
        with pytest.raises(TimeoutError):
            await redis.ping()
        proxy.answer_delay_seconds = 0
        # What was sent too late for an answer may be counted: here, all but the connecting.
        assert await one(redis, 1000) in (1111, 1011)
        await redis.ping()


async def test_a_cut_connection_is_not_taken_for_a_call_that_may_be_repeated(
    single: RedisServer, connected: Connect
):
    """The server counted, its answer was lost: another try would count twice."""
    async with running_proxy(single.port) as proxy:
        redis = connected(url=proxy.url)
        assert await one(redis) == 1
        proxy.answer_delay_seconds = 5
        call = asyncio.create_task(redis.call_script(COUNT, [count("key")]))
        await until(lambda: single.ask("GET", "key") == "2", "the server counted")
        proxy.cut()
        assert isinstance((await call)[0], exceptions.ConnectionError)
        proxy.answer_delay_seconds = 0
        assert await one(redis) == 3


async def test_a_network_that_swallows_everything_is_left_with_its_connections(
    single: RedisServer, connected: Connect
):
    async with running_proxy(single.port) as proxy:
        redis = connected(url=proxy.url, time_limit_seconds=LIMIT_SECONDS)
        assert await one(redis) == 1
        proxy.hold()
        for _ in range(3):
            assert isinstance(await one(redis), TimeoutError)
        proxy.release()
        answer = await one(redis)
        assert isinstance(answer, int)
        assert answer <= 5
        assert redis.connections()["cx_active"] == 1


async def test_a_server_that_is_gone_fails_calls_at_once_and_counts_when_it_is_back(
    single: RedisServer, connected: Connect
):
    redis = connected(url=single.url, time_limit_seconds=LIMIT_SECONDS)
    async with traffic(redis, keys=["key"]) as going:
        single.kill()
        await going.failing("calls fail")
        single.begin()
        await going.recovery_seconds("single: killed and started", since=time.monotonic())
        assert going.longest_seconds < LIMIT_SECONDS + LATE_SECONDS


async def test_a_stuck_server_holds_calls_to_the_limit_and_counts_when_it_goes_on(
    single: RedisServer, connected: Connect
):
    redis = connected(url=single.url, time_limit_seconds=LIMIT_SECONDS)
    async with traffic(redis, keys=["key"]) as going:
        single.pause()
        await going.failing("calls fail")
        single.resume()
        await going.recovery_seconds("single: paused and resumed", since=time.monotonic())
        assert going.longest_seconds < LIMIT_SECONDS + LATE_SECONDS
    counted = int(single.ask("GET", "key"))
    assert going.counted()["key"] <= counted <= going.tried()["key"]


async def test_a_server_that_became_a_replica_is_connected_to_anew(
    single: RedisServer, connected: Connect
):
    """Behind a name that moves to the new master, a kept connection would never see it."""
    redis = connected(url=single.url)
    assert await one(redis) == 1
    try:
        single.ask("REPLICAOF", "127.0.0.1", "1")
        assert isinstance(await one(redis), exceptions.ResponseError)
        opened = redis.connections()["cx_total"]
    finally:
        single.ask("REPLICAOF", "NO", "ONE")
    assert await one(redis) == 2
    assert redis.connections()["cx_total"] == opened + 1
