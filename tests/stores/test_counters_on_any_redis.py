"""The counter stores' contract on a sentinel trio and on a Cluster; counters that fail over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from meshwarden.adapters.redis_slots import slot_of
from meshwarden.core.faults import Unavailable
from ratelimit_service.adapters.redis_store import RedisStore
from ratelimit_service.core.model import Effect, Increment
from tests.stores.test_cluster_redis import until_replaced
from tests.support.counter_contract import NOW, WINDOW, AnyStore, Contract, hits
from tests.support.measured import measured
from tests.support.processes import until
from tests.support.redis_cluster import MASTERS, RedisCluster
from tests.support.redis_sentinel import RedisTrio
from tests.support.redis_stores import redis_store

LIMIT_SECONDS = 0.2
KEYS = [f"counter{number}" for number in range(12)]


class TestSentinel(Contract):
    @pytest.fixture
    async def store(self, trio: RedisTrio) -> AsyncIterator[AnyStore]:
        counters = redis_store(trio.url, type="sentinel", protocol=3)
        yield AnyStore(counters)
        await counters.close()


class TestCluster(Contract):
    @pytest.fixture
    async def store(self, cluster: RedisCluster) -> AsyncIterator[AnyStore]:
        counters = redis_store(cluster.url, type="cluster")
        yield AnyStore(counters)
        await counters.close()


async def counted(store: RedisStore, key: str) -> int | None:
    """The count after one more hit; None where Redis could not tell in time."""
    try:
        (outcome,) = await store.add([Increment(key, 1, WINDOW, 10, Effect.DENIES)], now=NOW)
    except Unavailable:
        return None
    assert isinstance(outcome, int)
    return outcome


async def all_counted(store: RedisStore) -> bool:
    return None not in await asyncio.gather(*(counted(store, key) for key in KEYS))


async def test_a_request_over_counters_of_all_servers_is_counted_whole(cluster: RedisCluster):
    store = redis_store(cluster.url, type="cluster")
    request = [Increment(key, 2, WINDOW, 10, Effect.DENIES) for key in KEYS]
    assert await store.add(request, now=NOW) == [2] * len(KEYS)
    assert await store.add(request, now=NOW) == [4] * len(KEYS)
    await store.close()


async def test_counters_of_a_master_that_died_are_counted_by_its_replica(cluster: RedisCluster):
    """The service's own script, lines and breakers, with the default of three failures."""
    store = redis_store(
        cluster.url,
        type="cluster",
        time_limit_seconds=LIMIT_SECONDS,
        failures_at_most=3,
        pause_seconds=1,
    )
    assert await all_counted(store)
    place = cluster.master_of(KEYS[0])
    began = time.monotonic()
    cluster.servers[place].kill()
    assert not await all_counted(store)
    await until_replaced(cluster, place)
    while not await all_counted(store):
        assert time.monotonic() < began + 10
    measured(f"counters on a cluster: master killed: {time.monotonic() - began:.2f} s")
    assert time.monotonic() - began < 5
    await store.close()


async def test_counters_of_a_demoted_master_that_kept_its_connections_are_asked_of_the_new(
    trio: RedisTrio,
):
    """Also by a script that catches what a replica refuses."""
    store = redis_store(trio.url, type="sentinel", time_limit_seconds=LIMIT_SECONDS)
    assert await counted(store, "a") == 1
    old = trio.master
    replica = next(server for server in trio.servers if server is not old)
    await until(lambda: replica.ask("GET", "a") == "1", "the replica has it")
    for sentinel in trio.sentinels:
        sentinel.kill()
    replica.ask("REPLICAOF", "NO", "ONE")
    old.ask("REPLICAOF", "127.0.0.1", replica.port)
    for sentinel in trio.sentinels:
        sentinel.start()
    trio.watch(replica)
    assert await counted(store, "a") == 2
    assert replica.ask("GET", "a") == "2"
    await store.close()


async def test_requests_that_share_a_call_are_counted_while_their_slot_is_parted(
    cluster: RedisCluster,
):
    """Redis refuses several keys of such a slot in one call, so each request goes by itself; what
    it refuses says nothing against the node.
    """
    store = redis_store(cluster.url, type="cluster", failures_at_most=2)
    keys = [f"{{shared}}{number}" for number in range(10)]
    place, slot = cluster.master_of(keys[0]), slot_of(keys[0])
    target = next(
        other for other in range(2 * MASTERS) if other != place and cluster.role(other) == "master"
    )
    assert await counted(store, keys[0]) == 1
    servers = cluster.servers
    servers[target].ask("CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.identity(place))
    servers[place].ask("CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.identity(target))
    try:
        counts = await asyncio.gather(*(counted(store, key) for key in keys))
        assert counts == [2] + [1] * 9
        both = [hits(1)._replace(key=key) for key in keys[:2]]
        for _ in range(3):
            with pytest.raises(Unavailable, match=r"rehashing|TRYAGAIN"):
                await store.add(both, now=NOW)
        assert store.open_breaker_count == 0
    finally:
        await store.close()
        # A slot's keys can't be taken back while it is being moved: to the end, and back.
        servers[place].ask("MIGRATE", "127.0.0.1", servers[target].port, keys[0], 0, 1000)
        for at in (target, place):
            servers[at].ask("CLUSTER", "SETSLOT", slot, "NODE", cluster.identity(target))
        servers[place].ask("CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.identity(target))
        servers[target].ask("CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.identity(place))
        port = servers[place].port
        servers[target].ask("MIGRATE", "127.0.0.1", port, "", 0, 1000, "KEYS", *keys)
        for at in (place, target):
            servers[at].ask("CLUSTER", "SETSLOT", slot, "NODE", cluster.identity(place))
