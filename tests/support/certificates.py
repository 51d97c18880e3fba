"""An authority that issues the certificates a test wants: SPIFFE IDs, DNS names, expired ones."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Issued:
    """A certificate and its private key, and the authority that signed it; all in PEM."""

    certificate: bytes
    key: bytes
    ca: bytes = b""

    @property
    def serial(self) -> str:
        return serial_of(self.certificate)

    @property
    def expires(self) -> float:
        parsed = x509.load_pem_x509_certificate(self.certificate)
        return parsed.not_valid_after_utc.timestamp()

    @property
    def as_envoy_sends_it(self) -> str:
        return quote(self.certificate.decode(), safe="")

    def write(self, folder: Path, name: str) -> tuple[str, str]:
        """Write both; the paths of certificate and key."""
        paths = folder / f"{name}.pem", folder / f"{name}.key"
        for path, content in zip(paths, (self.certificate, self.key), strict=True):
            path.write_bytes(content)
        return str(paths[0]), str(paths[1])


def serial_of(certificate: bytes) -> str:
    """The serial number of a certificate in PEM, in hexadecimal."""
    return f"{x509.load_pem_x509_certificate(certificate).serial_number:x}"


class Authority:
    """A certificate authority, self-signed."""

    def __init__(self, name: str = "test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        self._certificate = (
            _builder(self._name, self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(_key_id(self._key), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def certificate(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        *,
        dns: tuple[str, ...] = (),
        uris: tuple[str, ...] = (),
        subject: str = "client",
        starts: datetime.timedelta = -DAY,
        ends: datetime.timedelta = DAY,
    ) -> Issued:
        """A certificate of a new key, for a client and for a server; `dns` may hold addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[Any] = [_general_name(name) for name in dns]
        names += [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = _builder(_named(subject), self._name, key, starts=starts, ends=ends)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        made = (
            builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        private = key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Issued(made.public_bytes(pem), private, self.certificate)


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _key_id(key: ec.EllipticCurvePrivateKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    *,
    starts: datetime.timedelta = -DAY,
    ends: datetime.timedelta = DAY,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + starts)
        .not_valid_after(now + ends)
    )
