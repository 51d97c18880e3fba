"""A Cluster with one server, which needs no time to agree; `make test-stores` has real ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis import exceptions

from meshwarden.adapters.redis_settings import RedisSettings
from meshwarden.adapters.redis_slots import slot_of
from meshwarden.adapters.redis_topology import Redis, connect
from meshwarden.core.faults import Unavailable
from tests.support.counter_contract import NOW, hits
from tests.support.processes import until, wait_until
from tests.support.redis_server import RedisServer
from tests.support.redis_stores import redis_store, until_counted
from tests.support.redis_traffic import COUNT, count

SLOTS = 16384
KEYS = [f"key{number}" for number in range(50)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    folder: Path = tmp_path_factory.mktemp("cluster")
    running = RedisServer(folder, options=["--cluster-enabled", "yes"])
    running.start()
    try:
        running.ask("CLUSTER", "ADDSLOTS", *range(SLOTS))
        wait_until(lambda: "state:ok" in running.ask("CLUSTER", "INFO"), "the cluster is whole")
        yield running
    finally:
        running.kill()


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Redis]:
    url = f"127.0.0.1:{server.port}"
    connected = connect(RedisSettings(type="cluster", url=url, time_limit_seconds=0.1))
    server.ask("FLUSHALL")
    yield connected
    await connected.close()


async def test_calls_of_many_slots_share_one_pipeline(redis: Redis, server: RedisServer):
    assert await redis.call_script(COUNT, [count(key) for key in KEYS]) == [1] * len(KEYS)
    assert await redis.command("GET", KEYS[0]) == b"1"
    await redis.ping()
    assert redis.node_of(redis.group_of(KEYS[0])) == f"127.0.0.1:{server.port}"
    assert redis.connections() == {"cx_active": 1, "cx_total": 1, "cx_local_close": 0}


async def test_a_silent_server_is_waited_for_once_and_asked_again_when_it_answers(
    redis: Redis, server: RedisServer
):
    loop = asyncio.get_running_loop()
    assert await redis.call_script(COUNT, [count("key")]) == [1]
    server.pause()
    try:
        (fault,) = await redis.call_script(COUNT, [count("key")])
        assert isinstance(fault, TimeoutError)
        began = loop.time()
        (fault,) = await redis.call_script(COUNT, [count("key")])
        assert isinstance(fault, TimeoutError)
        assert loop.time() - began < 0.05, "it fails at once"
    finally:
        server.resume()
    answer: object = None
    while not isinstance(answer, int):
        (answer,) = await redis.call_script(COUNT, [count("key")])
        await asyncio.sleep(0)
    assert answer in (2, 3), "the call that was sent may have been counted; the refused one not"


async def test_a_slot_that_nobody_owns_fails_its_own_calls_alone(redis: Redis, server: RedisServer):
    assert await redis.call_script(COUNT, [count("key")]) == [1]
    slot = redis.group_of("lost")
    server.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
    server.ask("CLUSTER", "DELSLOTS", slot)
    try:
        sound, lost = await redis.call_script(COUNT, [count("key"), count("lost")])
        assert sound == 2
        assert isinstance(lost, exceptions.ClusterDownError)
    finally:
        server.ask("CLUSTER", "ADDSLOTS", slot)
        wait_until(lambda: "state:ok" in server.ask("CLUSTER", "INFO"), "the cluster is whole")


async def test_the_trial_of_an_open_breaker_is_a_whole_request_whatever_slots_its_keys_are_in(
    server: RedisServer,
):
    store = redis_store(
        f"127.0.0.1:{server.port}",
        type="cluster",
        time_limit_seconds=0.2,
        failures_at_most=2,
        pause_seconds=0.05,
    )
    both = [hits(1)._replace(key=key) for key in ("one", "two")]
    assert slot_of("one") != slot_of("two")
    await until_counted(store, *both)
    server.pause()
    try:
        while not store.open_breaker_count:
            with pytest.raises(Unavailable):
                await store.add(both, now=NOW)
    finally:
        server.resume()
    await until_counted(store, *both)
    assert store.open_breaker_count == 0
    await store.close()


async def test_lines_of_nodes_that_hold_no_counters_are_forgotten(server: RedisServer):
    """Before the Cluster is known its node is not known either."""
    server.pause()
    store = redis_store(
        f"127.0.0.1:{server.port}", type="cluster", time_limit_seconds=0.2, failures_at_most=1
    )
    try:
        with pytest.raises(Unavailable):
            await store.add([hits(1)], now=NOW)
        await until(lambda: store.open_breaker_count == 1, "the breaker is open")
    finally:
        server.resume()
    await until_counted(store, hits(1))
    assert store.open_breaker_count == 0
    await store.close()
