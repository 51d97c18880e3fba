"""Certificates of our services, laid down in files as operators do, and how a client uses them.

Knows nothing of our services.
"""

from __future__ import annotations

import itertools
import socket
import ssl
from datetime import timedelta
from pathlib import Path

import grpc
from cryptography import x509

from tests.support.certificates import Authority, Issued

NAME = "meshwarden.internal"
"""The DNS name in the certificates of our services."""


def issued(ca: Authority, *names: str, days: int = 30) -> Issued:
    """A certificate for `names`, else for our services; it expires in `days`."""
    ends = timedelta(days=days)
    return ca.issue(dns=names or (NAME, "127.0.0.1"), starts=ends - timedelta(days=60), ends=ends)


class Mount:
    """A folder that holds `tls.crt`, `tls.key` and `ca.crt` as Kubernetes mounts a Secret: links
    into `..data`, a link itself, which is swapped at once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = itertools.count()

    @property
    def certificate(self) -> Path:
        return self.folder / "tls.crt"

    @property
    def key(self) -> Path:
        return self.folder / "tls.key"

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    def put(self, pair: Issued, *authorities: bytes) -> None:
        """Swap in `pair`, and the CAs of those that are to be trusted."""
        version = self.folder / f"..{next(self._numbers)}"
        version.mkdir(parents=True)
        content = {
            "tls.crt": pair.certificate,
            "tls.key": pair.key,
            "ca.crt": b"".join(authorities),
        }
        for name, text in content.items():
            (version / name).write_bytes(text)
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(Path("..data", name))
        new = self.folder / "..data_tmp"
        new.symlink_to(version.name)
        new.replace(self.folder / "..data")

    def flags(self, *, is_mutual: bool = True) -> tuple[str, ...]:
        """The settings that name these files."""
        own = ("--tls.certificate-file", str(self.certificate), "--tls.key-file", str(self.key))
        return (*own, "--tls.client-ca-file", str(self.ca)) if is_mutual else own


def renamed_into_place(pair: Issued, folder: Path) -> None:
    """Put `pair` as `mv` does, one file after the other."""
    for name, text in (("tls.crt", pair.certificate), ("tls.key", pair.key)):
        new = folder / f".{name}"
        new.write_bytes(text)
        new.replace(folder / name)


def shown_serial(
    port: int, *, protocol: str = "h2", version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> str:
    """The serial number of the certificate that a new connection to `port` is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # Else a client would not even try 1.1.
    context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=NAME) as connection,
    ):
        assert connection.selected_alpn_protocol() == protocol
        shown = connection.getpeercert(binary_form=True)
        assert shown is not None
        return f"{x509.load_der_x509_certificate(shown).serial_number:x}"


def channel(port: int, trusted: bytes, shown: Issued | None = None) -> grpc.Channel:
    """A connection of its own that trusts these CAs and shows this certificate."""
    pair = (None, None) if shown is None else (shown.key, shown.certificate)
    return grpc.secure_channel(
        f"127.0.0.1:{port}",
        grpc.ssl_channel_credentials(trusted, *pair),
        [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", NAME)],
    )


def unencrypted(port: int) -> grpc.Channel:
    return grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])
