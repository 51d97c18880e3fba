"""The transports give the same answers, whatever is interleaved and however the bytes are cut.

A fault that standard suites miss: headers of one connection taken for another's, or decoded by a
table gone stale, send a call to another's method. Here every answer repeats what its handler got.
"""

from __future__ import annotations

import pytest

from tests.support import grpc_service
from tests.support.grpc_service import LIBRARIES, serving
from tests.support.grpc_sessions import answers_to, expected, session_of

SESSIONS = 100


@pytest.mark.parametrize("name", LIBRARIES)
async def test_both_transports_answer_every_session_alike(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    grpc_service.use(name, monkeypatch)
    async with serving() as ours, serving(transport="grpcio") as reference:
        for seed in range(SESSIONS):
            session = session_of(seed)
            wanted = [[expected(call) for call in calls] for calls in session.calls]
            assert await answers_to(session, reference.server.port) == wanted, f"grpcio, {seed}"
            assert await answers_to(session, ours.server.port) == wanted, f"{name}, {seed}"
