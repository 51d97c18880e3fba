"""What is known of a Redis Cluster's servers: who owns which slot, and who is silent.

Whatever hints at a change has the slots read anew, by one task, not more often than
`REFRESH_PAUSE_SECONDS`. A server that was silent for the time limit is probed aside, so that nobody
has to wait for it to find out.
"""

from __future__ import annotations

import asyncio
import random
from functools import partial

from redis import exceptions

from meshwarden.adapters.redis_access import Access
from meshwarden.adapters.redis_node import LOST, ConnectionCounts, Node, Words
from meshwarden.adapters.redis_settings import Address, RedisSettings
from meshwarden.adapters.redis_slots import Topology, topology
from meshwarden.adapters.shared_task import SharedTask

REFRESH_PAUSE_SECONDS = 0.2
PROBE_PAUSE_SECONDS = 0.05
ASKED_AT_ONCE = 3


class ClusterMap:
    """The servers and their slots. `owners` is empty until they were read once; then it has an
    address, or None, for each slot. Raises `Misconfigured` where TLS files can't be used.
    """

    def __init__(self, settings: RedisSettings) -> None:
        self.owners: list[Address | None] = []
        self.counts = ConnectionCounts()
        self._time_limit_seconds = settings.time_limit_seconds
        self._access = Access(settings)
        self._seeds = settings.addresses
        self._servers = list(self._seeds)
        self._nodes: dict[Address, Node] = {}
        self._probes: dict[Address, asyncio.Task[None]] = {}
        self._refresh = SharedTask(self._read)
        self._refreshed_at = float("-inf")

    def deadline(self) -> float:
        """When a call that begins now ends at the latest."""
        return asyncio.get_running_loop().time() + self._time_limit_seconds

    def node(self, address: Address) -> Node:
        """The server at `address`, whether it owns slots or not."""
        node = self._nodes.get(address)
        if node is None:
            connection = partial(self._access.to_address, address)
            node = Node(str(address), connection=connection, counts=self.counts)
            self._nodes[address] = node
        return node

    def is_silent(self, address: Address) -> bool:
        """Whether it did not answer in time, and has not since."""
        return address in self._probes

    async def close(self) -> None:
        """Close the connections, and end what goes on aside."""
        await self._refresh.close()
        for probe in self._probes.values():
            probe.cancel()
        await asyncio.gather(*self._probes.values(), return_exceptions=True)
        for node in self._nodes.values():
            await node.retire()

    def refresh_aside(self) -> None:
        """Have the slots read anew, soon, unless that was done just now."""
        if self._may_refresh():
            self._refresh.start()

    def _may_refresh(self) -> bool:
        now = asyncio.get_running_loop().time()
        return now - self._refreshed_at >= REFRESH_PAUSE_SECONDS

    async def was_refreshed(self, deadline: float) -> bool:
        """Whether the slots could be read anew; False where that was tried just now."""
        if not self._may_refresh():
            return False
        try:
            await self.refreshed(deadline)
        except LOST:
            return False
        return True

    async def refreshed(self, deadline: float) -> None:
        """Read the slots. Raises one of `LOST`."""
        async with asyncio.timeout_at(deadline):
            await self._refresh.outcome()

    async def _read(self) -> None:
        """Ask a few servers at once, then others; the first answer holds."""
        order = random.sample(self._servers, len(self._servers))
        order.sort(key=lambda address: address in self._probes)
        order += [seed for seed in self._seeds if seed not in order]
        fault: BaseException = exceptions.ClusterDownError("no server of the cluster is known")
        try:
            for start in range(0, len(order), ASKED_AT_ONCE):
                asked = [
                    asyncio.create_task(self._slots_of(address))
                    for address in order[start : start + ASKED_AT_ONCE]
                ]
                try:
                    for answered in asyncio.as_completed(asked):
                        try:
                            await self._adopt(await answered)
                        except LOST as error:
                            fault = error
                        else:
                            return
                finally:
                    for task in asked:
                        task.cancel()
                    await asyncio.gather(*asked, return_exceptions=True)
            raise fault
        finally:
            self._refreshed_at = asyncio.get_running_loop().time()

    async def _slots_of(self, address: Address) -> Topology:
        """Raises one of `LOST`, also where the answer makes no sense."""
        words: Words = ("CLUSTER", "SLOTS")
        (answer,) = await self.node(address).exchange([words], deadline=self.deadline())
        if isinstance(answer, BaseException):
            raise answer
        try:
            found = topology(answer, asked=address)
        except (ValueError, TypeError, IndexError):
            found = Topology([], [])
        if not found.servers:
            raise exceptions.ClusterDownError(f"{address} knows no slots")
        return found

    async def _adopt(self, found: Topology) -> None:
        self.owners, self._servers = found
        owners = set(found.owners)
        for address in [known for known in self._nodes if known not in owners]:
            if probe := self._probes.pop(address, None):
                probe.cancel()
            await self._nodes.pop(address).retire()

    def probe_aside(self, address: Address) -> None:
        """Take it for silent until it answers."""
        if address not in self._probes and address in self._nodes:
            self._probes[address] = asyncio.create_task(self._probe(address))

    async def _probe(self, address: Address) -> None:
        """Return when the server speaks again, or refuses, which costs no caller any time."""
        try:
            while True:
                try:
                    await self.ping(self.node(address), self.deadline())
                except TimeoutError:
                    await asyncio.sleep(PROBE_PAUSE_SECONDS)
                    continue
                except LOST:
                    pass
                return
        finally:
            if self._probes.get(address) is asyncio.current_task():
                del self._probes[address]

    async def ping(self, node: Node, deadline: float) -> None:
        """Raises what it met."""
        (answer,) = await node.exchange([("PING",)], deadline=deadline)
        if isinstance(answer, BaseException):
            raise answer
