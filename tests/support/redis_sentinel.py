"""A real master, its replica and three sentinels on loopback; half a second of silence is death."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import redis

from tests.support.processes import wait_until
from tests.support.redis_server import RedisServer

NAME = "counters"
SENTINELS = 3
DOWN_AFTER_MILLISECONDS = 500
_OPTIONS = ("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")
_SENTINEL = f"""
sentinel monitor {NAME} 127.0.0.1 {{port}} 2
sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MILLISECONDS}
sentinel failover-timeout {NAME} 3000
"""


class RedisTrio:
    """The two servers, the three sentinels, and what a test does to them."""

    def __init__(self, servers: list[RedisServer], sentinels: list[RedisServer]) -> None:
        self.servers = servers
        self.sentinels = sentinels
        addresses = [f"127.0.0.1:{sentinel.port}" for sentinel in sentinels]
        self.url = ",".join([NAME, *addresses])

    @property
    def master(self) -> RedisServer:
        """The server that says that it is the master."""
        (found,) = (server for server in self.servers if role(server) == "master")
        return found

    @property
    def replica(self) -> RedisServer:
        (found,) = (server for server in self.servers if role(server) == "slave")
        return found

    def fail_over(self) -> None:
        """Have the sentinels change master and replica, as before a planned restart."""
        self.sentinels[0].ask("SENTINEL", "FAILOVER", NAME)

    def settle(self) -> None:
        """Run everything, and return once all sentinels know one master with one replica."""
        for server in (*self.servers, *self.sentinels):
            if not server.is_running:
                server.start()
        wait_until(
            self._is_whole, "master, replica and sentinels know each other", limit_seconds=20
        )

    def _is_whole(self) -> bool:
        try:
            views = [_view(sentinel) for sentinel in self.sentinels]
        except redis.RedisError:
            return False
        roles = sorted(role(server) for server in self.servers)
        return roles == ["master", "slave"] and all(
            view["port"] == str(self.master.port)
            and view["num-slaves"] == "1"
            and view["num-other-sentinels"] == str(SENTINELS - 1)
            and view["flags"] == "master"
            and view["replica-flags"] == "slave"
            for view in views
        )


def role(server: RedisServer) -> str:
    """master, or slave once it is one that has its master's data; else empty."""
    if not server.is_running:
        return ""
    try:
        answer = server.ask("ROLE")
    except redis.RedisError:
        return ""
    return "" if answer[0] == "slave" and answer[3] != "connected" else str(answer[0])


def _view(sentinel: RedisServer) -> dict[str, str]:
    answer = sentinel.ask("SENTINEL", "MASTER", NAME)
    replicas = sentinel.ask("SENTINEL", "REPLICAS", NAME)
    flags = _named(replicas[0])["flags"] if replicas else ""
    return {**_named(answer), "replica-flags": flags}


def _named(answer: Any) -> dict[str, str]:
    """Names and values, which the protocol's second version sends one after the other."""
    if isinstance(answer, dict):
        return answer
    return dict(zip(answer[::2], answer[1::2], strict=True))


def _sentinel(
    folder: Path, number: int, master: RedisServer, *, binary: Path | None
) -> RedisServer:
    configuration = folder / f"sentinel{number}.conf"
    configuration.write_text(_SENTINEL.format(port=master.port))
    return RedisServer(folder, options=["--sentinel"], binary=binary, configuration=configuration)


@contextmanager
def running_trio(*, binary: Path | None = None) -> Iterator[RedisTrio]:
    """The trio and what it watches, for the length of the block."""
    with TemporaryDirectory(prefix="meshwarden-test-") as name:
        folder = Path(name)
        master = RedisServer(folder, options=_OPTIONS, binary=binary)
        follows = ("--replicaof", "127.0.0.1", str(master.port))
        replica = RedisServer(folder, options=(*_OPTIONS, *follows), binary=binary)
        sentinels = [
            _sentinel(folder, number, master, binary=binary) for number in range(SENTINELS)
        ]
        everything = [master, replica, *sentinels]
        try:
            for server in everything:
                server.start()
            trio = RedisTrio([master, replica], sentinels)
            trio.settle()
            yield trio
        finally:
            for server in everything:
                server.kill()
