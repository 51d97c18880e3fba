"""The main gRPC port on libnghttp2: listens, shakes hands, looks after its connections, drains.

    socket -> accept -> TLS, with the newest certificate, if any -> `nghttp2_connection.Connection`

Each connection gets the certificate of its moment: a context is made anew when the files change.
"""

from __future__ import annotations

import asyncio
import random
import resource
import socket
import ssl
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from meshwarden.adapters import ports
from meshwarden.adapters.client_names import holds_name, names_of
from meshwarden.adapters.grpc_calls import Calls, Method
from meshwarden.adapters.logs import logger
from meshwarden.adapters.nghttp2_connection import Connection
from meshwarden.adapters.nghttp2_session import http2
from meshwarden.adapters.nghttp2_shared import Client, Shared
from meshwarden.adapters.settings import GrpcSettings
from meshwarden.adapters.telemetry import Metrics
from meshwarden.adapters.tls import Certificates

LOOK_INTERVAL_SECONDS = 1.0
HANDSHAKE_SECONDS_AT_MOST = 10.0
ACCEPT_PAUSE_SECONDS = 0.1
"""After an accept that failed, as it does without free file descriptors."""
FILES_FOR_OTHERS = 128
"""Descriptors of Redis, issuers, the HTTP and the streaming port."""
AGE_SPREAD = 0.1
"""Connections that were opened together don't end together."""


class Nghttp2Port:
    """Serves `methods` on one socket."""

    def __init__(
        self,
        settings: GrpcSettings,
        methods: Mapping[str, Method],
        calls: Calls,
        *,
        metrics: Metrics,
        certificates: Certificates | None,
        shared_ports: bool,
    ) -> None:
        """Raises `nghttp2_library.Unusable`."""
        self._settings = settings
        self._certificates = certificates
        self._shared_ports = shared_ports
        self._connections: set[Connection] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._opening: dict[Connection, socket.socket] = {}
        self._places = _places(settings.connections_at_most)
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._loop = asyncio.get_running_loop()
        self._shared = Shared(
            http2=http2(),
            settings=settings,
            methods={path.encode(): method for path, method in methods.items()},
            calls=calls,
            clock=self._loop.time,
            judge=partial(_judge, client_san=certificates.client_san if certificates else ""),
            cut=metrics.tally(
                "grpc_connections_cut",
                "Connections that were ended for what they did or did not do, by reason.",
                ["reason"],
            ),
            remember=self._remember,
            forget=self._forget,
        )
        self._socket: socket.socket | None = None
        self._again: asyncio.TimerHandle | None = None
        metrics.gauge(
            "grpc_connections", "Connections to the main port.", lambda: len(self._connections)
        )
        self.version = self._shared.http2.library.version

    def bind(self) -> int:
        """Bind the port, or the UNIX socket in its place: then there is none, 0. Raises
        `Misconfigured` when it is taken.
        """
        settings = self._settings
        if settings.socket:
            self._socket = _bound_unix(settings.socket)
        else:
            self._socket = ports.bind(settings.host, settings.port, shared=self._shared_ports)
        self._socket.setblocking(False)
        return 0 if settings.socket else int(self._socket.getsockname()[1])

    async def start(self) -> None:
        """Take connections."""
        assert self._socket is not None  # noqa: S101 - `bind` comes first.
        self._socket.listen(1024)
        self._listen()
        self._run(self._look())

    async def stop(self, grace_seconds: float) -> None:
        """Take no new connection nor call, let those in flight end within the grace, then cut."""
        if self._again is not None:
            self._again.cancel()
        bound, self._socket = self._socket, None
        if bound is not None:
            self._loop.remove_reader(bound)
            bound.close()
            _take_away(self._settings.socket)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for accepted in self._opening.values():
            accepted.close()
        for connection in list(self._connections):
            connection.drain()
        ends = self._loop.time() + grace_seconds
        while self._connections and (left := ends - self._loop.time()) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_empty.wait(), min(left, LOOK_INTERVAL_SECONDS))
            self._look_once()
        for connection in list(self._connections):
            connection.abort("stopped")
        await self._is_empty.wait()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _accept(self) -> None:
        """Take a connection that waits; the next turn takes the next."""
        assert self._socket is not None  # noqa: S101 - it is what is ready.
        try:
            accepted, _ = self._socket.accept()
        except BlockingIOError:
            return
        except OSError as error:
            logger().error("accept_failed", error=error.strerror)
            self._loop.remove_reader(self._socket)
            self._again = self._loop.call_later(ACCEPT_PAUSE_SECONDS, self._listen)
            return
        if len(self._connections) + len(self._opening) >= self._places:
            self._shared.cut.add("too_many_connections")
            accepted.close()
            return
        connection = self._connection()
        self._opening[connection] = accepted
        self._run(self._open(connection, accepted))

    def _listen(self) -> None:
        assert self._socket is not None  # noqa: S101 - a closed one cancels this.
        self._loop.add_reader(self._socket, self._accept)

    async def _open(self, connection: Connection, accepted: socket.socket) -> None:
        try:
            accepted.setblocking(False)
            context = None if self._certificates is None else self._certificates.grpc_context()
            if accepted.family != socket.AF_UNIX:
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            waits = None if context is None else HANDSHAKE_SECONDS_AT_MOST
            await self._loop.connect_accepted_socket(
                lambda: connection, accepted, ssl=context, ssl_handshake_timeout=waits
            )
        except (OSError, ssl.SSLError) as error:
            logger().debug("handshake_failed", error=type(error).__name__)
            accepted.close()
        finally:
            self._opening.pop(connection, None)

    def _connection(self) -> Connection:
        age = self._settings.connection_age_seconds
        lives = age * (1 + AGE_SPREAD * (2 * random.random() - 1))  # noqa: S311 - no secret
        return Connection(self._shared, lives_seconds=lives)

    def _remember(self, connection: Connection) -> None:
        self._opening.pop(connection, None)
        self._connections.add(connection)
        self._is_empty.clear()

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._is_empty.set()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_INTERVAL_SECONDS)
            self._look_once()

    def _look_once(self) -> None:
        """At each connection; a fault of ours with one of them must not leave the others alone."""
        for connection in list(self._connections):
            try:
                connection.look(self._loop.time())
            except Exception as error:
                logger().error("look_failed", error=type(error).__name__, exc_info=True)
                connection.abort("fault")


def _places(at_most: int) -> int:
    """How many connections there may be: each takes a file descriptor, and some are for others."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return at_most
    return max(1, min(at_most, descriptors - FILES_FOR_OTHERS))


def _judge(transport: asyncio.BaseTransport, *, client_san: str) -> Client:
    """What the client of a connection may do, which has shaken hands."""
    shaken: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    if shaken is None:
        return Client.MAY_CALL
    if shaken.selected_alpn_protocol() != "h2":
        return Client.SPEAKS_NO_HTTP2
    if client_san and not holds_name(names_of(shaken.getpeercert() or {}), client_san):
        return Client.IS_NOT_NAMED
    return Client.MAY_CALL


def _take_away(path: str) -> None:
    """A UNIX socket stays in its folder after its server; an abstract one does not."""
    if path and not path.startswith("@"):
        Path(path).unlink(missing_ok=True)


def _bound_unix(path: str) -> socket.socket:
    """A bound UNIX socket; what a dead server left there is taken away."""
    ports.require_free_socket(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    _take_away(path)
    bound.bind("\0" + path[1:] if path.startswith("@") else path)
    return bound
