"""A Redis Cluster's hash slots: which key is in which, and which server owns it.

Source: the Redis Cluster specification; `CLUSTER SLOTS`, which Redis 6.2, 7 and Valkey answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from meshwarden.adapters.redis_settings import Address


class Topology(NamedTuple):
    """Each slot's master, None where it has none, and every server that was named."""

    owners: list[Address | None]
    servers: list[Address]


def slot_of(key: str) -> int:
    """The slot of a key, of its part in braces where it has one."""
    return key_slot(key.encode())


def topology(answer: Sequence[Any], *, asked: Address) -> Topology:
    """What `CLUSTER SLOTS` answered. A server that doesn't know its own name is the one `asked`.

    Raises `ValueError`, `TypeError` or `IndexError` where it is no such answer.
    """
    owners: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
    servers: dict[Address, None] = {}
    for first, last, *nodes in answer:
        addresses = [_address(node, asked) for node in nodes]
        servers.update(dict.fromkeys(addresses))
        owners[first : last + 1] = [addresses[0]] * (last + 1 - first)
    if len(owners) != REDIS_CLUSTER_HASH_SLOTS:
        raise ValueError("slots out of range")
    return Topology(owners, list(servers))


def _address(node: Sequence[Any], asked: Address) -> Address:
    host = node[0].decode() if node[0] else ""
    return Address(host if host not in ("", "?") else asked.host, int(node[1]))
