"""A Redis Cluster: each call goes to the server that owns its slot, and where that sends it on.

    calls -> by owner -> one pipeline a server, all at once -> answers
               ^            MOVED, ASK, TRYAGAIN, nothing sent |
               +------------------ asked again ----------------+

A server that was silent for the time limit fails its calls at once until it answers, so that it
never holds up those of the others (`redis_cluster_map`). Known weakness: several keys of a slot
that is being moved are refused (TRYAGAIN) while some of them are on either side.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from redis import exceptions

from meshwarden.adapters.redis_cluster_map import ClusterMap
from meshwarden.adapters.redis_node import (
    LOST,
    Node,
    Script,
    ScriptCall,
    Words,
)
from meshwarden.adapters.redis_settings import Address, RedisSettings
from meshwarden.adapters.redis_slots import slot_of

TURNS_AT_MOST = 5
"""A call is sent to so many servers, one after the other; each but the last executed nothing."""

TRY_AGAIN_SECONDS = 0.01
_NOT_KNOWN = "unknown"
_ASKING: tuple[Words, ...] = (("ASKING",),)


class _Route(NamedTuple):
    address: Address | None
    is_for_once: bool = False


Send = Callable[[Node, Sequence[int], Sequence[Words], float], Awaitable[list[Any]]]
"""Sends the calls at these positions to a node: each after a prefix, until a deadline."""


class ClusterRedis:
    """As `redis_topology.Redis` says. Raises `Misconfigured` where TLS files can't be used."""

    def __init__(self, settings: RedisSettings) -> None:
        self.time_limit_seconds = settings.time_limit_seconds
        self._map = ClusterMap(settings)

    def group_of(self, key: str) -> int:
        return slot_of(key)

    def node_of(self, group: int) -> str:
        owner = self._map.owners[group] if self._map.owners else None
        return str(owner) if owner else _NOT_KNOWN

    def nodes(self) -> frozenset[str]:
        """Empty slots have no node; before the slots were read no node is known at all."""
        owners = set(self._map.owners) or {None}
        return frozenset(str(owner) if owner else _NOT_KNOWN for owner in owners)

    async def call_script(self, script: Script, calls: Sequence[ScriptCall]) -> list[Any]:
        async def send(
            node: Node, positions: Sequence[int], prefix: Sequence[Words], deadline: float
        ) -> list[Any]:
            chosen = [calls[position] for position in positions]
            return await node.call_script(script, chosen, deadline=deadline, prefix=prefix)

        return await self._ask([slot_of(call.keys[0]) for call in calls], send)

    async def command(self, *words: str | int) -> Any:
        async def send(
            node: Node, _positions: Sequence[int], prefix: Sequence[Words], deadline: float
        ) -> list[Any]:
            return (await node.exchange([*prefix, words], deadline=deadline))[len(prefix) :]

        (answer,) = await self._ask([slot_of(str(words[1]))], send)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def ping(self) -> None:
        deadline = self._map.deadline()
        if not self._map.owners:
            await self._map.refreshed(deadline)
        owners = set(self._map.owners)
        if None in owners:
            self._map.refresh_aside()
            raise _without_owner(self._map.owners.index(None))
        pings = (
            self._map.ping(self._map.node(owner), deadline) for owner in owners if owner is not None
        )
        try:
            await asyncio.gather(*pings)
        except LOST:
            self._map.refresh_aside()
            raise

    async def close(self) -> None:
        await self._map.close()

    def connections(self) -> Mapping[str, int]:
        return self._map.counts.named()

    async def _ask(self, slots: Sequence[int], send: Send) -> list[Any]:
        """The answers of the calls for these slots, or the exceptions that they met last."""
        deadline = self._map.deadline()
        if not self._map.owners:
            try:
                await self._map.refreshed(deadline)
            except LOST as error:
                return [error] * len(slots)
        answers: dict[int, Any] = {}
        routes = {position: _Route(self._map.owners[slot]) for position, slot in enumerate(slots)}
        for _ in range(TURNS_AT_MOST):
            unsent = await self._take_turn(routes, send, answers, deadline=deadline)
            routes = self._sent_on(routes, answers)
            if unsent and await self._map.was_refreshed(deadline):
                routes |= {
                    position: _Route(self._map.owners[slots[position]]) for position in unsent
                }
            if not routes:
                break
            if any(isinstance(answers[at], exceptions.TryAgainError) for at in routes):
                await asyncio.sleep(TRY_AGAIN_SECONDS)
        return [answers[position] for position in range(len(slots))]

    async def _take_turn(
        self,
        routes: Mapping[int, _Route],
        send: Send,
        answers: dict[int, Any],
        *,
        deadline: float,
    ) -> list[int]:
        """Send each call on its route and put its answer into `answers`; the positions of those
        that could not be sent.
        """
        together: dict[_Route, list[int]] = defaultdict(list)
        for position, route in routes.items():
            together[route].append(position)
        unsent: list[int] = []

        async def take(route: _Route, positions: list[int]) -> None:
            try:
                told = await self._send(route, positions, send, deadline)
            except LOST as error:
                told = [error] * len(positions)
                if not isinstance(error, TimeoutError):
                    unsent.extend(positions)
            answers.update(zip(positions, told, strict=True))
            if any(_hints_at_a_change(answer) for answer in told):
                self._map.refresh_aside()

        if len(together) == 1:
            await take(*together.popitem())
        else:
            await asyncio.gather(*(take(*item) for item in together.items()))
        return unsent

    async def _send(
        self, route: _Route, positions: Sequence[int], send: Send, deadline: float
    ) -> list[Any]:
        """Raises one of `LOST` where nothing was sent."""
        if route.address is None:
            raise exceptions.ClusterDownError("a slot of the cluster has no server")
        if self._map.is_silent(route.address):
            raise TimeoutError(f"{route.address} is silent")
        node = self._map.node(route.address)
        try:
            told = await send(node, positions, _ASKING if route.is_for_once else (), deadline)
        except TimeoutError:
            self._map.probe_aside(route.address)
            raise
        if any(isinstance(answer, TimeoutError) for answer in told):
            self._map.probe_aside(route.address)
        return told

    def _sent_on(
        self, routes: Mapping[int, _Route], answers: Mapping[int, Any]
    ) -> dict[int, _Route]:
        """Where calls go that a server executed nothing of, and sent on."""
        further = {}
        for position, route in routes.items():
            answer = answers[position]
            if isinstance(answer, exceptions.AskError):
                is_for_once = not isinstance(answer, exceptions.MovedError)
                asked_host = route.address.host if route.address else ""
                address = Address(answer.host or asked_host, answer.port)
                if not is_for_once:
                    self._map.owners[answer.slot_id] = address
                further[position] = _Route(address, is_for_once)
            elif isinstance(answer, exceptions.TryAgainError):
                further[position] = route
        return further


def _without_owner(slot: int) -> exceptions.ClusterDownError:
    return exceptions.ClusterDownError(f"slot {slot} of the cluster has no server")


def _hints_at_a_change(answer: object) -> bool:
    """Whether the slots may have other owners by now."""
    if isinstance(answer, exceptions.ResponseError):
        return isinstance(answer, (exceptions.MovedError, exceptions.ClusterDownError))
    return isinstance(answer, LOST)
