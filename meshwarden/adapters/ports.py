"""Whether a port, or a socket, can be bound, told before anything starts."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

from meshwarden.core.faults import Misconfigured


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening-ready TCP socket bound to `host` and `port` (0: a free one).

    `shared` lets several processes bind the same port (SO_REUSEPORT). Raises `Misconfigured` when
    it is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((host, port))
        if not shared:
            bound.listen(1024)
    except OSError as error:
        bound.close()
        raise Misconfigured(
            f"port {port} on {host} can't be bound: {error.strerror or error}; "
            "stop what listens there, or choose another port"
        ) from None
    return bound


def free(host: str, count: int) -> list[int]:
    """`count` different ports of `host` that nothing listens on; held only until this returns."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for reserved in sockets:
            reserved.bind((host, 0))
        return [int(reserved.getsockname()[1]) for reserved in sockets]


def require_free(host: str, port: int) -> None:
    """Raise `Misconfigured` when `port` is taken on `host`."""
    if port:
        bind(host, port).close()


def require_free_socket(path: str) -> None:
    """Raise `Misconfigured` when a server listens on the UNIX socket `path` (`@name`: an abstract
    one), or when no socket can be made there. What a dead server left is no hindrance: gRPC removes
    it.
    """
    what = f"the socket {path} can't be bound"
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1)
        try:
            client.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            pass
        except OSError as error:
            raise Misconfigured(f"{what}: {error.strerror or error}") from None
        else:
            raise Misconfigured(f"{what}: a server listens there; stop it, or name another path")
    if path.startswith("@"):
        return
    place = Path(path)
    if not place.parent.is_dir():
        raise Misconfigured(f"{what}: there is no folder {place.parent}; make it")
    if place.exists() and not place.is_socket():
        raise Misconfigured(f"{what}: something else lies there; name another path")
