"""The transports give the same answers, whatever is interleaved and however the bytes are cut.

A fault that standard suites miss: headers of one connection taken for another's, or decoded by a
table gone stale, send a call to another's method. Here every answer repeats what its handler got.
"""

from __future__ import annotations

import pytest

from tests.support import grpc_service
from tests.support.grpc_service import LIBRARIES, serving
from tests.support.grpc_sessions import require_right_answers

SESSIONS = 100


@pytest.mark.parametrize("name", LIBRARIES)
async def test_both_transports_answer_every_session_alike(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    grpc_service.use(name, monkeypatch)
    async with serving() as ours, serving(transport="grpcio") as reference:
        ports = {"grpcio": reference.server.port, name: ours.server.port}
        await require_right_answers(range(SESSIONS), ports)
