"""The transports give the same answers, whatever is interleaved and however the bytes are cut.

A fault that standard suites miss: headers of one connection taken for another's, or decoded by a
table gone stale, send a call to another's method. Here every answer repeats what its handler got.
"""

from __future__ import annotations

import os

import pytest

from tests.support import grpc_service
from tests.support.grpc_service import LIBRARIES, serving
from tests.support.grpc_sessions import PATHS, SentCall, Session, answers_to, session_of

SESSIONS = int(os.environ.get("TRANSPORT_SESSIONS", "150"))


def expected(call: SentCall) -> tuple[str, str, bytes]:
    """What the call's answer must be, said without any transport."""
    if call.path not in PATHS:
        return "200", "12", b""
    if not call.pieces:
        return "200", "3", b""
    message = b"".join(call.pieces)[5:]
    name = call.path.rpartition("/")[2]
    own = sorted(
        (key, value if key.endswith("-bin") else value.decode()) for key, value in call.metadata
    )
    answer = f"{name} {own} ".encode() + message
    return "200", "0", b"\0" + len(answer).to_bytes(4) + answer


@pytest.mark.parametrize("name", LIBRARIES)
async def test_both_transports_answer_every_session_alike(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    grpc_service.use(name, monkeypatch)
    async with serving() as ours, serving(transport="grpcio") as reference:
        for seed in range(SESSIONS):
            session: Session = session_of(seed)
            wanted = [[expected(call) for call in calls] for calls in session.calls]
            assert await answers_to(session, reference.server.port) == wanted, f"grpcio, {seed}"
            assert await answers_to(session, ours.server.port) == wanted, f"{name}, {seed}"
