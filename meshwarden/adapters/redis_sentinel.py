"""A master that sentinels watch: who it is, they say; that it is one, it says itself (ROLE).

    no master known -> all sentinels are asked at once -> what most say -> ROLE -> the master
    refused, cut, silent, READONLY -> no master known

`ping`, which a service calls every second, also asks the sentinels, so a master that still answers
but was replaced is left within a second. Where no sentinel answers, the last master is asked.
Known weakness: what was counted in the second before a failover may be lost with the old master;
`min-replicas-to-write` on Redis' side bounds it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from redis import exceptions

from meshwarden.adapters.redis_access import Access
from meshwarden.adapters.redis_node import (
    LOST,
    ConnectionCounts,
    Node,
    Script,
    ScriptCall,
    Words,
    is_read_only,
)
from meshwarden.adapters.redis_settings import Address, RedisSettings
from meshwarden.adapters.shared_task import SharedTask

SENTINELS_SHARE = 0.4
"""Of the time limit: a sentinel that is silent for longer has no vote."""


class SentinelRedis:
    """As `redis_topology.Redis` says. Raises `Misconfigured` where TLS files can't be used."""

    def __init__(self, settings: RedisSettings) -> None:
        self._name = settings.sentinel_master
        self.time_limit_seconds = settings.time_limit_seconds
        self._counts = ConnectionCounts()
        self._access = Access(settings)
        to_sentinel = Access(settings, auth=settings.sentinel_auth)
        # The reference counts connections to the master alone.
        of_sentinels = ConnectionCounts()
        self._sentinels = [
            Node(
                str(address),
                connection=partial(to_sentinel.to_address, address),
                counts=of_sentinels,
            )
            for address in settings.addresses
        ]
        self._master: Node | None = None
        self._last_address: Address | None = None
        self._search = SharedTask(self._find_master)

    def group_of(self, key: str) -> int:
        del key
        return 0

    def node_of(self, group: int) -> str:
        del group
        return "master"

    def nodes(self) -> frozenset[str]:
        return frozenset(["master"])

    async def call_script(self, script: Script, calls: Sequence[ScriptCall]) -> list[Any]:
        deadline = self._deadline()
        answers: list[Any] = []
        for is_last in (False, True):
            try:
                master = await self._known_master(deadline)
            except LOST as error:
                return [error] * len(calls)
            try:
                answers = await master.call_script(script, calls, deadline=deadline)
            except LOST as error:
                answers = [error] * len(calls)
                is_unheard = not isinstance(error, TimeoutError)
            else:
                is_unheard = all(is_read_only(answer) for answer in answers)
            if any(_tells_of_another(answer) for answer in answers):
                await self._forget(master)
            if is_last or not is_unheard:
                break
        return answers

    async def command(self, *words: str | int) -> Any:
        return await self._ask_master(words, deadline=self._deadline())

    async def ping(self) -> None:
        deadline = self._deadline()
        if self._master is not None:
            votes = await self._votes(asyncio.get_running_loop().time() + self._vote_seconds)
            if votes and votes[0] != self._last_address:
                await self._forget(self._master)
        await self._ask_master(("PING",), deadline=deadline)

    async def close(self) -> None:
        await self._search.close()
        for node in (*self._sentinels, *([self._master] if self._master else [])):
            await node.retire()

    def connections(self) -> Mapping[str, int]:
        return self._counts.named()

    @property
    def _vote_seconds(self) -> float:
        return self.time_limit_seconds * SENTINELS_SHARE

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self.time_limit_seconds

    async def _ask_master(self, words: Words, *, deadline: float) -> Any:
        master = await self._known_master(deadline)
        try:
            (answer,) = await master.exchange([words], deadline=deadline)
        except LOST as error:
            answer = error
        if _tells_of_another(answer):
            await self._forget(master)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def _known_master(self, deadline: float) -> Node:
        if self._master is not None:
            return self._master
        async with asyncio.timeout_at(deadline):
            return await self._search.outcome()

    async def _forget(self, master: Node) -> None:
        if master is self._master:
            self._master = None
            await master.retire()

    async def _find_master(self) -> Node:
        """The first that says it is the master, of those whom the sentinels and our memory name.

        Raises what the last of them met, or what a sentinel met where none is named.
        """
        loop = asyncio.get_running_loop()
        fault: BaseException = exceptions.ConnectionError(
            f"no sentinel of {self._name!r} answers, or they know no such master"
        )
        candidates = list(await self._votes(loop.time() + self._vote_seconds))
        if self._last_address is not None and self._last_address not in candidates:
            candidates.append(self._last_address)
        for address in candidates:
            node = Node(
                str(address),
                connection=partial(self._access.to_address, address),
                counts=self._counts,
                has_to_be_master=True,
            )
            try:
                await node.open(deadline=self._deadline())
            except LOST as error:
                fault = error
            else:
                self._master, self._last_address = node, address
                return node
        raise fault

    async def _votes(self, deadline: float) -> list[Address]:
        """The addresses that sentinels name, most votes first; as soon as most of them agree."""
        asked = [asyncio.create_task(self._vote(node, deadline)) for node in self._sentinels]
        votes: Counter[Address] = Counter()
        try:
            for answered in asyncio.as_completed(asked):
                address = await answered
                if address is not None:
                    votes[address] += 1
                    if votes[address] > len(asked) // 2:
                        break
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return [address for address, _ in votes.most_common()]

    async def _vote(self, sentinel: Node, deadline: float) -> Address | None:
        words = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name)
        try:
            (answer,) = await sentinel.exchange([words], deadline=deadline)
            host, port = answer
            return Address(host.decode(), int(port))
        except (*LOST, TypeError, ValueError):
            return None


def _tells_of_another(answer: object) -> bool:
    """Whether the master may have been replaced: it is lost, silent, or a replica by now."""
    if isinstance(answer, exceptions.ResponseError):
        return is_read_only(answer)
    return isinstance(answer, LOST) or is_read_only(answer)
