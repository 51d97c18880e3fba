"""A master that sentinels watch is replaced, dies, or is stuck, while calls go on."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager

import pytest
from redis import exceptions

from meshwarden.adapters.redis_topology import Redis
from tests.stores.conftest import Connect
from tests.support.processes import until
from tests.support.redis_sentinel import DOWN_AFTER_MILLISECONDS, NAME, RedisTrio
from tests.support.redis_server import RedisServer
from tests.support.redis_traffic import COUNT, LATE_SECONDS, Traffic, count, traffic_within

LIMIT_SECONDS = 0.1
RECOVERY_SECONDS = 5.0
KEYS = ["a", "b"]


async def until_replaced(trio: RedisTrio, old: RedisServer) -> None:
    await until(lambda: trio.named_by_most() is not old, "the sentinels name another master")


def behind_sentinels(
    trio: RedisTrio, connected: Connect
) -> AbstractAsyncContextManager[tuple[Redis, Traffic]]:
    """Traffic on the master, whoever that is."""
    return traffic_within(LIMIT_SECONDS, connected, keys=KEYS, type="sentinel", url=trio.url)


def assert_counted_once(
    going: Traffic, master: RedisServer, *, before: float, after: float
) -> None:
    """No try counts for two; what was told to be counted is lost with a master only where it fell
    into the time from `REPLICA_LAG_SECONDS` before `before` until `after`.
    """
    kept = going.kept(before=before, after=after)
    for key, tried in going.tried().items():
        assert 0 < kept[key] <= int(master.ask("GET", key) or 0) <= tried


async def test_a_planned_change_of_masters_is_followed_without_a_fault(
    trio: RedisTrio, connected: Connect
):
    """Our next ping finds it out: until then the old master counts, for nobody."""
    async with behind_sentinels(trio, connected) as (redis, going):
        began, old = time.monotonic(), trio.master
        trio.fail_over()
        await until_replaced(trio, old)
        await redis.ping()
        followed, new = time.monotonic(), trio.named_by_most()
        known = int(new.ask("GET", KEYS[0]))
        await until(lambda: int(new.ask("GET", KEYS[0])) > known + 20, "the new master counts")
        assert going.failures == []
    assert_counted_once(going, new, before=began, after=followed)


async def test_a_master_that_dies_is_replaced(trio: RedisTrio, connected: Connect):
    async with behind_sentinels(trio, connected) as (_, going):
        began, old = time.monotonic(), trio.master
        old.kill()
        dead = time.monotonic()
        await until_replaced(trio, old)
        await going.recovery_seconds("sentinel: master killed", since=began)
    assert_counted_once(going, trio.named_by_most(), before=began, after=dead)


async def test_a_stuck_master_is_replaced_and_never_asked_again(
    trio: RedisTrio, connected: Connect
):
    async with behind_sentinels(trio, connected) as (_, going):
        began, old = time.monotonic(), trio.master
        old.pause()
        stuck = time.monotonic()
        try:
            await until_replaced(trio, old)
            await going.recovery_seconds("sentinel: master paused", since=began)
        finally:
            old.resume()
        resumed = len(going.turns)
        await until(lambda: len(going.turns) > resumed + 20, "calls go on")
        assert [turn for turn in going.turns[resumed:] if not turn.is_whole] == []
    assert_counted_once(going, trio.named_by_most(), before=began, after=stuck)


async def test_without_any_sentinel_the_master_goes_on_counting(
    trio: RedisTrio, connected: Connect
):
    """Also where the connection to it is lost meanwhile."""
    async with behind_sentinels(trio, connected) as (redis, going):
        for sentinel in trio.sentinels:
            sentinel.kill()
        lost_at = len(going.turns)
        trio.master.ask("CLIENT", "KILL", "TYPE", "normal")
        await until(lambda: len(going.turns) > lost_at + 20, "calls go on")
        await redis.ping()
        # The call that was under way when its connection was closed may be lost.
        assert len(going.failures) <= 1


async def test_silent_sentinels_leave_time_to_ask_the_master(trio: RedisTrio, connected: Connect):
    """Two of three connect and say nothing; the third's word is taken, within the limit."""
    redis = connected(type="sentinel", url=trio.url, time_limit_seconds=LIMIT_SECONDS)
    for sentinel in trio.sentinels[:2]:
        sentinel.pause()
    try:
        began = time.monotonic()
        assert await redis.call_script(COUNT, [count("a")]) == [1]
        assert time.monotonic() - began < LIMIT_SECONDS + LATE_SECONDS
    finally:
        for sentinel in trio.sentinels[:2]:
            sentinel.resume()


async def test_a_master_that_still_answers_but_was_replaced_is_left(
    trio: RedisTrio, connected: Connect
):
    """The sentinels lost sight of it, we did not: `ping`, every second, finds out."""
    redis = connected(type="sentinel", url=trio.url)
    assert await redis.call_script(COUNT, [count("a")]) == [1]
    old, new = trio.master, trio.replica
    await asyncio.to_thread(part_company, trio)
    trio.watch(new)
    new.ask("SET", "a", 10)
    await redis.ping()
    assert old.ask("ROLE")[0] == "master", "it would still count"
    assert await redis.call_script(COUNT, [count("a")]) == [11]


def part_company(trio: RedisTrio) -> None:
    """Make the replica a master of its own, of which the sentinels know nothing yet."""
    replica = trio.replica
    for sentinel in trio.sentinels:
        sentinel.kill()
    replica.ask("REPLICAOF", "NO", "ONE")
    for sentinel in trio.sentinels:
        sentinel.start()


async def test_a_replica_that_sentinels_take_for_the_master_is_not_believed(
    trio: RedisTrio, connected: Connect
):
    """What they say may be old: who says of itself that it is the master is asked."""
    redis = connected(type="sentinel", url=trio.url)
    assert await redis.call_script(COUNT, [count("a")]) == [1]
    master = trio.master
    trio.watch(trio.replica)
    await redis.ping()
    assert await redis.call_script(COUNT, [count("a")]) == [2]
    assert master.ask("GET", "a") == "2"


async def test_a_name_that_no_sentinel_knows_is_told(trio: RedisTrio, connected: Connect):
    redis = connected(type="sentinel", url=trio.url.replace(NAME, "unknown"))
    (fault,) = await redis.call_script(COUNT, [count("a")])
    assert isinstance(fault, exceptions.ConnectionError)
    assert "unknown" in str(fault)
    with pytest.raises(exceptions.ConnectionError):
        await redis.ping()


def test_the_sentinels_patience_fits_the_promise():
    assert DOWN_AFTER_MILLISECONDS / 1000 < RECOVERY_SECONDS
