"""Redis, however many servers it has: one server, a master that sentinels watch, or a Cluster.

    connect(settings) -> Redis.call_script -> a pipeline a node, nodes in parallel
                                              redis_single | redis_sentinel | redis_cluster

What every topology promises: a call ends within the time limit; a failed node fails its own calls
alone; nothing that may have been executed is sent again; a failover is found out by itself.
Commands are those of Redis 6.2, which Valkey knows, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from meshwarden.adapters.redis_cluster import ClusterRedis
from meshwarden.adapters.redis_node import Script, ScriptCall
from meshwarden.adapters.redis_sentinel import SentinelRedis
from meshwarden.adapters.redis_settings import RedisSettings
from meshwarden.adapters.redis_single import SingleRedis

__all__ = ["Redis", "Script", "ScriptCall", "connect"]


class Redis(Protocol):
    """What a service may ask of Redis. Errors are the library's: `redis_client.LIBRARY_ERRORS`, of
    which `TimeoutError` is one.
    """

    @property
    def time_limit_seconds(self) -> float:
        """Each call ends within it."""
        ...

    def group_of(self, key: str) -> int:
        """Keys of one group may stand in one call: always 0, or the Cluster's hash slot."""
        ...

    def node_of(self, group: int) -> str:
        """The name of the node that holds `group` now; the same for all where there is one."""
        ...

    def nodes(self) -> frozenset[str]:
        """The names that `node_of` may give now."""
        ...

    async def call_script(self, script: Script, calls: Sequence[ScriptCall]) -> list[Any]:
        """Each call's answer, or the exception that it met; in one round trip a node, save where
        a server doesn't know the script yet, or sends us on to another.

        Ends within the time limit. An exception leaves open whether the call was executed.
        """
        ...

    async def command(self, *words: str | int) -> Any:
        """The answer of one command, whose second word is its key. Raises what it met."""
        ...

    async def ping(self) -> None:
        """Return when every server that would be asked answers. Raises what the first met that
        doesn't.
        """
        ...

    async def close(self) -> None:
        """Close the connections; calls under way are still answered."""
        ...

    def connections(self) -> Mapping[str, int]:
        """`cx_active`, `cx_total`, `cx_local_close`, as envoyproxy/ratelimit counts them."""
        ...


def connect(settings: RedisSettings) -> Redis:
    """The Redis of these settings; connections are made as they are needed.

    Raises `Misconfigured` with every TLS file that can't be used.
    """
    kinds: dict[str, type[SingleRedis | SentinelRedis | ClusterRedis]] = {
        "single": SingleRedis,
        "sentinel": SentinelRedis,
        "cluster": ClusterRedis,
    }
    return kinds[settings.type](settings)
