"""What certificate and key files may hold, what is refused, and that all of it is told at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from meshwarden.adapters import tls
from meshwarden.adapters.settings import TlsSettings
from meshwarden.core.faults import InvalidInput, Misconfigured
from tests.support.certificates import Authority, Issued
from tests.support.service_certificates import issued

CA = Authority()
PAIR = issued(CA)
OTHER = issued(CA)
EXPIRED = issued(CA, days=-1)
PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8


def written(folder: Path, **content: bytes) -> TlsSettings:
    """Settings that name a file for each setting in `content`."""
    paths = {}
    for name, text in content.items():
        paths[name] = folder / name
        paths[name].write_bytes(text)
    return TlsSettings(**paths)


def told(settings: TlsSettings) -> list[str]:
    with pytest.raises(Misconfigured) as caught:
        tls.require(settings, now=time.time())
    return [str(problem) for problem in caught.value.problems]


def key_pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(PEM, PKCS8, serialization.NoEncryption())


def encrypted() -> bytes:
    key = serialization.load_pem_private_key(PAIR.key, None)
    return key.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"password"))


def test_nothing_set_is_no_fault():
    tls.require(TlsSettings(), now=time.time())


def test_every_fault_of_every_file_is_told_at_once(tmp_path: Path):
    settings = TlsSettings(
        certificate_file=tmp_path / "absent",
        key_file=written(tmp_path, key_file=PAIR.certificate).key_file,
        client_ca_file=written(tmp_path, client_ca_file=PAIR.key).client_ca_file,
    )
    assert told(settings) == [
        f"tls.certificate_file: {tmp_path}/absent can't be read: No such file or directory",
        "tls.client_ca_file: holds no certificate (PEM is needed)",
        "tls.key_file: holds no private key (PEM is needed)",
    ]


@pytest.mark.parametrize(
    ("certificate", "key", "fault"),
    [
        (PAIR.certificate, OTHER.key, "tls.key_file: is not the key of the certificate in"),
        (EXPIRED.certificate, EXPIRED.key, "tls.certificate_file: expired at 20"),
        (PAIR.certificate, b"", "tls.key_file: is empty"),
        (PAIR.certificate, PAIR.key[:80], "tls.key_file: holds no private key"),
        (PAIR.certificate[:80], PAIR.key, "tls.certificate_file: holds no certificate"),
        (PAIR.certificate, encrypted(), "tls.key_file: is encrypted"),
        (
            PAIR.certificate,
            key_pem(ed25519.Ed25519PrivateKey.generate()),
            "tls.key_file: is of a kind that gRPC does not take (RSA, P-256 or P-384)",
        ),
        (
            PAIR.certificate,
            key_pem(ec.generate_private_key(ec.SECP521R1())),
            "tls.key_file: is of a kind that gRPC does not take (RSA, P-256 or P-384)",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_unusable_pair_is_told_without_a_word_of_the_key(
    tmp_path: Path, certificate: bytes, key: bytes, fault: str
):
    [line] = told(written(tmp_path, certificate_file=certificate, key_file=key))
    assert line.startswith(fault)
    assert not [part for part in key.decode().splitlines() if len(part) > 20 and part in line]


def test_a_key_that_tls_finds_too_short_is_refused(tmp_path: Path):
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505
    signed = self_signed(small)
    [line] = told(written(tmp_path, certificate_file=signed.certificate, key_file=signed.key))
    assert line == "tls.certificate_file: can't be used by TLS: EE_KEY_TOO_SMALL"


@pytest.mark.parametrize(
    ("settings", "faults"),
    [
        (
            TlsSettings(key_file=Path("/absent"), client_ca_file=Path("/absent")),
            [
                "tls.certificate_file: is needed with tls.key_file (set both or none)",
                "tls.client_ca_file: /absent can't be read: No such file or directory",
                "tls.key_file: /absent can't be read: No such file or directory",
            ],
        ),
        (
            TlsSettings(http=True),
            [
                "tls.http: needs a certificate of the service "
                "(set tls.certificate_file and tls.key_file)"
            ],
        ),
    ],
)
def test_settings_that_need_each_other_are_told(settings: TlsSettings, faults: list[str]):
    assert told(settings) == faults


def test_a_client_ca_alone_needs_a_certificate(tmp_path: Path):
    assert told(written(tmp_path, client_ca_file=PAIR.ca)) == [
        "tls.client_ca_file: needs a certificate of the service "
        "(set tls.certificate_file and tls.key_file)"
    ]


@pytest.mark.parametrize(
    "decorated",
    [
        lambda pem: b"Bag Attributes\n  friendlyName: x\n" + pem,
        lambda pem: pem.replace(b"\n", b"\r\n"),
        lambda pem: pem + b"\nthe end",
    ],
)
def test_what_stands_around_the_blocks_is_not_served(decorated: Callable[[bytes], bytes]):
    files = {tls.CERTIFICATE: decorated(PAIR.certificate), tls.KEY: decorated(PAIR.key)}
    pair = tls.pair_from(files, now=time.time())
    assert (pair.certificate, pair.serial) == (PAIR.certificate, PAIR.serial)
    assert PAIR.key.splitlines()[1].decode() not in repr(pair)


def test_a_ca_bundle_may_hold_an_old_one_beside_one_that_is_valid():
    files = {tls.CERTIFICATE: PAIR.certificate, tls.KEY: PAIR.key}
    old = EXPIRED.certificate
    tls.pair_from({**files, tls.CLIENT_CA: old + PAIR.ca}, now=time.time())
    with pytest.raises(InvalidInput, match=r"client_ca_file: expired at"):
        tls.pair_from({**files, tls.CLIENT_CA: old}, now=time.time())


def self_signed(key: rsa.RSAPrivateKey) -> Issued:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "small")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    certificate = made.public_bytes(PEM)
    return Issued(certificate, key.private_bytes(PEM, PKCS8, serialization.NoEncryption()), b"")
