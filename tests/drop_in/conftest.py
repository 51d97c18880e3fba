"""Fixtures that the tests beside the real envoyproxy/ratelimit share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.redis_server import RedisServer, running_redis


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    """One Redis for all; what the two services count in it has names of its own."""
    with running_redis() as server:
        yield server
