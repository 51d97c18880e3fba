"""The settings of ext_authz; each is a flag, an environment variable and a row of the reference
page.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from meshwarden.adapters.settings import GrpcSettings, HttpSettings, Section, ServiceSettings


class KeySettings(Section):
    """Where API keys and the development issuer's keys are."""

    file: Path | None = Field(
        None, description="File of API key records, as `meshwarden keys` writes it."
    )
    pepper_file: Path | None = Field(
        None, description="File with the secret under which the keys' digests were made."
    )
    development_jwks: Path | None = Field(
        None,
        description="Public keys of this machine's development issuer; unset: such an issuer "
        "is refused.",
    )


class Settings(ServiceSettings):
    """Who is calling, and may they."""

    model_config = SettingsConfigDict(env_prefix="EXT_AUTHZ_")

    grpc: GrpcSettings = GrpcSettings(port=9001, streaming_port=9003)
    http: HttpSettings = HttpSettings(port=9002)
    keys: KeySettings = KeySettings()
    remembered_tokens_at_most: int = Field(
        20_000, ge=0, le=10_000_000, description="Verified tokens kept in memory, about 2 kB each."
    )
    key_wait_seconds: float = Field(
        0.1,
        ge=0.001,
        le=10,
        description="A request whose token names an unknown key waits this long for a fetch of "
        "keys; keep it below Envoy's timeout.",
    )
    headers_at_most: int = Field(
        80, ge=1, le=1000, description="A request with more header lines is denied with 431."
    )
