"""Free loopback ports for processes that must be told their port before they start.

A server inside the test binds port 0 itself and needs nothing from here.
"""

from __future__ import annotations

import socket

from meshwarden.adapters import ports


def free_ports(count: int) -> list[int]:
    """`count` different loopback ports that nothing listens on; held only until this returns."""
    return ports.free("127.0.0.1", count)


def free_port() -> int:
    """One loopback port that nothing listens on."""
    return free_ports(1)[0]


def is_listening(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something accepts connections at `host:port` now."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((host, port)) == 0
