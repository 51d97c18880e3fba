"""TLS of a service's ports: a certificate, its key and the CA of its clients, followed as their
files change.

    files -> bundle -> pair_from -> Pair -> gRPC   gets the newest at each handshake
                           |             -> HTTP   has it loaded into its one context
                           +-- InvalidInput: refused, told once, counted; the last good pair serves

A connection keeps what it was opened with. What is served is written anew from what was judged, so
text around the PEM blocks does no harm. A start of validity in the future is no fault: clocks
differ, and the same files would never be judged again. Known weakness: grpcio writes a
line to standard error for each handshake that fails.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from meshwarden.adapters.folder_source import FolderSource
from meshwarden.adapters.logs import logger
from meshwarden.adapters.settings import TlsSettings
from meshwarden.adapters.telemetry import Metrics
from meshwarden.core.faults import InvalidInput, Misconfigured, Problem
from meshwarden.core.snapshot import Accepted, Refused, SnapshotHolder, Unchanged

CERTIFICATE = "tls.certificate_file"
KEY = "tls.key_file"
CLIENT_CA = "tls.client_ca_file"
RESYNC_SECONDS = 5.0
"""The files are read again this often even when no change was seen."""

PEM = serialization.Encoding.PEM
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its chain, its key, and the CA of clients where they must have one; each
    in PEM. `expires` is Unix time.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    serial: str
    expires: float


def pair_from(files: Mapping[str, bytes], *, now: float) -> Pair:
    """The pair in `files`, which are named as their settings.

    Raises `InvalidInput` with every problem of every file that is there.
    """
    problems: list[Problem] = []
    chain = _certificates(files, CERTIFICATE, problems=problems, now=now)
    authorities = _certificates(files, CLIENT_CA, problems=problems, now=now)
    key = _key(files, problems)
    if chain and key is not None and not _is_key_of(key, chain[0]):
        problems.append(Problem(KEY, 0, f"is not the key of the certificate in {CERTIFICATE}"))
    if problems or not chain or key is None:
        raise InvalidInput(problems)
    pair = Pair(
        certificate=_pem(chain),
        key=key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        client_ca=_pem(authorities) if authorities else None,
        serial=f"{chain[0].serial_number:x}",
        expires=chain[0].not_valid_after_utc.timestamp(),
    )
    try:
        _load(_context(), pair)
    except ssl.SSLError as error:
        what = f"can't be used by TLS: {error.reason or 'unknown reason'}"
        raise InvalidInput([Problem(CERTIFICATE, 0, what)]) from None
    return pair


def require(settings: TlsSettings, *, now: float) -> None:
    """Raise `Misconfigured` with everything that is wrong with the settings and their files."""
    bundle = _source(settings).read()
    problems = [*_contradictions(settings), *bundle.unreadable]
    try:
        pair_from(bundle.files, now=now)
    except InvalidInput as error:
        problems += error.problems
    if problems:
        raise Misconfigured(problems)


class Certificates:
    """The pair that serves, and the way to the next one."""

    def __init__(
        self, settings: TlsSettings, *, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        """Raises `Misconfigured` where the files hold no usable pair."""
        self.client_san = settings.client_san
        self._source = _source(settings)
        self._holder = SnapshotHolder(lambda bundle: pair_from(bundle.files, now=clock()))
        self._told: Refused | None = None
        self._context: ssl.SSLContext | None = None
        self._grpc: tuple[Pair, ssl.SSLContext] | None = None
        first = self._holder.offer(self._source.read())
        if isinstance(first, Refused):
            raise Misconfigured(first.problems)
        self._reloads = metrics.tally(
            "tls_reloads", "Changed certificates, by what became of them.", ["outcome"]
        )
        metrics.gauge(
            "tls_certificate_expiry_timestamp_seconds",
            "Unix time at which the serving certificate expires; of several workers the earliest.",
            lambda: self.pair.expires,
            across_workers="livemin",
        )
        metrics.gauge(
            "tls_certificate_is_refused",
            "1 while the newest certificate is refused and an older one serves.",
            lambda: float(self._holder.refusal is not None),
        )

    @property
    def pair(self) -> Pair:
        """What new connections get."""
        assert self._holder.current is not None  # noqa: S101 - the constructor saw to it.
        return self._holder.current

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Credentials for one port, which may not share them: each remembers what it has."""
        first = self.pair
        return grpc.dynamic_ssl_server_credentials(
            _grpc_configuration(first),
            _NewestForGrpc(self, first),
            require_client_authentication=first.client_ca is not None,
        )

    def grpc_context(self) -> ssl.SSLContext:
        """The context of a new connection of gRPC, where Python's ssl serves it: made anew for each
        pair, since a context forgets no CA.
        """
        pair = self.pair
        if self._grpc is None or self._grpc[0] is not pair:
            context = _context("h2")
            _load(context, pair)
            if pair.client_ca is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(cadata=pair.client_ca.decode())
            self._grpc = pair, context
        return self._grpc[1]

    def http_context(self) -> ssl.SSLContext:
        """The context of all HTTP ports. Clients need no certificate: a kubelet has none."""
        if self._context is None:
            self._context = _context()
            _load(self._context, self.pair)
        return self._context

    async def follow(self) -> None:
        """Take or refuse each change of the files, for ever."""
        async with aclosing(self._source.changes(RESYNC_SECONDS)) as bundles:
            async for bundle in bundles:
                self._took(await asyncio.to_thread(self._holder.offer, bundle))

    def _took(self, outcome: Accepted | Unchanged | Refused) -> None:
        if isinstance(outcome, Accepted):
            if self._context is not None:
                _load(self._context, self.pair)
            self._reloads.add("accepted")
            logger().info("tls_accepted", serial=self.pair.serial, expires=_time(self.pair))
        elif isinstance(outcome, Refused) and outcome is not self._told:
            # The holder gives the same refusal as long as the same files are offered.
            self._reloads.add("refused")
            logger().error(
                "tls_refused",
                still_serving=self.pair.serial,
                problems=[str(problem) for problem in outcome.problems],
            )
        self._told = self._holder.refusal

    def status(self) -> dict[str, object]:
        """What serves, and what was refused and why, for `/readyz?verbose`."""
        refusal = self._holder.refusal
        return {
            "serial": self.pair.serial,
            "expires": _time(self.pair),
            "clients_need_a_certificate": self.pair.client_ca is not None,
            "refused": None if refusal is None else [str(problem) for problem in refusal.problems],
        }


class _NewestForGrpc:
    """Tells gRPC at each handshake which pair to use; None: the one that it has."""

    def __init__(self, certificates: Certificates, known: Pair) -> None:
        self._certificates = certificates
        self._known = known

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        newest = self._certificates.pair
        if newest is self._known:
            return None
        self._known = newest
        return _grpc_configuration(newest)


def _grpc_configuration(pair: Pair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(pair.key, pair.certificate)], root_certificates=pair.client_ca
    )


def _source(settings: TlsSettings) -> FolderSource:
    named: dict[str, Path | None] = {
        CERTIFICATE: settings.certificate_file,
        KEY: settings.key_file,
        CLIENT_CA: settings.client_ca_file,
    }
    return FolderSource(None, extra={n: path for n, path in named.items() if path is not None})


def _contradictions(settings: TlsSettings) -> list[Problem]:
    """What the settings can't mean together."""
    problems = []
    if settings.client_san and settings.client_ca_file is None:
        hint = f"set {CLIENT_CA}"
        problems.append(Problem("tls.client_san", 0, "needs the CA that signs clients", hint))
    certificate, key = settings.certificate_file, settings.key_file
    if (certificate is None) != (key is None):
        missing, given = (CERTIFICATE, KEY) if certificate is None else (KEY, CERTIFICATE)
        problems.append(Problem(missing, 0, f"is needed with {given}", "set both or none"))
    if certificate is None and key is None:
        hint = f"set {CERTIFICATE} and {KEY}"
        if settings.client_ca_file is not None:
            problems.append(Problem(CLIENT_CA, 0, "needs a certificate of the service", hint))
        if settings.http:
            problems.append(Problem("tls.http", 0, "needs a certificate of the service", hint))
    return problems


def _certificates(
    files: Mapping[str, bytes], name: str, *, problems: list[Problem], now: float
) -> list[x509.Certificate]:
    """The certificates of one file, none where it is not there; expired ones are a problem."""
    if name not in files:
        return []
    try:
        found = x509.load_pem_x509_certificates(files[name])
    except ValueError:
        problems.append(Problem(name, 0, "holds no certificate", "PEM is needed"))
        return []
    # A bundle of CAs may hold old ones; a chain begins with the certificate that is shown.
    judged = found[:1] if name == CERTIFICATE else found
    last = max(certificate.not_valid_after_utc for certificate in judged)
    if last.timestamp() <= now:
        problems.append(Problem(name, 0, f"expired at {last.isoformat()}", "renew it"))
    return found


def _key(files: Mapping[str, bytes], problems: list[Problem]) -> PrivateKey | None:
    """The private key; the library's own words are not told, lest they hold a part of it."""
    if KEY not in files:
        return None
    try:
        key = serialization.load_pem_private_key(files[KEY], password=None)
    except TypeError:
        problems.append(Problem(KEY, 0, "is encrypted", "a key without a password is needed"))
        return None
    except (ValueError, UnsupportedAlgorithm):
        problems.append(Problem(KEY, 0, "holds no private key", "PEM is needed"))
        return None
    if isinstance(key, rsa.RSAPrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in ("secp256r1", "secp384r1"):
        return key
    problems.append(Problem(KEY, 0, "is of a kind that gRPC does not take", "RSA, P-256 or P-384"))
    return None


def _is_key_of(key: PrivateKey, certificate: x509.Certificate) -> bool:
    try:
        return bool(certificate.public_key() == key.public_key())
    except (ValueError, UnsupportedAlgorithm):
        return False


def _pem(certificates: list[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(PEM) for certificate in certificates)


def _context(protocol: str = "http/1.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([protocol])
    return context


def _load(context: ssl.SSLContext, pair: Pair) -> None:
    """Put `pair` into `context`, which takes files only: it gets one that is in memory alone, so
    that what was judged is what is loaded, whatever the folder holds by now.
    """
    with os.fdopen(os.memfd_create("tls-pair"), "wb") as file:
        file.write(pair.key + pair.certificate)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")


def _time(pair: Pair) -> str:
    return datetime.fromtimestamp(pair.expires, UTC).isoformat()
