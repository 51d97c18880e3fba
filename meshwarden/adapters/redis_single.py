"""One Redis server. Where a name in DNS moves to another server, the next connection follows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from meshwarden.adapters.redis_access import Access
from meshwarden.adapters.redis_node import (
    LOST,
    ConnectionCounts,
    Node,
    Script,
    ScriptCall,
    is_read_only,
)
from meshwarden.adapters.redis_settings import RedisSettings


class SingleRedis:
    """As `redis_topology.Redis` says. Raises `Misconfigured` where TLS files can't be used."""

    def __init__(self, settings: RedisSettings) -> None:
        self.time_limit_seconds = settings.time_limit_seconds
        self._counts = ConnectionCounts()
        access = Access(settings)
        url = settings.url
        self._node = Node(url, connection=lambda: access.to_url(url), counts=self._counts)

    def group_of(self, key: str) -> int:
        del key
        return 0

    def node_of(self, group: int) -> str:
        del group
        return "server"

    def nodes(self) -> frozenset[str]:
        return frozenset(["server"])

    async def call_script(self, script: Script, calls: Sequence[ScriptCall]) -> list[Any]:
        try:
            answers = await self._node.call_script(script, calls, deadline=self._deadline())
        except LOST as error:
            return [error] * len(calls)
        if any(is_read_only(answer) for answer in answers):
            # A master that became a replica; its name may lead to the new master by now.
            await self._node.close_free()
        return answers

    async def command(self, *words: str | int) -> Any:
        (answer,) = await self._node.exchange([words], deadline=self._deadline())
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def ping(self) -> None:
        await self.command("PING")

    async def close(self) -> None:
        await self._node.retire()

    def connections(self) -> Mapping[str, int]:
        return self._counts.named()

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self.time_limit_seconds
