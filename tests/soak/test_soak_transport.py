"""The transports over 20,000 sessions (TRANSPORT_SESSIONS), and memory over TRANSPORT_SOAK_SECONDS
(600) of calls, cancellations and connections that come and go.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

import grpc
import pytest
from grpc import aio

from tests.support.grpc_service import LIBRARIES, SERVICE
from tests.support.grpc_sessions import require_right_answers
from tests.support.transport_process import served_apart

SESSIONS = int(os.environ.get("TRANSPORT_SESSIONS", "20000"))
SECONDS = float(os.environ.get("TRANSPORT_SOAK_SECONDS", "600"))
CALLERS = 16
GROWTH_BYTES_AT_MOST = 16 << 20


@pytest.mark.timeout(3600)
async def test_every_session_is_answered_as_by_grpcio(capsys: pytest.CaptureFixture):
    """Seeds that no other test has."""
    name = next(iter(LIBRARIES))
    began = time.monotonic()
    with served_apart(name) as ours, served_apart("grpcio") as reference:
        ports = {name: ours.port, "grpcio": reference.port}
        await require_right_answers(range(1_000_000, 1_000_000 + SESSIONS), ports)
    with capsys.disabled():
        print(f"\n{SESSIONS:,} sessions alike, {time.monotonic() - began:.0f} s")  # noqa: T201


async def caller(address: str, ends_at: float) -> int:
    """Calls that are answered, calls that are given up, over connections of a few hundred calls."""
    made = 0
    while time.monotonic() < ends_at:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with aio.insecure_channel(address, options) as channel:
            for _ in range(300):
                size = random.choice([10, 1000, 50_000])  # noqa: S311 - load, no secret
                call = channel.unary_unary(f"/{SERVICE}/Echo")(bytes(size), timeout=20)
                if random.random() < 0.05:  # noqa: S311
                    call.cancel()
                try:
                    assert len(await call) == size + 5
                except asyncio.CancelledError:
                    assert await call.code() is grpc.StatusCode.CANCELLED
                made += 1
    return made


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


@pytest.mark.timeout(3600)
async def test_memory_is_flat_under_calls_and_cancellations(capsys: pytest.CaptureFixture):
    name = next(iter(LIBRARIES))
    with served_apart(name) as server:
        sizes, made = [], 0
        for _ in range(4):
            ends_at = time.monotonic() + SECONDS / 4
            made += sum(
                await asyncio.gather(*(caller(server.address, ends_at) for _ in range(CALLERS)))
            )
            sizes.append(resident(server.process.pid))
        assert "Traceback" not in server.process.output
    with capsys.disabled():
        print(f"\n{made:,} calls in {SECONDS:.0f} s; resident at each quarter: {sizes}")  # noqa: T201
    assert sizes[-1] - sizes[0] < GROWTH_BYTES_AT_MOST
