"""The Redis servers that the tests of this tier share: one alone, a sentinel trio, a Cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import uvloop

from meshwarden.adapters.redis_settings import RedisSettings
from meshwarden.adapters.redis_topology import Redis, connect
from tests.support.redis_cluster import RedisCluster, running_cluster
from tests.support.redis_sentinel import RedisTrio, running_trio
from tests.support.redis_server import RedisServer, running_redis

Connect = Callable[..., Redis]
PATIENT_SECONDS = 2.0


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loop that the services run in."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def lone_server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture(scope="session")
def shared_trio() -> Iterator[RedisTrio]:
    with running_trio() as trio:
        yield trio


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[RedisCluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def single(lone_server: RedisServer) -> RedisServer:
    """One server, empty."""
    if not lone_server.is_running:
        lone_server.start()
    lone_server.ask("FLUSHALL")
    return lone_server


@pytest.fixture
def trio(shared_trio: RedisTrio) -> RedisTrio:
    """A master, its replica and three sentinels that know each other; empty."""
    shared_trio.settle()
    shared_trio.master.ask("FLUSHALL")
    return shared_trio


@pytest.fixture
def cluster(shared_cluster: RedisCluster) -> RedisCluster:
    """Three masters with a replica each, all slots served; empty."""
    shared_cluster.settle()
    shared_cluster.flush()
    return shared_cluster


@pytest.fixture
async def connected() -> AsyncIterator[Connect]:
    """`connect`, with a second and more for each call; closed when the test ends."""
    opened: list[Redis] = []

    def open_one(**settings: object) -> Redis:
        given = {"time_limit_seconds": PATIENT_SECONDS, **settings}
        opened.append(connect(RedisSettings.model_validate(given)))
        return opened[-1]

    yield open_one
    for redis in opened:
        await redis.close()
        assert redis.connections()["cx_active"] == 0
