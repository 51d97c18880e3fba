"""The sample upstream as a process: how it starts, how quiet it is, how it ends."""

from __future__ import annotations

import signal
import socket
import sys
import time

import httpx2
import pytest

from tests.support.ports import free_port, is_listening
from tests.support.processes import running

COMMAND = (sys.executable, "-m", "meshwarden.cli.sample_upstream", "--port")

pytestmark = pytest.mark.timeout(30)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_is_quiet_and_stops_cleanly_with_a_connection_open(number: signal.Signals) -> None:
    port = free_port()
    with running([*COMMAND, str(port)]) as process, httpx2.Client() as client:
        process.wait_until(lambda: is_listening(port), "the sample upstream listens")
        assert client.get(f"http://127.0.0.1:{port}/whoami").status_code == 200
        began = time.monotonic()
        process.child.send_signal(number)
        assert process.child.wait(10) == 0
        assert time.monotonic() - began < 5
        assert (process.output, process.errors) == ("", "")


def test_a_taken_port_is_a_clear_message() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with running([*COMMAND, str(port)]) as process:
            assert process.child.wait(10) == 1
            assert f"port {port} on 127.0.0.1" in process.errors
            assert "Traceback" not in process.errors
