"""Clients that let the server wait, or come in crowds: a time limit and a bound end that. Without
its guard the same goes on: that is shown, too.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from meshwarden.adapters import nghttp2_lifetime, nghttp2_port
from meshwarden.adapters.nghttp2_connection import Connection
from meshwarden.adapters.nghttp2_lifetime import Lifetime
from meshwarden.adapters.nghttp2_patience import Patience
from meshwarden.adapters.nghttp2_port import Nghttp2Port
from meshwarden.adapters.settings import TlsSettings
from meshwarden.adapters.telemetry import Metrics
from meshwarden.adapters.tls import Certificates
from tests.support.certificates import Authority
from tests.support.grpc_service import Served, serving
from tests.support.http2_attacker import (
    ECHO,
    ENHANCE_YOUR_CALM,
    LARGE,
    MESSAGE,
    Attacker,
    Guard,
    attacking,
    library,  # noqa: F401
    never,
    opened,
    until_closed,
    whole,
)
from tests.support.http2_frames import WINDOW_UPDATE, frame
from tests.support.processes import until
from tests.support.service_certificates import Mount, issued

LOOK_SECONDS, WAIT_SECONDS = 0.05, 0.2


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds takes a tenth of one."""
    monkeypatch.setattr(nghttp2_port, "LOOK_INTERVAL_SECONDS", LOOK_SECONDS)
    for name in ("PREFACE_SECONDS_AT_MOST", "PING_SECONDS_AT_MOST", "SEND_SECONDS_AT_MOST"):
        monkeypatch.setattr(nghttp2_lifetime, name, WAIT_SECONDS)


@pytest.mark.usefixtures("library")
async def test_connections_beyond_the_bound_are_closed_and_the_others_served():
    """A place that is left is taken by the next."""
    async with serving(connections_at_most=3) as served, served.client() as other:
        assert await other.call("Echo", b"x") == b"echo x"
        held = [await asyncio.open_connection("127.0.0.1", served.server.port) for _ in range(2)]
        await served.counts("grpc_connections", 3)
        reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
        assert await asyncio.wait_for(until_closed(reader), 10)
        writer.close()
        assert served.metric('grpc_connections_cut_total{reason="too_many_connections"}') == 1
        assert await other.call("Echo", b"x") == b"echo x"
        for _, writer in held:
            writer.close()
        await served.counts("grpc_connections", 1)
        async with served.client() as later:
            assert await later.call("Echo", b"x") == b"echo x"


@pytest.mark.usefixtures("library")
async def test_connections_that_never_finish_their_handshake_are_counted_in(tmp_path: Path):
    mount, authority = Mount(tmp_path), Authority()
    mount.put(issued(authority))
    settings = TlsSettings(certificate_file=mount.certificate, key_file=mount.key)
    certificates = Certificates(settings, metrics=Metrics(), clock=time.time)
    async with serving(certificates, connections_at_most=3) as served:
        opened = [await asyncio.open_connection("127.0.0.1", served.server.port) for _ in range(4)]
        await served.counts('grpc_connections_cut_total{reason="too_many_connections"}', 1)
        assert served.metric("grpc_connections") == 0
        for _, writer in opened:
            writer.close()


@pytest.mark.usefixtures("library")
async def test_without_that_bound_each_connection_is_held():
    async with serving() as served:
        held = [await asyncio.open_connection("127.0.0.1", served.server.port) for _ in range(50)]
        await served.counts("grpc_connections", 50)
        for _, writer in held:
            writer.close()
        await served.counts("grpc_connections", 0)


NO_WINDOW = struct.pack(">HI", 4, 0)
WIDE = struct.pack(">HI", 4, 2**31 - 1)
"""SETTINGS_INITIAL_WINDOW_SIZE: nothing may be sent on a stream, or all."""


async def send_nothing(_attacker: Attacker) -> None:
    """To be silent is the attack."""


async def ask_much(attacker: Attacker) -> None:
    for stream in range(1, 401, 2):
        attacker.send(opened(stream, head=ECHO) + whole(stream, MESSAGE))


async def ask_and_never_read(attacker: Attacker) -> None:
    """Answers that fill the kernel's buffers, and more behind them."""
    attacker.send(frame(WINDOW_UPDATE, struct.pack(">I", 2**31 - 1 - 65535)))
    large = b"\0" + LARGE.to_bytes(4) + bytes(LARGE)
    for stream in range(1, 129, 2):
        attacker.send(opened(stream, head=ECHO) + whole(stream, large))
        await attacker.drain()


@dataclass(frozen=True)
class Wait:
    """An attack that lasts: after a greeting with `greeting`, or none."""

    attack: Callable[[Attacker], Any]
    guard: Guard
    reason: str
    greeting: bytes | None = b""
    settings: dict[str, float] = field(default_factory=dict)


OVERDUE = (Lifetime, "is_overdue", never)
WAITS = {
    "no greeting": Wait(send_nothing, OVERDUE, "overdue", greeting=None),
    "no answer to a ping": Wait(
        send_nothing, OVERDUE, "overdue", settings={"keepalive_interval_seconds": 0.1}
    ),
    "a window that stays shut": Wait(
        ask_much, (Patience, "is_over_waiting", never), "answers_are_not_taken", NO_WINDOW
    ),
    "answers that are not read": Wait(ask_and_never_read, OVERDUE, "overdue", WIDE),
}


@asynccontextmanager
async def waiting(wait: Wait) -> AsyncIterator[tuple[Served, Attacker]]:
    """The attack goes on for as long as the server lets it."""
    async with (
        serving(**wait.settings) as served,
        attacking(served, settings=wait.greeting) as attacker,
    ):
        task = asyncio.create_task(wait.attack(attacker))
        yield served, attacker
        task.cancel()
        with suppress(asyncio.CancelledError, ConnectionError):
            await task


@pytest.mark.usefixtures("library", "impatient")
@pytest.mark.parametrize("name", WAITS)
async def test_who_lets_us_wait_is_let_go_and_others_are_served(name: str):
    wait = WAITS[name]
    async with waiting(wait) as (served, attacker), served.client() as other:
        while not served.metric("grpc_connections_cut_total"):
            assert await other.call("Echo", b"x") == b"echo x"
        assert served.metric(f'grpc_connections_cut_total{{reason="{wait.reason}"}}') == 1
        await served.counts("grpc_connections", 1)
        if wait.reason != "overdue":
            await asyncio.wait_for(attacker.read_to_the_end(), 10)
            assert attacker.goaway == ENHANCE_YOUR_CALM
            assert not attacker.answers


@pytest.mark.usefixtures("library", "impatient")
@pytest.mark.parametrize("name", WAITS)
async def test_without_its_guard_the_server_waits_on(name: str, monkeypatch: pytest.MonkeyPatch):
    """Ten times longer than with it, and until it can't write, where that is the attack."""
    wait, looks, is_stuck = WAITS[name], 0, name != "answers that are not read"
    look, pause = Nghttp2Port._look_once, Connection.pause_writing

    def counted(port: Nghttp2Port) -> None:
        nonlocal looks
        looks += is_stuck
        look(port)

    def stuck(connection: Connection) -> None:
        nonlocal is_stuck
        is_stuck = True
        pause(connection)

    monkeypatch.setattr(Nghttp2Port, "_look_once", counted)
    monkeypatch.setattr(Connection, "pause_writing", stuck)
    monkeypatch.setattr(*wait.guard)
    async with waiting(wait) as (served, _):
        await until(lambda: looks > 10 * WAIT_SECONDS / LOOK_SECONDS, "it has waited for long")
        assert served.metric("grpc_connections") == 1
        assert not served.metric("grpc_connections_cut_total")
