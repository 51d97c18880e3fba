"""A Cluster's servers die, get stuck and hand slots over, while calls for all slots go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import pytest
from redis import exceptions

from meshwarden.adapters.redis_cluster_map import REFRESH_PAUSE_SECONDS
from meshwarden.adapters.redis_slots import slot_of
from meshwarden.adapters.redis_topology import Redis
from tests.stores.conftest import Connect
from tests.support.processes import until
from tests.support.redis_cluster import MASTERS, RedisCluster
from tests.support.redis_traffic import COUNT, LATE_SECONDS, Traffic, count, traffic_within

LIMIT_SECONDS = 0.2
"""More than the default: every server has to make it, on two busy cores."""

KEYS = [f"key{number}" for number in range(30)]


def keys_of(cluster: RedisCluster, place: int) -> set[str]:
    """Of `KEYS`, those that the server at `place` counts."""
    return {key for key in KEYS if cluster.master_of(key) == place}


def on_a_cluster(
    cluster: RedisCluster, connected: Connect, *, keys: Sequence[str] = KEYS
) -> AbstractAsyncContextManager[tuple[Redis, Traffic]]:
    """Traffic on the slots of these keys."""
    return traffic_within(LIMIT_SECONDS, connected, keys=keys, type="cluster", url=cluster.url)


def failed(going: Traffic) -> set[str]:
    return {
        key
        for turn in going.failures
        for key, answer in turn.answers.items()
        if not isinstance(answer, int)
    }


async def until_replaced(cluster: RedisCluster, place: int) -> None:
    """Return once the other server of the same slots is their master."""
    other = (place + MASTERS) % (2 * MASTERS)
    await until(lambda: cluster.role(other) == "master", "the replica is master")


async def test_a_master_that_dies_fails_its_own_slots_until_its_replica_takes_over(
    cluster: RedisCluster, connected: Connect
):
    """And of what was told to be counted only the hits of its last moments are lost."""
    place = cluster.master_of(KEYS[0])
    own = keys_of(cluster, place)
    async with on_a_cluster(cluster, connected) as (_, going):
        began = time.monotonic()
        asked = topology_reads(cluster, without=place)
        cluster.servers[place].kill()
        dead = time.monotonic()
        await until_replaced(cluster, place)
        await going.recovery_seconds("cluster: master killed", since=began)
        assert failed(going) == own
        reads = topology_reads(cluster, without=place) - asked
        # Each refresh asks three servers, and no more often than its pause allows.
        assert reads <= 3 * (1 + (time.monotonic() - began) / REFRESH_PAUSE_SECONDS)
    kept, tried = going.kept(before=began, after=dead), going.tried()
    new = cluster.servers[(place + MASTERS) % (2 * MASTERS)]
    for key in own:
        assert 0 < kept[key] <= int(new.ask("GET", key)) <= tried[key]


def topology_reads(cluster: RedisCluster, *, without: int) -> int:
    counts = (
        server.command_counts()
        for place, server in enumerate(cluster.servers)
        if server.is_running and place != without
    )
    return sum(count.get("cluster|slots", count.get("cluster", 0)) for count in counts)


async def test_a_stuck_master_holds_up_nobody_elses_slots(
    cluster: RedisCluster, connected: Connect
):
    place = cluster.master_of(KEYS[0])
    own = keys_of(cluster, place)
    async with on_a_cluster(cluster, connected) as (_, going):
        began = time.monotonic()
        cluster.servers[place].pause()
        try:
            await until_replaced(cluster, place)
            await going.recovery_seconds("cluster: master paused", since=began)
        finally:
            cluster.servers[place].resume()
        assert failed(going) == own
        slow = [turn for turn in going.turns if turn.seconds > LIMIT_SECONDS * 0.9]
        assert len(slow) <= 2, "a silent server is waited for once, and then probed aside"
        resumed = len(going.turns)
        await until(lambda: len(going.turns) > resumed + 20, "calls go on")
        assert [turn for turn in going.turns[resumed:] if not turn.is_whole] == []


async def test_a_pause_that_is_no_failover_ends_when_the_server_answers(
    cluster: RedisCluster, connected: Connect
):
    async with on_a_cluster(cluster, connected) as (redis, going):
        place = cluster.master_of(KEYS[0])
        cluster.servers[place].pause()
        await going.failing("calls fail")
        cluster.servers[place].resume()
        await going.recovery_seconds("cluster: paused and resumed", since=time.monotonic())
    assert cluster.role(place) == "master"
    counted = int(str(await redis.command("GET", KEYS[0]), "ascii"))
    assert going.counted()[KEYS[0]] <= counted <= going.tried()[KEYS[0]]


async def test_a_slot_that_moves_under_traffic_loses_no_call(
    cluster: RedisCluster, connected: Connect
):
    """First ASK, key by key, then MOVED; every hit is counted exactly once."""
    there, elsewhere = "{moving}there", "{moving}new"
    async with on_a_cluster(cluster, connected, keys=[there, *KEYS]) as (redis, going):
        place = cluster.master_of(there)
        slot = slot_of(there)
        source = cluster.servers[place]
        target_place = next(
            other
            for other in range(2 * MASTERS)
            if other != place and cluster.role(other) == "master"
        )
        target = cluster.servers[target_place]
        target_name = cluster.identity(target_place)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.identity(place))
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_name)
        assert await redis.call_script(COUNT, [count(elsewhere)]) == [1]
        assert target.ask("CLUSTER", "COUNTKEYSINSLOT", slot) == 1, "it was asked for once"
        source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 1000, "KEYS", there)
        asked = len(going.turns)
        await until(lambda: len(going.turns) > asked + 5, "calls for the moved key go on")
        for server in (target, source):
            server.ask("CLUSTER", "SETSLOT", slot, "NODE", target_name)
        moved = len(going.turns)
        await until(lambda: len(going.turns) > moved + 5, "calls for the moved slot go on")
        assert await redis.call_script(COUNT, [count(elsewhere)]) == [2]
        assert going.failures == []
    try:
        assert await redis.command("GET", there) == str(going.counted()[there]).encode()
    finally:
        source.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", target_name)
        target.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.identity(place))
        keys = target.ask("CLUSTER", "GETKEYSINSLOT", slot, 10)
        target.ask("MIGRATE", "127.0.0.1", source.port, "", 0, 1000, "KEYS", *keys)
        for server in (source, target):
            server.ask("CLUSTER", "SETSLOT", slot, "NODE", cluster.identity(place))


async def test_several_keys_of_a_slot_that_is_parted_are_refused_and_not_counted(
    cluster: RedisCluster, connected: Connect
):
    """The weakness that the module states: TRYAGAIN, until the slot has moved."""
    redis = connected(type="cluster", url=cluster.url)
    both = ("{parted}a", "{parted}b")
    place, slot = cluster.master_of(both[0]), slot_of(both[0])
    target = next(
        other for other in range(2 * MASTERS) if other != place and cluster.role(other) == "master"
    )
    assert await redis.call_script(COUNT, [count(both[0])]) == [1]
    servers = cluster.servers
    servers[target].ask("CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.identity(place))
    servers[place].ask("CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.identity(target))
    try:
        (fault,) = await redis.call_script(COUNT, [count(both[0])._replace(keys=both)])
        assert isinstance(fault, exceptions.TryAgainError)
    finally:
        for at in (place, target):
            servers[at].ask("CLUSTER", "SETSLOT", slot, "STABLE")
    assert await redis.call_script(COUNT, [count(both[0])._replace(keys=both)]) == [2]


async def test_slots_without_a_server_fail_their_own_calls_alone(
    cluster: RedisCluster, connected: Connect
):
    place = cluster.master_of(KEYS[0])
    own = keys_of(cluster, place)
    async with on_a_cluster(cluster, connected) as (redis, going):
        pair = (place, (place + MASTERS) % (2 * MASTERS))
        for at in reversed(pair):
            cluster.servers[at].kill()
        await going.failing("its slots fail")
        known = len(going.turns)
        await until(lambda: len(going.turns) > known + 100, "the others go on")
        assert failed(going) == own
        with pytest.raises((exceptions.RedisError, TimeoutError)):
            await redis.ping()
        await asyncio.to_thread(cluster.settle)
        await going.recovery_seconds("cluster: a pair was gone", since=time.monotonic())


async def test_a_cluster_that_was_gone_as_a_whole_is_found_again(
    cluster: RedisCluster, connected: Connect
):
    async with on_a_cluster(cluster, connected) as (_, going):
        for server in cluster.servers:
            server.kill()
        await going.failing("all calls fail")
        await asyncio.to_thread(cluster.settle)
        await going.recovery_seconds("cluster: all killed and started", since=time.monotonic())


async def test_one_address_that_answers_is_enough_to_begin(
    cluster: RedisCluster, connected: Connect
):
    cluster.servers[0].pause()
    try:
        redis = connected(type="cluster", url=cluster.url, time_limit_seconds=LIMIT_SECONDS)
        key = next(key for key in KEYS if slot_of(key) > 6000)
        began = asyncio.get_running_loop().time()
        (answer,) = await redis.call_script(COUNT, [count(key)])
        assert answer == 1
        assert asyncio.get_running_loop().time() - began < LIMIT_SECONDS + LATE_SECONDS
    finally:
        cluster.servers[0].resume()


async def test_keys_of_one_tag_are_one_group(cluster: RedisCluster, connected: Connect):
    redis = connected(type="cluster", url=cluster.url)
    for key in ("a{tag}b", "{tag}", "plain", "a{}b", "ä{ö}", "{{x}}"):
        assert redis.group_of(key) == cluster.servers[0].ask("CLUSTER", "KEYSLOT", key)
    assert redis.group_of("a{tag}b") == redis.group_of("{tag}")
