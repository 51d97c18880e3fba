"""Settings of a configuration stream: which server, who we are to it, how it is reached.

The words of lists are the reference's (`CONFIG_GRPC_XDS_*` of envoyproxy/ratelimit): pairs between
commas.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, SecretStr, field_validator, model_validator

from meshwarden.adapters.durations import Seconds
from meshwarden.adapters.settings import Section
from meshwarden.core.backoff import Backoff

_HEADER_NAME = re.compile(r"[0-9a-z_.-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
GRPC_MESSAGE_BYTES = 4 << 20


class AdsSettings(Section):
    """The configuration stream; used when configuration.source is xds."""

    server: str = Field(
        "localhost:18000", min_length=1, description="host:port of the ADS server, or unix:PATH."
    )
    node_id: str = Field("default", description="Who we are to the server.")
    node_metadata: str = Field(
        "", description="More about us: key=value,key=value; a part without = is left out."
    )
    headers: SecretStr = Field(
        SecretStr(""), description="Sent with each stream: name:value,name:value."
    )
    message_bytes_at_most: int = Field(
        16 << 20,
        ge=0,
        le=1 << 30,
        description="A larger response ends the stream; 0 takes gRPC's own 4 MiB.",
    )
    connect_time_limit_seconds: Seconds = Field(
        10, gt=0, le=600, description="A try to connect is given up after this long."
    )
    connect_retry_seconds: Seconds = Field(
        3, gt=0, le=3600, description="Wait between two tries to connect, give or take a half."
    )
    keepalive_interval_seconds: Seconds = Field(
        330,
        gt=0,
        le=86_400,
        description="A silent server is probed this often; a Go server by default ends a "
        "connection that is probed every five minutes or more often.",
    )
    keepalive_time_limit_seconds: Seconds = Field(
        20, gt=0, le=600, description="A probe without an answer for this long ends the connection."
    )
    backoff_initial_seconds: Seconds = Field(
        1,
        gt=0,
        le=3600,
        description="Wait after a stream that ended; begins anew with each response.",
    )
    backoff_at_most_seconds: Seconds = Field(60, gt=0, le=3600, description="The longest wait.")
    backoff_random_factor: float = Field(
        2,
        ge=0,
        le=100,
        description="Each further failure waits this many times as long; below 1 no longer. Named "
        "after the reference's; nothing about it is random.",
    )
    backoff_jitter: bool = Field(True, description="Shorten each wait by up to half, at random.")
    tls: bool = Field(False, description="Speak TLS; the files are read at each connection.")
    tls_ca_file: Path | None = Field(
        None, description="PEM file of the CAs of the server; else the machine's."
    )
    tls_certificate_file: Path | None = Field(
        None, description="PEM file of the certificate that we show, and its chain."
    )
    tls_key_file: Path | None = Field(None, description="PEM file of its private key.")
    tls_server_san: str = Field(
        "", description="Name that the server's certificate must be for; else the address's."
    )

    @field_validator("headers")
    @classmethod
    def require_pairs(cls, value: SecretStr) -> SecretStr:
        """Refuse, without showing it, what can't be sent as headers."""
        for part in _parts(value.get_secret_value()):
            name, separator, text = part.partition(":")
            if not separator or not _HEADER_NAME.fullmatch(name.strip().lower()):
                raise ValueError("a part is not name:value")
            if not _HEADER_VALUE.fullmatch(text):
                raise ValueError(f"the value of {name} has characters that a header can't have")
        return value

    @model_validator(mode="after")
    def require_whole_pair(self) -> AdsSettings:
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_certificate_file and tls_key_file: set both or none")
        return self

    def header_pairs(self) -> list[tuple[str, str | bytes]]:
        """The headers as gRPC takes them; names that end in `-bin` are bytes there."""
        pairs: list[tuple[str, str | bytes]] = []
        for part in _parts(self.headers.get_secret_value()):
            name, _, text = part.partition(":")
            name = name.strip().lower()
            pairs.append((name, text.encode() if name.endswith("-bin") else text.strip()))
        return pairs

    def metadata_pairs(self) -> dict[str, str]:
        """The node's metadata."""
        pairs = (part.partition("=") for part in self.node_metadata.split(","))
        return {key: value for key, separator, value in pairs if separator}

    def backoff_rule(self) -> Backoff:
        return Backoff(
            self.backoff_initial_seconds,
            self.backoff_at_most_seconds,
            self.backoff_random_factor,
            self.backoff_jitter,
        )


def _parts(text: str) -> list[str]:
    return [part for part in text.split(",") if part.strip()]
