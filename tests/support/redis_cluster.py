"""A real Redis Cluster on loopback: three masters, a replica each, and short patience.

A server that is killed or paused for a second loses its slots to its replica; where there is none,
the other slots go on. Servers are told by their place: 0 to 2 own a third of the slots each at
first, and 3 to 5 are their replicas.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import redis

from meshwarden.adapters import ports
from meshwarden.core.faults import Misconfigured
from tests.support.ports import free_port, is_listening
from tests.support.processes import wait_until
from tests.support.redis_server import RedisServer

SLOTS = 16384
MASTERS = 3
NODE_TIMEOUT_MILLISECONDS = 1000
BUS_OFFSET = 10_000
_OPTIONS = (
    *("--cluster-enabled", "yes"),
    *("--cluster-node-timeout", str(NODE_TIMEOUT_MILLISECONDS)),
    *("--cluster-require-full-coverage", "no"),
    *("--cluster-replica-validity-factor", "0"),
    *("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"),
)


class RedisCluster:
    """The servers, and what a test does to them."""

    def __init__(self, servers: Sequence[RedisServer]) -> None:
        self.servers = servers
        self.url = ",".join(f"127.0.0.1:{server.port}" for server in servers[:MASTERS])

    @property
    def masters(self) -> list[RedisServer]:
        """The servers that own slots."""
        return [server for place, server in enumerate(self.servers) if self.role(place) == "master"]

    def identity(self, place: int) -> str:
        """The name that a server has in the cluster."""
        return str(self.servers[place].ask("CLUSTER", "MYID"))

    def master_of(self, key: str) -> int:
        """The place of the server that counts `key`: its master that answers, and is one."""
        slot = int(str(self.servers[0].ask("CLUSTER", "KEYSLOT", key)))
        third = min(slot // (SLOTS // MASTERS), MASTERS - 1)
        masters = [place for place in (third, third + MASTERS) if self.role(place) == "master"]
        assert len(masters) == 1, f"{masters} are masters of {key}"
        return masters[0]

    def role(self, place: int) -> str:
        """master or slave; empty where the server doesn't run."""
        if not self.servers[place].is_running:
            return ""
        return str(self.servers[place].ask("ROLE")[0])

    def flush(self) -> None:
        """Forget every key."""
        for place in range(len(self.servers)):
            if self.role(place) == "master":
                self.servers[place].ask("FLUSHALL")

    def settle(self) -> None:
        """Run every server, and return once each slot has a master, and each master a replica."""
        for server in self.servers:
            if not server.is_running:
                server.start()
        wait_until(self._is_whole, "the cluster is whole", limit_seconds=20)

    def _is_whole(self) -> bool:
        return all(self._is_content(place) for place in range(len(self.servers)))

    def _is_content(self, place: int) -> bool:
        try:
            nodes = str(self.servers[place].ask("CLUSTER", "NODES"))
            state = str(self.servers[place].ask("CLUSTER", "INFO"))
            role = self.servers[place].ask("ROLE")
        except redis.RedisError:
            return False
        assert isinstance(role, list)
        is_linked = role[3] == "connected" if role[0] == "slave" else bool(role[2])
        is_known = nodes.count("\n") == len(self.servers) and "fail" not in nodes
        return is_linked and is_known and "handshake" not in nodes and "state:ok" in state

    def _join(self) -> None:
        """Make one cluster of servers that know nothing of each other."""
        for place in range(MASTERS):
            first, last = place * SLOTS // MASTERS, (place + 1) * SLOTS // MASTERS
            self.servers[place].ask("CLUSTER", "ADDSLOTS", *range(first, last))
        for place, server in enumerate(self.servers):
            self.servers[place].ask("CLUSTER", "SET-CONFIG-EPOCH", place + 1)
            self.servers[0].ask("CLUSTER", "MEET", "127.0.0.1", server.port)
        names = [self.identity(place) for place in range(len(self.servers))]
        for place in range(MASTERS, len(self.servers)):
            wait_until(
                lambda place=place: (
                    names[place - MASTERS] in str(self.servers[place].ask("CLUSTER", "NODES"))
                ),
                "a replica knows its master",
            )
            self.servers[place].ask("CLUSTER", "REPLICATE", names[place - MASTERS])


def _free_port() -> int:
    """A port that is free, as is the one of the cluster's own talk."""
    while True:
        port = free_port()
        try:
            ports.require_free("127.0.0.1", port + BUS_OFFSET)
        except Misconfigured:
            continue
        return port


@contextmanager
def running_cluster(
    *, options: Sequence[str] = (), binary: Path | None = None
) -> Iterator[RedisCluster]:
    """A cluster for the length of the block."""
    # In memory: a server that writes what it knows of the cluster waits for the disk, and answers
    # nobody meanwhile.
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a new folder in it
    with TemporaryDirectory(prefix="meshwarden-test-", dir=memory) as folder:
        servers = []
        for place in range(2 * MASTERS):
            own = Path(folder) / str(place)
            own.mkdir()
            server = RedisServer(
                own, options=(*_OPTIONS, *options), binary=binary, port=_free_port()
            )
            servers.append(server)
        try:
            for server in servers:
                server.begin()
            for server in servers:
                wait_until(lambda server=server: is_listening(server.port), "a server listens")
            cluster = RedisCluster(servers)
            cluster._join()
            cluster.settle()
            yield cluster
        finally:
            for server in servers:
                server.kill()
