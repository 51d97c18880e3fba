"""API keys and revocations from Redis, for any number of replicas.

    unknown key -> waits in line -> one MGET for all who wait -> remembered
    a record changes -> Redis tells the tracking connection (RESP3, BCAST) -> forgotten

A heartbeat on the tracking connection shows until when no change was missed; what is remembered is
trusted `TRUST_SECONDS` longer, so a revocation is in force within a second, also where the network
dies without a word. What then happens is the setting `on_store_failure`: `serve_stale` goes on with
what is known, `refuse` asks Redis, and where that does not answer the policy's `onUnavailable`
decides. Known weakness: one Redis; a Cluster would need a tracking connection a node.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from ext_authz.adapters.redis_layout import Layout, decoded
from ext_authz.core.api_keys import KeyRecord
from ext_authz.core.key_memory import LONG_AGO, RememberedApiKeys
from ext_authz.core.keys import Keys
from ext_authz.core.revocations import Revocation, Revocations
from meshwarden.adapters.logs import logger
from meshwarden.adapters.redis_client import LIBRARY_ERRORS, client, translated
from meshwarden.adapters.telemetry import Metrics
from meshwarden.core.faults import Unavailable

HEARTBEAT_SECONDS = 0.1
TRUST_SECONDS = 0.8
RECONNECT_SECONDS = 0.5
KEYS_PER_CALL = 500
WAITING_AT_MOST = 10_000
_FAILURES = (*LIBRARY_ERRORS, TimeoutError)


class RedisKeys:
    """Fills `memory` and `keys.revocations`, and keeps both true.

    `serves_stale`: revocations that can't be kept current count on as they are; else tokens can't
    be checked then.
    """

    def __init__(
        self,
        url: str,
        *,
        auth: str,
        layout: Layout,
        keys: Keys,
        memory: RememberedApiKeys,
        serves_stale: bool,
        time_limit_seconds: float,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._redis = client(url, auth=auth)
        self._tracking = client(url, auth=auth, protocol=3)
        self._layout = layout
        self._keys = keys
        self.memory = memory
        self._serves_stale = serves_stale
        self._time_limit_seconds = time_limit_seconds
        self._clock = clock
        self._waiting: dict[str, asyncio.Future[KeyRecord | None]] = {}
        self._sender: asyncio.Task[None] | None = None
        self._changed: set[str] = set()
        self._revocations_changed = False
        self._failure = "redis has not answered yet"
        self._was_up = False
        self._lookups = metrics.tally("ext_authz_key_lookups", "Asked of Redis.", ["outcome"])
        self._changes = metrics.tally("ext_authz_key_changes", "Changes that Redis told of.")
        metrics.gauge(
            "ext_authz_key_store_is_up", "1 while Redis answers.", lambda: float(not self._failure)
        )

    async def ask(self, digest: str) -> KeyRecord | None:
        """The record of the key with this digest. Raises `Unavailable` when Redis does not answer
        in time.
        """
        future = self._waiting.get(digest)
        if future is None:
            if len(self._waiting) >= WAITING_AT_MOST:
                raise Unavailable(f"redis: more than {WAITING_AT_MOST} keys wait for it")
            future = asyncio.get_running_loop().create_future()
            self._waiting[digest] = future
            if self._sender is None:
                self._sender = asyncio.create_task(self._send())
        # Shielded: one caller's patience is not that of all who ask for this key.
        return await asyncio.shield(future)

    async def follow(self) -> None:
        """Listen for changes, for ever; connect again where the connection is lost."""
        while True:
            try:
                await self._listen()
            except _FAILURES as error:
                self._is_down(str(translated(error, time_limit_seconds=self._time_limit_seconds)))
            await asyncio.sleep(RECONNECT_SECONDS)

    def unready_reason(self) -> str:
        """Why the service can't be ready; empty from the first answer of Redis on."""
        return "" if self._was_up else self._failure

    def status(self) -> dict[str, object]:
        """For `/readyz?verbose`."""
        return {
            "is_up": not self._failure,
            "reason": self._failure or None,
            "remembered_keys": len(self.memory),
            "revocations": len(self._keys.revocations),
        }

    async def close(self) -> None:
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)
        await self._redis.aclose()
        await self._tracking.aclose()

    # --- look-ups

    async def _send(self) -> None:
        """Ask Redis for all that is waited for, until nothing is."""
        try:
            while self._waiting:
                batch = list(self._waiting)[:KEYS_PER_CALL]
                self._changed.clear()
                try:
                    async with asyncio.timeout(self._time_limit_seconds):
                        found = await self._redis.mget([self._layout.key(name) for name in batch])
                except _FAILURES as error:
                    self._fail(batch, error)
                else:
                    for digest, text in zip(batch, found, strict=True):
                        self._settle(digest, text)
        finally:
            self._sender = None

    def _settle(self, digest: str, text: bytes | None) -> None:
        """Answer who waits for a key; remember it unless it changed while Redis was asked."""
        future = self._waiting.pop(digest)
        try:
            record = None if text is None else decoded(digest, text)
        except ValueError:
            logger().error("key_record_is_broken", name=self._layout.key(digest))
            record = None
        self._lookups.add("unknown" if record is None else "found")
        if digest not in self._changed:
            self.memory.remember(digest, record)
        if not future.done():
            future.set_result(record)

    def _fail(self, batch: list[str], error: BaseException) -> None:
        fault = translated(error, time_limit_seconds=self._time_limit_seconds)
        for digest in batch:
            future = self._waiting.pop(digest)
            self._lookups.add("failed")
            if not future.done():
                future.set_exception(Unavailable(str(fault)))
                future.exception()  # Who asked may have stopped waiting.

    # --- changes

    async def _listen(self) -> None:
        """Track changes on a connection of its own until it fails."""
        connection = self._tracking.connection_pool.make_connection()
        try:
            await self._bounded(connection.connect())
            connection._parser.set_invalidation_push_handler(self._told)
            layout = self._layout
            command = ["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", layout.keys]
            await self._call(connection, *command, "PREFIX", layout.revocations)
            self._forget_all()
            while True:
                asked_at = self._clock()
                await self._call(connection, "PING")
                if self._revocations_changed:
                    self._revocations_changed = False
                    await self._load_revocations()
                self._is_current_until(asked_at + TRUST_SECONDS)
                self._is_up()
                await asyncio.sleep(HEARTBEAT_SECONDS)
        finally:
            await connection.disconnect(nowait=True)

    async def _call(self, connection: Any, *command: str) -> Any:
        await self._bounded(connection.send_command(*command, check_health=False))
        return await self._bounded(connection.read_response())

    async def _bounded(self, awaited: Any) -> Any:
        async with asyncio.timeout(self._time_limit_seconds):
            return await awaited

    async def _told(self, push: list[Any]) -> None:
        """Redis tells of changed names; None: all of them (`FLUSHALL`)."""
        names = push[1] if len(push) > 1 else None
        self._changes.add(count=len(names or (None,)))
        if names is None:
            self._forget_all()
            return
        for name in (name.decode() if isinstance(name, bytes) else name for name in names):
            if name == self._layout.revocations:
                self._revocations_changed = True
            elif name.startswith(self._layout.keys):
                digest = name.removeprefix(self._layout.keys)
                self.memory.forget(digest)
                self._changed.add(digest)

    def _forget_all(self) -> None:
        """Everything may have changed, what is being asked for included."""
        self.memory.forget_all()
        self._changed.update(self._waiting)
        self._revocations_changed = True

    async def _load_revocations(self) -> None:
        stored = await self._bounded(self._redis.hvals(self._layout.revocations))
        records = []
        for text in stored:
            try:
                records.append(Revocation.model_validate_json(text))
            except ValueError:
                logger().error("revocation_is_broken", name=self._layout.revocations)
        self._keys.revocations = Revocations(records)

    def _is_current_until(self, when: float) -> None:
        self.memory.current_until = when
        if not self._serves_stale:
            self._keys.revocations_current_until = when

    def _is_up(self) -> None:
        if self._failure:
            self._failure, self._was_up = "", True
            logger().info("key_store_is_up")

    def _is_down(self, reason: str) -> None:
        self.memory.current_until = LONG_AGO
        if self._failure != reason:
            self._failure = reason
            logger().error("key_store_is_down", reason=reason)
