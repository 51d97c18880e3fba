"""Where a Redis is and how it is reached, as a section of settings; any service may have one.

Names no library, so that it costs no import. The files it names are read when a service connects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationInfo, field_validator

from meshwarden.adapters.durations import Seconds
from meshwarden.adapters.redis_url import single_url
from meshwarden.adapters.settings import Section

_TLS = "rediss://"
_MASTER_NAME = re.compile(r"[A-Za-z0-9._-]+")


class Address(NamedTuple):
    """One server of several: a host name or IP address, and its port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """The address that `host:port`, or `[IPv6]:port`, names. Raises `ValueError`."""
    try:
        parts = urlsplit(f"//{text}")
        if parts.hostname and parts.port and parts.netloc == text and "@" not in text:
            return Address(parts.hostname, parts.port)
    except ValueError:
        pass
    # What stands before an @ may be a password.
    raise ValueError(f"{text.rpartition('@')[2]!r} is not host:port")


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class RedisSettings(Section):
    """How Redis is reached."""

    type: Annotated[Literal["single", "sentinel", "cluster"], BeforeValidator(_lower)] = Field(
        "single", description="single, sentinel or cluster."
    )
    url: str = Field(
        "redis://127.0.0.1:6379",
        validate_default=True,
        description="single: URL, host:port, or path of a socket; sentinel: the master's name and "
        "the sentinels, NAME,host:port,...; cluster: some of its nodes, host:port,...",
    )
    auth: SecretStr = Field(SecretStr(""), description="Password, or user:password.")
    sentinel_auth: SecretStr = Field(
        SecretStr(""), description="Password, or user:password, for the sentinels themselves."
    )
    time_limit_seconds: Seconds = Field(
        0.1, gt=0, le=60, description="A request waits this long for Redis, connecting included."
    )
    protocol: int = Field(2, ge=2, le=3, description="Version of Redis' protocol, RESP.")
    tls: bool = Field(False, description="Speak TLS with Redis and with the sentinels.")
    tls_ca_file: Path | None = Field(
        None, description="PEM file of CAs that Redis' certificate may have, beside the system's."
    )
    tls_certificate_file: Path | None = Field(
        None, description="PEM file of the certificate to show to Redis. A change is followed."
    )
    tls_key_file: Path | None = Field(
        None, validate_default=True, description="PEM file of that certificate's private key."
    )
    tls_skips_hostname_verification: bool = Field(
        False, description="Redis' certificate may name any host; its CA is verified all the same."
    )

    @property
    def sentinel_master(self) -> str:
        """The name by which the sentinels know the master."""
        return self.url.partition(",")[0].strip()

    @property
    def addresses(self) -> list[Address]:
        """The sentinels, or the nodes that are asked for the cluster's others. Raises
        `ValueError` where one is no address.
        """
        listed = [part.strip() for part in self.url.split(",")]
        return [parse_address(text) for text in listed[self.type == "sentinel" :]]

    @property
    def speaks_tls(self) -> bool:
        return self.tls or (self.url.startswith(_TLS))

    @field_validator("url")
    @classmethod
    def require_its_form(cls, value: str, given: ValidationInfo) -> str:
        """One server's URL whole; of the others' lists every fault."""
        kind = given.data.get("type")
        if kind == "single":
            return single_url(value)
        if kind is not None and (faults := list(_list_faults(value, kind))):
            raise ValueError("; ".join(faults))
        return value

    @field_validator("tls")
    @classmethod
    def require_a_network(cls, value: bool, given: ValidationInfo) -> bool:
        if value and str(given.data.get("url")).startswith("unix://"):
            raise ValueError("can't be spoken over a socket's path")
        return value

    @field_validator(
        "tls_ca_file", "tls_certificate_file", "tls_key_file", "tls_skips_hostname_verification"
    )
    @classmethod
    def require_tls(cls, value: Any, given: ValidationInfo) -> Any:
        is_spoken = given.data.get("tls", True) or str(given.data.get("url")).startswith(_TLS)
        if value and not is_spoken:
            raise ValueError("is set, but tls is not")
        return value

    @field_validator("tls_key_file")
    @classmethod
    def require_a_pair(cls, value: Path | None, given: ValidationInfo) -> Path | None:
        if (given.data.get("tls_certificate_file", value) is None) != (value is None):
            raise ValueError("must be set together with tls_certificate_file")
        return value


def _list_faults(url: str, kind: str) -> Iterator[str]:
    """What is wrong with a list of sentinels or of a cluster's nodes."""
    parts = [part.strip() for part in url.split(",")]
    if kind == "sentinel" and not _MASTER_NAME.fullmatch(parts.pop(0)):
        yield "must begin with the master's name: NAME,host:port,..."
    if not any(parts):
        yield f"must list {kind} addresses: host:port,..."
        return
    for part in parts:
        try:
            parse_address(part)
        except ValueError as error:
            yield str(error)
