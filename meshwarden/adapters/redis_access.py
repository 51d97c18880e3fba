"""How a connection to a Redis server is made: credentials, protocol version, TLS.

The library connects and reads; its own retries and time limits are off, because both belong to the
call, which knows whether anything may have been executed.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from redis.asyncio import connection
from redis.maint_notifications import MaintNotificationsConfig

from meshwarden.adapters.redis_settings import Address, RedisSettings
from meshwarden.core.faults import Misconfigured, Problem

_WITHOUT_ITS_OWN_WAYS: dict[str, Any] = {
    "socket_timeout": None,
    "socket_connect_timeout": None,
    "driver_info": None,
}


class Access:
    """Makes connections, not yet connected, to the servers of one Redis."""

    def __init__(self, settings: RedisSettings, *, auth: SecretStr | None = None) -> None:
        """`auth` stands for that of the settings. Raises `Misconfigured` with every TLS file that
        can't be used.
        """
        self._arguments: dict[str, Any] = {
            **_WITHOUT_ITS_OWN_WAYS,
            **_credentials(settings.auth if auth is None else auth),
            "protocol": settings.protocol,
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }
        self._tls = ClientTls(settings) if settings.speaks_tls else None

    def to_address(self, address: Address) -> Any:
        """A connection to one server of several."""
        return self._made(connection.Connection, {"host": address.host, "port": address.port})

    def to_url(self, url: str) -> Any:
        """A connection to the one server; what its URL says of credentials holds."""
        arguments = dict(connection.parse_url(url))
        kind = arguments.pop("connection_class", connection.Connection)
        return self._made(kind, arguments)

    def _made(self, kind: Any, arguments: dict[str, Any]) -> Any:
        if self._tls is None:
            return kind(**{**self._arguments, **arguments})
        made = connection.SSLConnection(**{**self._arguments, **arguments})
        made.ssl_context.context = self._tls.context()
        return made


class ClientTls:
    """The TLS context of connections to Redis; made anew when one of its files has changed."""

    def __init__(self, settings: RedisSettings) -> None:
        """Raises `Misconfigured` with every file that can't be used."""
        self._settings = settings
        self._made_from: object = None
        self._context: ssl.SSLContext | None = None
        if problems := list(self._problems()):
            raise Misconfigured(problems)

    def context(self) -> ssl.SSLContext:
        """For the next connection. Raises `OSError` where the files can't be used (any more)."""
        state = [_state(path) for path in self._files().values()]
        if self._context is None or state != self._made_from:
            self._context = self._made()
            self._made_from = state
        return self._context

    def _files(self) -> dict[str, Path]:
        settings = self._settings
        named = {
            "tls_ca_file": settings.tls_ca_file,
            "tls_certificate_file": settings.tls_certificate_file,
            "tls_key_file": settings.tls_key_file,
        }
        return {name: path for name, path in named.items() if path is not None}

    def _problems(self) -> list[Problem]:
        problems = []
        for name, path in self._files().items():
            try:
                path.read_bytes()
            except OSError as error:
                problems.append(Problem(str(path), 0, f"{name}: {error.strerror}"))
        if not problems:
            try:
                self.context()
            except OSError as error:
                names = " and ".join(str(path) for path in self._files().values())
                reason = getattr(error, "reason", None) or error
                problems.append(Problem("", 0, f"TLS to redis: {names} can't be used: {reason}"))
        return problems

    def _made(self) -> ssl.SSLContext:
        settings = self._settings
        context = ssl.create_default_context()
        context.check_hostname = not settings.tls_skips_hostname_verification
        if settings.tls_ca_file is not None:
            context.load_verify_locations(settings.tls_ca_file)
        if settings.tls_certificate_file is not None:
            context.load_cert_chain(settings.tls_certificate_file, settings.tls_key_file)
        return context


def _state(path: Path) -> tuple[int, int, int]:
    """Differs once the file was written, or another stands in its place."""
    found = path.stat()
    return found.st_mtime_ns, found.st_ino, found.st_size


def _credentials(auth: SecretStr) -> dict[str, str]:
    username, _, password = auth.get_secret_value().rpartition(":")
    named = {"username": username, "password": password}
    return {name: value for name, value in named.items() if value}
