"""A real master, its replica and three sentinels on loopback; a second of silence is death."""

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
QUORUM = 2
DOWN_AFTER_MILLISECONDS = 1000
_OPTIONS = ("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")
_OPTIONS_OF_THE_MASTER = {
    "down-after-milliseconds": DOWN_AFTER_MILLISECONDS,
    "failover-timeout": 3000,
}


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
        """The server that says that it is the replica, and has its master's data."""
        (found,) = (server for server in self.servers if role(server) == "slave")
        return found

    def named_by_most(self) -> RedisServer:
        """The server that most of the running sentinels name."""
        ports = [
            sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)[1]
            for sentinel in self.sentinels
            if sentinel.is_running
        ]
        port = int(max(ports, key=ports.count))
        return next(server for server in self.servers if server.port == port)

    def fail_over(self) -> None:
        """Have the sentinels change master and replica, as before a planned restart."""
        self.sentinels[0].ask("SENTINEL", "FAILOVER", NAME)

    def settle(self) -> None:
        """Run everything, and return once all sentinels know one master with one replica."""
        for server in (*self.servers, *self.sentinels):
            if not server.is_running:
                server.start()
        if not self._is_whole():
            self._mend()
        wait_until(
            self._is_whole, "master, replica and sentinels know each other", limit_seconds=60
        )

    def _mend(self) -> None:
        """Do at once what the sentinels would do by themselves in ten seconds."""
        master = self.named_by_most()
        for server in self.servers:
            if server is not master:
                server.ask("REPLICAOF", "127.0.0.1", master.port)
        master.ask("REPLICAOF", "NO", "ONE")
        wait_until(self._has_both_roles, "the replica is linked", limit_seconds=30)
        self.watch(master)

    def watch(self, master: RedisServer) -> None:
        """Have the sentinels watch this master, and forget what they knew."""
        for sentinel in self.sentinels:
            sentinel.ask("SENTINEL", "REMOVE", NAME)
            sentinel.ask("SENTINEL", "MONITOR", NAME, "127.0.0.1", master.port, QUORUM)
            for option, value in _OPTIONS_OF_THE_MASTER.items():
                sentinel.ask("SENTINEL", "SET", NAME, option, value)

    def _has_both_roles(self) -> bool:
        return {role(server) for server in self.servers} == {"master", "slave"}

    def _is_whole(self) -> bool:
        roles = {role(server): server for server in self.servers}
        if set(roles) != {"master", "slave"}:
            return False
        try:
            views = [_view(sentinel) for sentinel in self.sentinels]
        except redis.RedisError:
            return False
        return all(
            view["port"] == str(roles["master"].port)
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
    lines = [f"sentinel monitor {NAME} 127.0.0.1 {master.port} {QUORUM}"]
    lines += [f"sentinel {name} {NAME} {value}" for name, value in _OPTIONS_OF_THE_MASTER.items()]
    configuration.write_text("\n".join(lines) + "\n")
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
