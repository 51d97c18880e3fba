"""What holds for Redis however many servers it has, in both versions of its protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from redis import exceptions

from meshwarden.adapters.redis_topology import Redis
from tests.stores.conftest import Connect
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_sentinel import RedisTrio
from tests.support.redis_server import RedisServer
from tests.support.redis_traffic import COUNT, count

KEYS = [f"key{number}" for number in range(300)]


class Subject(NamedTuple):
    """A Redis under test, and the servers that count."""

    redis: Redis
    masters: Sequence[RedisServer]


@pytest.fixture(
    params=["single-2", "single-3", "sentinel-2", "sentinel-3", "cluster-2", "cluster-3"]
)
def subject(request: pytest.FixtureRequest, connected: Connect) -> Subject:
    kind, _, protocol = request.param.partition("-")
    running = request.getfixturevalue({"sentinel": "trio"}.get(kind, kind))
    if isinstance(running, RedisServer):
        masters = [running]
    elif isinstance(running, RedisTrio):
        masters = [running.master]
    else:
        assert isinstance(running, RedisCluster)
        masters = running.masters
    return Subject(connected(type=kind, url=running.url, protocol=int(protocol)), masters)


async def test_each_call_has_its_own_answer_in_order(subject: Subject):
    calls = [count(key, hits) for hits, key in enumerate(KEYS, start=1)]
    assert await subject.redis.call_script(COUNT, calls) == list(range(1, len(KEYS) + 1))
    assert await subject.redis.command("GET", KEYS[6]) == b"7"
    assert await subject.redis.call_script(COUNT, []) == []


async def test_calls_at_once_are_counted_each_once(subject: Subject):
    calls = (subject.redis.call_script(COUNT, [count("one"), count("other")]) for _ in range(90))
    answers = await asyncio.gather(*calls)
    for position in (0, 1):
        assert sorted(answer[position] for answer in answers) == list(range(1, 91))


async def test_all_calls_share_one_pipeline_a_server(subject: Subject):
    """The servers see as many calls as there are, and one connection each brings them."""
    await subject.redis.ping()
    await subject.redis.call_script(COUNT, [count(key) for key in KEYS])
    before = [server.command_counts() for server in subject.masters]
    opened = subject.redis.connections()["cx_total"]
    await subject.redis.call_script(COUNT, [count(key) for key in KEYS])
    after = [server.command_counts() for server in subject.masters]
    calls = [now["evalsha"] - then["evalsha"] for now, then in zip(after, before, strict=True)]
    assert sum(calls) == len(KEYS)
    assert subject.redis.connections()["cx_total"] == opened
    assert subject.redis.connections()["cx_active"] == len(subject.masters)


async def test_a_script_that_the_servers_forgot_is_sent_again_and_counts_once(subject: Subject):
    await subject.redis.call_script(COUNT, [count(key) for key in KEYS])
    for server in subject.masters:
        server.ask("SCRIPT", "FLUSH")
    answers = await subject.redis.call_script(COUNT, [count(key) for key in KEYS])
    assert answers == [2] * len(KEYS)


async def test_what_a_server_refuses_fails_its_own_call_alone(subject: Subject):
    await subject.redis.command("RPUSH", "odd", "x")
    sound, odd, other = await subject.redis.call_script(
        COUNT, [count("sound"), count("odd"), count("other")]
    )
    assert (sound, other) == (1, 1)
    assert isinstance(odd, exceptions.ResponseError)
    with pytest.raises(exceptions.ResponseError):
        await subject.redis.command("INCR", "odd")


async def test_the_answer_to_a_call_given_up_is_not_anothers(subject: Subject):
    await subject.redis.call_script(COUNT, [count(key) for key in KEYS])
    for server in subject.masters:
        server.pause()
    try:
        given_up = asyncio.create_task(subject.redis.call_script(COUNT, [count("late", 70)]))
        await asyncio.wait([given_up], timeout=0.05)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
    finally:
        for server in subject.masters:
            server.resume()
    answers = await subject.redis.call_script(COUNT, [count(key) for key in KEYS])
    assert answers == [2] * len(KEYS)


async def test_a_connection_that_the_server_closed_costs_no_call(subject: Subject):
    """As one does that has a `timeout` for idle clients."""
    await subject.redis.call_script(COUNT, [count(key) for key in KEYS])
    for server in subject.masters:
        server.ask("CLIENT", "KILL", "TYPE", "normal")
    for _ in range(3):  # the event loop hears of it
        await asyncio.sleep(0)
    answers = await subject.redis.call_script(COUNT, [count(key) for key in KEYS])
    assert answers == [2] * len(KEYS)


async def test_ping_asks_every_server_that_counts(subject: Subject):
    await subject.redis.ping()
    before = [server.command_counts().get("ping", 0) for server in subject.masters]
    await subject.redis.ping()
    after = [server.command_counts()["ping"] for server in subject.masters]
    assert all(now > then for now, then in zip(after, before, strict=True))
