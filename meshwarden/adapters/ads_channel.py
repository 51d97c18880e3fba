"""The connection to an ADS server: its options, and its TLS, whose files are read each time."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from meshwarden.adapters.ads_settings import GRPC_MESSAGE_BYTES, AdsSettings
from meshwarden.core.faults import Misconfigured, Problem


def ads_channel(settings: AdsSettings) -> Any:
    """A channel of its own, not connected yet. Raises `Misconfigured` for files that can't be read.

    A new channel takes no part in another's waiting, and a certificate that was renewed is shown
    from the next connection on.
    """
    probe_milliseconds = int(settings.keepalive_time_limit_seconds * 1000)
    options: list[tuple[str, int | str]] = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", settings.message_bytes_at_most or GRPC_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", int(settings.keepalive_interval_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", probe_milliseconds),
        # A probe is a ping, too, whose own limit is a minute otherwise (tried, gRPC 1.85).
        ("grpc.http2.ping_timeout_ms", probe_milliseconds),
        # A server that has nothing new is silent for days; probes go on all the same.
        ("grpc.http2.max_pings_without_data", 0),
    ]
    if not settings.tls:
        return aio.insecure_channel(settings.server, options)
    if settings.tls_server_san:
        options.append(("grpc.ssl_target_name_override", settings.tls_server_san))
    return aio.secure_channel(settings.server, ads_credentials(settings), options)


def ads_credentials(settings: AdsSettings) -> Any:
    """What we trust and what we show. Raises `Misconfigured` for files that can't be read.

    Where a CA is named, it alone is trusted (the reference adds the machine's).
    """
    problems: list[Problem] = []
    ca = _content(settings.tls_ca_file or _machines_authorities(), "xds.tls_ca_file", problems)
    certificate = _content(settings.tls_certificate_file, "xds.tls_certificate_file", problems)
    key = _content(settings.tls_key_file, "xds.tls_key_file", problems)
    if problems:
        raise Misconfigured(problems)
    return grpc.ssl_channel_credentials(ca, key, certificate)


def _machines_authorities() -> Path | None:
    """The machine's file of CAs; None: those that gRPC brings along."""
    found = ssl.get_default_verify_paths().cafile
    return None if found is None else Path(found)


def _content(path: Path | None, name: str, problems: list[Problem]) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        problems.append(Problem(name, 0, f"{path} can't be read: {error.strerror}"))
        return None
