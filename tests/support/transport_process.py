"""The tested gRPC service in a process of its own, on the event loop that the services have.

`python -m tests.support.transport_process TRANSPORT` (one of `grpc_service.TRANSPORTS`) writes its
port and serves.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import uvloop

from tests.support.grpc_service import Served, use
from tests.support.processes import Running, running


@dataclass(frozen=True)
class ServedApart:
    """The running process, its main port, and over what it serves."""

    process: Running
    port: int
    transport: str

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextmanager
def served_apart(transport: str) -> Iterator[ServedApart]:
    """Serve for the length of the block."""
    command = [sys.executable, "-m", "tests.support.transport_process", transport]
    with running(command, is_measured=False) as process:
        process.wait_until(lambda: "\n" in process.output, "the port is told")
        yield ServedApart(process, int(process.output.split()[0]), transport)


async def _serve(transport: str) -> None:
    use(transport, pytest.MonkeyPatch())
    served = Served()
    await served.server.start()
    await served.server.set_serving(True, ())
    served.handlers.gate.set()
    print(served.server.port, flush=True)  # noqa: T201
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))
