"""`.meshwarden/`: what this machine's development system keeps: issuer key, API keys, demo.

issuer.pem (0600)   signs development tokens          jwks.json          its public part
api_keys.json       records of API keys, digests      pepper (0600)      the secret of the digests
revocations.json    revoked tokens
signing.json (0600) the keys that sign identity tokens
demo.json (0600)    what `up` started                 demo.env (0600)    its credentials for a shell
addresses.json      where the running `up` listens
up.lock             held by a running `up`, whose process id is in it
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ext_authz.core.jwk import private_jwk, public_jwk
from meshwarden.core.faults import Misconfigured, Problem

DEVELOPMENT_ISSUER = "https://development.meshwarden.invalid"
DEVELOPMENT_AUDIENCE = "quickstart"
API_KEY_HEADER = "x-api-key"

State = Annotated[
    Path,
    typer.Option(
        "--state",
        envvar="MESHWARDEN_STATE",
        help="Folder of the development issuer's key, API keys and demo credentials.",
    ),
]
DEFAULT_STATE = Path(".meshwarden")


class StateFolder:
    """One such folder; makes what is missing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.jwks = path / "jwks.json"
        self.api_keys = path / "api_keys.json"
        self.pepper = path / "pepper"
        self.revocations = path / "revocations.json"
        self.signing_keys = path / "signing.json"
        self.demo = path / "demo.json"
        self.demo_environment = path / "demo.env"
        self.addresses = path / "addresses.json"
        self._issuer_key = path / "issuer.pem"

    def prepare(self) -> bool:
        """Make the folder, the issuer's key and its JWKS, the pepper and empty lists of API
        keys and revocations; whether the issuer's key is a new one.
        """
        with self.locked():
            is_new = not self._issuer_key.exists()
            self._private_key()
            if not self.pepper.exists():
                write_private(self.pepper, secrets.token_hex(32) + "\n")
            if not self.api_keys.exists():
                write_private(self.api_keys, '{"version": 1, "keys": []}\n')
            if not self.signing_keys.exists():
                key = private_jwk(ec.generate_private_key(ec.SECP256R1()), 0)
                write_private(self.signing_keys, json.dumps({"keys": [key]}, indent=2) + "\n")
            if not self.revocations.exists():
                write_private(self.revocations, '{"version": 1, "revocations": []}\n')
        return is_new

    def forget_run(self) -> None:
        """Take away what a run of `up` wrote, its credentials among it."""
        for path in (self.demo, self.demo_environment, self.addresses):
            path.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands out while something is changed. Raises `Misconfigured` where we may
        not write.
        """
        with self._opened(".lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def held_by_up(self) -> Iterator[None]:
        """Keep a second `up` out for as long as this one runs, however it ends. Raises
        `Misconfigured`, naming the process that holds the folder.
        """
        with self._opened("up.lock") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = lock.read().strip() or "unknown"
                what = f"{self.path} is in use by `meshwarden up` with pid {holder}"
                raise Misconfigured([Problem("", 0, what, "give this one --state DIR")]) from None
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            yield

    def _opened(self, name: str) -> TextIO:
        """A lock file, made where it is missing, as it is else."""
        if self.path.exists() and not self.path.is_dir():
            raise Misconfigured(f"{self.path} is not a folder")
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (self.path / name).open("a+")
            lock.seek(0)
        except OSError as error:
            raise Misconfigured(f"{self.path} can't be written: {error.strerror}") from None
        return lock

    def sign(self, claims: dict[str, Any]) -> str:
        """A token of the development issuer (ES256)."""
        import jwt

        key = self._private_key()
        return jwt.encode(
            claims,
            key,
            algorithm="ES256",
            headers={"kid": public_jwk(key.public_key())["kid"], "typ": "at+jwt"},
        )

    def _private_key(self) -> ec.EllipticCurvePrivateKey:
        if not self._issuer_key.exists():
            made = ec.generate_private_key(ec.SECP256R1())
            pem = made.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            write_private(self._issuer_key, pem.decode())
        try:
            key = serialization.load_pem_private_key(self._issuer_key.read_bytes(), None)
        except (OSError, ValueError, TypeError):
            raise Misconfigured(f"{self._issuer_key} is not a private key; remove it") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise Misconfigured(f"{self._issuer_key} is not a P-256 key; remove it")
        jwks = json.dumps({"keys": [public_jwk(key.public_key())]}, indent=2) + "\n"
        if not self.jwks.exists() or self.jwks.read_text() != jwks:
            write_private(self.jwks, jwks, mode=0o644)
        return key


def prepared(path: Path) -> StateFolder:
    """The state folder at `path` with everything in it; a new one is told on standard error."""
    folder = StateFolder(path)
    if folder.prepare():
        sys.stderr.write(f"made a new development issuer in {path}\n")
    return folder


def development_claims(
    subject: str, roles: list[str], *, expires_in_seconds: float, now: float | None = None
) -> dict[str, Any]:
    """The claims of a development token; a negative time makes an expired one."""
    issued = time.time() if now is None else now
    return {
        "iss": DEVELOPMENT_ISSUER,
        "aud": DEVELOPMENT_AUDIENCE,
        "sub": subject,
        "iat": int(min(issued, issued + expires_in_seconds)),
        "exp": int(issued + expires_in_seconds),
        "jti": secrets.token_hex(8),
        "roles": roles,
    }


def write_private(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Write a file whole or not at all, readable by its owner only unless `mode` says else."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w") as file:
        file.write(text)
        os.fchmod(file.fileno(), mode)
    Path(name).replace(path)
