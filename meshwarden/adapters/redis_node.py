"""One Redis server, the connections to it, and script calls through them.

    commands -> a free connection, or a new one -> one write, as many answers -> free again
                                                    | time limit, cut, cancelled
                                                    v
                                                  closed: it owes answers, and is never used again

Here alone it is known whether commands may have been executed. Where nothing was sent, an exception
is raised, and the caller may ask another server; what was sent and not answered is never sent
again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import hiredis
from redis import exceptions

Words = tuple[str | int, ...]
CONNECTIONS_AT_MOST = 100
"""To one server: as many calls may be under way at once; a further one is refused."""

LOST = (exceptions.RedisError, OSError, TimeoutError)
"""What ends a connection."""


class ScriptCall(NamedTuple):
    """One run of a script: its KEYS, which must be of one group, and its ARGV."""

    keys: tuple[str, ...]
    arguments: tuple[str | int, ...]


class Script:
    """A Lua script, and the digest by which a server that has seen it knows it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


@dataclass
class ConnectionCounts:
    """Of all servers of one Redis, as `redis_pool.*` of envoyproxy/ratelimit counts them."""

    active: int = 0
    total: int = 0
    local_close: int = 0

    def named(self) -> dict[str, int]:
        return {
            "cx_active": self.active,
            "cx_total": self.total,
            "cx_local_close": self.local_close,
        }


class Node:
    """One server; `connection` makes a connection to it, not yet connected.

    `has_to_be_master`: each new connection is refused where the server says that it is none.
    """

    def __init__(
        self,
        name: str,
        *,
        connection: Callable[[], Any],
        counts: ConnectionCounts,
        has_to_be_master: bool = False,
    ) -> None:
        self.name = name
        self._connection = connection
        self._counts = counts
        self._has_to_be_master = has_to_be_master
        self._free: list[Any] = []
        self._open_count = 0
        self._is_retired = False

    async def exchange(self, commands: Sequence[Words], *, deadline: float) -> list[Any]:
        """The answer of each command, in one round trip; an error is its exception, and so is the
        loss of the connection from there on. `deadline` is the event loop's time.

        Raises one of `LOST` where nothing was sent.
        """
        packed = b"".join([hiredis.pack_command(words) for words in commands])  # type: ignore[arg-type]
        connection = await self._free_one()
        if connection is None:
            async with asyncio.timeout_at(deadline):
                connection = await self._new_one()
        answers: list[Any] = []
        is_sound = False
        try:
            async with asyncio.timeout_at(deadline):
                await connection.send_packed_command(packed, check_health=False)
                for _ in commands:
                    answers.append(await _answer(connection))
            is_sound = True
        except LOST as error:
            answers += [error] * (len(commands) - len(answers))
        finally:
            if is_sound and not self._is_retired:
                self._free.append(connection)
            else:
                await self._close(connection)
        return answers

    async def call_script(
        self,
        script: Script,
        calls: Sequence[ScriptCall],
        *,
        deadline: float,
        prefix: Sequence[Words] = (),
    ) -> list[Any]:
        """The answer of each call, as `exchange`; each is sent after `prefix`. A server that
        doesn't know the script gets it, in a second round trip.
        """
        answers = await self._run(("EVALSHA", script.digest), calls, deadline, prefix)
        unknown = [
            position
            for position, answer in enumerate(answers)
            if isinstance(answer, exceptions.NoScriptError)
        ]
        if unknown:
            again = [calls[position] for position in unknown]
            try:
                told = await self._run(("EVAL", script.text), again, deadline, prefix)
            except LOST as error:
                told = [error] * len(again)
            for position, answer in zip(unknown, told, strict=True):
                answers[position] = answer
        return answers

    async def _run(
        self, head: Words, calls: Sequence[ScriptCall], deadline: float, prefix: Sequence[Words]
    ) -> list[Any]:
        commands: list[Words] = []
        for call in calls:
            commands += prefix
            commands.append((*head, len(call.keys), *call.keys, *call.arguments))
        answers = await self.exchange(commands, deadline=deadline)
        return answers[len(prefix) :: len(prefix) + 1]

    async def open(self, *, deadline: float) -> None:
        """See to it that there is a connection. Raises one of `LOST`."""
        connection = await self._free_one()
        if connection is None:
            async with asyncio.timeout_at(deadline):
                connection = await self._new_one()
        self._free.append(connection)

    async def retire(self) -> None:
        """Close what is free now, and the rest as its calls end."""
        self._is_retired = True
        await self.close_free()

    async def close_free(self) -> None:
        """Close the connections that no call uses: the next call connects anew."""
        while self._free:
            await self._close(self._free.pop())

    async def _free_one(self) -> Any | None:
        """A connection that the server has not closed, and that owes no answer."""
        while self._free:
            connection = self._free.pop()
            try:
                is_dirty = await connection.can_read()
            except LOST:
                is_dirty = True
            if not is_dirty:
                return connection
            await self._close(connection)
        return None

    async def _new_one(self) -> Any:
        if self._open_count >= CONNECTIONS_AT_MOST:
            raise exceptions.MaxConnectionsError(f"{CONNECTIONS_AT_MOST} calls are under way")
        connection = self._connection()
        self._open_count += 1
        try:
            await connection.connect()
            if self._has_to_be_master:
                await _require_master(connection, self.name)
        except BaseException:
            self._open_count -= 1
            await _drop(connection)
            raise
        self._counts.active += 1
        self._counts.total += 1
        return connection

    async def _close(self, connection: Any) -> None:
        self._open_count -= 1
        self._counts.active -= 1
        self._counts.local_close += 1
        await _drop(connection)


async def _drop(connection: Any) -> None:
    """End it at once. The library would still send what waits to be sent, and wait for TLS' leave;
    what no answer can come of is better not sent.
    """
    writer = connection._writer
    if writer is not None:
        writer.transport.abort()
    await connection.disconnect(nowait=True)


async def _require_master(connection: Any, name: str) -> None:
    """Raise `ReadOnlyError` where the server says that it is a replica."""
    await connection.send_command("ROLE")
    role = await connection.read_response(disable_decoding=True)
    if role[0] != b"master":
        raise exceptions.ReadOnlyError(f"{name} is no master")


async def _answer(connection: Any) -> Any:
    """The next answer; an error of the server as its exception. Raises where the connection is
    lost, which the library's `ConnectionError` tells.
    """
    try:
        return await connection.read_response(disable_decoding=True)
    except exceptions.ResponseError as error:
        return error


def is_read_only(answer: object) -> bool:
    """Whether a server refused to write because it is a replica: then it executed nothing.

    Redis 6.2 wraps what a script's own command met into an error of another kind, and a script that
    catches it may answer a list of such words.
    """
    if isinstance(answer, list) and answer and isinstance(answer[0], bytes):
        return b"READONLY " in answer[0]
    return isinstance(answer, exceptions.ReadOnlyError) or (
        isinstance(answer, exceptions.ResponseError) and "-READONLY " in str(answer)
    )
