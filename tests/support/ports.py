"""Free loopback ports for processes that must be told their port before they start.

They are taken one after the other from a range of this test process's own, below those that the
kernel gives to connections: nobody else gets one in the time between being told and being bound.
A server inside the test binds port 0 itself and needs nothing from here.
"""

from __future__ import annotations

import os
import socket
from itertools import count

from meshwarden.adapters import ports
from meshwarden.core.faults import Misconfigured

FIRST = 12_000
PER_PROCESS = 4_000
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_next = count(FIRST + _WORKER % 4 * PER_PROCESS + os.getpid() % 1_000)


def free_ports(number: int) -> list[int]:
    """`number` different loopback ports that nothing listens on."""
    found: list[int] = []
    while len(found) < number:
        port = next(_next)
        try:
            ports.require_free("127.0.0.1", port)
        except Misconfigured:
            continue
        found.append(port)
    return found


def free_port() -> int:
    """One loopback port that nothing listens on."""
    return free_ports(1)[0]


def is_listening(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something accepts connections at `host:port` now."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((host, port)) == 0
