"""Fixtures that the tests beside the real envoyproxy/ratelimit share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.redis_server import RedisServer, running_redis
from tests.support.side_by_side import PLAIN_LIMITS, Pair, limits_folder, side_by_side


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    """One Redis for all; what the two services count in it has names of its own."""
    with running_redis() as server:
        yield server


@pytest.fixture(scope="session")
def pair(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Both with `PLAIN_LIMITS` and no variable that changes an answer."""
    root = tmp_path_factory.mktemp("plain")
    (limits_folder(root) / "limits.yaml").write_text(PLAIN_LIMITS)
    with side_by_side(root, redis) as running:
        yield running
