"""What a hostile client does to the port on libnghttp2: each attack ends in a closed connection,
and others are served meanwhile. Without its guard the same attack goes on: that is shown, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from meshwarden.adapters import nghttp2_connection, nghttp2_session
from meshwarden.adapters.nghttp2_patience import Patience
from tests.support.grpc_service import serving
from tests.support.http2_attacker import (
    END_HEADERS,
    ENHANCE_YOUR_CALM,
    HEAD,
    LARGE,
    MESSAGE,
    Guard,
    attacking,
    data_of,
    library,  # noqa: F401
    never,
    opened,
    survives,
    whole,
)
from tests.support.http2_frames import (
    CONTINUATION,
    DATA,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from tests.support.processes import until

FRAMES = 3000
GROWTH_BYTES_AT_MOST = 48 << 20


def streams(body: Callable[[int], bytes]) -> list[bytes]:
    return [body(1 + 2 * number) for number in range(FRAMES)]


TABLE = b"\x40\x01a\x7f\xa1\x1e" + b"v" * 4000
NAMED = b"\xbe" * 4000
"""A large header that is put into the table, and how a block names it four thousand times."""
PLAIN = b"\0\1x\1y"

NEVER_WHOLE = b"\0" + LARGE.to_bytes(4) + bytes(LARGE - 16)
"""A message of which the end is missing."""

PATIENCE = (Patience, "is_over", never)

ATTACKS: dict[str, tuple[list[bytes], Guard]] = {
    "rapid reset": (
        streams(lambda n: opened(n) + frame(RST_STREAM, b"\0\0\0\x08", stream=n)),
        PATIENCE,
    ),
    "made you reset": (
        streams(lambda n: opened(n) + frame(WINDOW_UPDATE, b"\x7f\xff\xff\xff", stream=n)),
        PATIENCE,
    ),
    "settings": ([frame(SETTINGS)] * FRAMES, PATIENCE),
    "headers that are ignored": ([opened(3), *[opened(1)] * FRAMES], PATIENCE),
    "priority": ([frame(PRIORITY, b"\0\0\0\0\x10", stream=1)] * FRAMES, PATIENCE),
    "window update": ([frame(WINDOW_UPDATE, b"\0\0\0\1")] * 6 * FRAMES, PATIENCE),
    "empty data": ([opened(1), *[frame(DATA, stream=1)] * FRAMES], PATIENCE),
    "ping": ([frame(PING, b"12345678")] * 50, (Patience, "is_over_pings", never)),
    "continuation": (
        [
            opened(1, flags=0)
            + frame(CONTINUATION, PLAIN, stream=1) * 60
            + frame(CONTINUATION, PLAIN, stream=1, flags=END_HEADERS)
        ],
        (nghttp2_session, "CONTINUATIONS_AT_MOST", 1000),
    ),
    "hpack bomb": (
        [opened(1, head=HEAD + TABLE), opened(3, head=HEAD + NAMED)],
        (Patience, "is_over_headers", never),
    ),
    "messages that never end": (
        [piece for n in range(1, 49, 2) for piece in (opened(n), *data_of(n, NEVER_WHOLE))],
        (nghttp2_connection, "WINDOW_BESIDES_A_MESSAGE", 1 << 30),
    ),
}
"""What is sent, and what stops it."""
ALSO_STOPPED_BY_THE_LIBRARY = {"made you reset"}
"""By the newer ones at least: Debian teaches the older one such things without another version."""
WITHOUT_A_WORD = {"continuation", "made you reset", "messages that never end"}
"""The library ends these in words of its own."""
REASONS = {
    "is_over": "too_many_frames_without_work",
    "is_over_pings": "too_many_pings",
    "is_over_headers": "headers",
}


def pings_at_will(name: str) -> dict[str, float]:
    """`survives` pings: that must not be what ends another attack."""
    return {} if name == "ping" else {"ping_interval_at_least_seconds": 1e-9}


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", ATTACKS)
async def test_an_attack_ends_its_connection_and_nobody_elses(name: str):
    attack, (_, guard, _) = ATTACKS[name]
    async with serving(**pings_at_will(name)) as served, served.client() as other:
        assert await other.call("Echo", b"x") == b"echo x"
        before = resident_bytes()
        async with attacking(served) as attacker:
            assert not await survives(attacker, attack)
            await asyncio.wait_for(attacker.read_to_the_end(), 20)
            if name not in WITHOUT_A_WORD:
                reason = f'grpc_connections_cut_total{{reason="{REASONS[guard]}"}}'
                assert served.metric(reason) == 1
                assert attacker.goaway in {ENHANCE_YOUR_CALM, None}, "what is cut may get lost"
        assert resident_bytes() - before < GROWTH_BYTES_AT_MOST
        assert await other.call("Echo", b"x") == b"echo x"
        await until(lambda: served.metric("grpc_calls_in_flight") == 0, "nothing is in flight")


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", ATTACKS)
async def test_without_its_guard_the_attack_goes_on(name: str, monkeypatch: pytest.MonkeyPatch):
    attack, guard = ATTACKS[name]
    monkeypatch.setattr(*guard)
    async with serving(**pings_at_will(name)) as served:
        async with attacking(served) as attacker:
            is_alive = await survives(attacker, attack)
        assert is_alive or name in ALSO_STOPPED_BY_THE_LIBRARY


@pytest.mark.usefixtures("library")
async def test_a_call_that_is_reset_as_it_comes_has_its_handler_begun_and_ended():
    """One that never began would hold on to what it was made to wait for."""
    async with serving() as served, attacking(served) as attacker:
        await attacker.is_alive()
        broken = frame(WINDOW_UPDATE, b"\x7f\xff\xff\xff", stream=1)
        attacker.send(opened(1) + frame(DATA, MESSAGE, stream=1) + broken)
        await until(lambda: served.handlers.ended == 1, "the handler began and ended")
        await served.counts("grpc_calls_in_flight", 0)


@pytest.mark.usefixtures("library")
async def test_an_answer_that_is_ready_after_the_connection_was_ended_is_dropped(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
):
    async with serving() as served, attacking(served) as attacker:
        attacker.send(opened(1) + whole(1, MESSAGE))
        await until(lambda: served.handlers.waiting == 1, "the call is in flight")
        assert not await survives(attacker, ATTACKS["ping"][0])
        served.handlers.gate.set()
        await until(lambda: served.handlers.ended == 1, "the handler has answered")
        await served.counts("grpc_calls_in_flight", 0)
    assert "write_eof" not in caplog.text + capsys.readouterr().out
