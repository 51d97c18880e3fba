"""What an operator may choose about the rendered Envoy; the rest is fixed where it is built."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Port = Annotated[int, Field(ge=1, le=65535)]
ListenPort = Annotated[int, Field(ge=0, le=65535, description="0: any free port.")]
Host = Annotated[str, Field(min_length=1, max_length=253, description="Address or DNS name.")]
Address = Annotated[str, Field(min_length=2, max_length=45, description="IP address to bind.")]
MEBIBYTE = 1024 * 1024


class EnvoyOptions(BaseModel):
    """One Envoy at the edge, one authorizer, one rate-limit service, one upstream."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen_address: Address = "127.0.0.1"
    listen_port: ListenPort = 10000
    admin_address: Literal["127.0.0.1", "::1"] = Field(
        default="127.0.0.1", description="Loopback only: whoever reaches it commands Envoy."
    )
    admin_port: ListenPort = 9901

    ext_authz_enabled: bool = Field(
        default=True, description="False renders no authorization at all: for measuring alone."
    )
    ext_authz_host: Host = "127.0.0.1"
    ext_authz_port: Port = 9001
    ext_authz_timeout_seconds: float = Field(default=0.2, gt=0, le=5)

    ratelimit_enabled: bool = True
    ratelimit_host: Host = "127.0.0.1"
    ratelimit_port: Port = 8081
    ratelimit_timeout_seconds: float = Field(default=0.15, gt=0, le=5)
    ratelimit_domain: str = Field(default="quickstart", min_length=1, max_length=253)

    local_rate_limit_enabled: bool = True
    local_rate_limit_per_second: int = Field(
        default=5000, ge=1, le=10_000_000, description="Requests of one client address."
    )
    local_rate_limit_burst: int = Field(
        default=5000, ge=1, le=10_000_000, description="Most of them at once."
    )
    local_rate_limit_addresses_at_most: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="Buckets that are remembered; the least recently used goes first.",
    )

    upstream_host: Host = "127.0.0.1"
    upstream_port: Port = 8088
    upstream_protocol: Literal["http1", "http2"] = "http1"
    upstream_health_path: str = Field(default="/healthz", pattern=r"^/\S*$", max_length=200)
    upstream_timeout_seconds: float = Field(
        default=15, gt=0, le=3600, description="A whole request at the upstream, retries included."
    )
    upstream_connect_timeout_seconds: float = Field(default=1, gt=0, le=1)
    retries_at_most: int = Field(default=2, ge=0, le=10)
    retry_budget_percent: float = Field(
        default=20, ge=0, le=100, description="Of the requests in flight; three are always allowed."
    )

    connection_idle_timeout_seconds: float = Field(default=3600, gt=0, le=86_400)
    stream_idle_timeout_seconds: float = Field(default=300, gt=0, le=86_400)
    request_timeout_seconds: float = Field(
        default=300, gt=0, le=86_400, description="Receiving a whole request."
    )
    request_headers_timeout_seconds: float = Field(default=10, gt=0, le=300)

    headers_at_most: int = Field(
        default=100,
        ge=30,
        le=1000,
        description="Of a request, what the authorizer adds included (ext_authz.md, trap 12).",
    )
    headers_kibibytes_at_most: int = Field(default=60, ge=8, le=8192)
    buffer_bytes_at_most: int = Field(
        default=32_768, ge=4096, le=MEBIBYTE, description="Of each connection, on both sides."
    )
    streams_at_most: int = Field(
        default=100, ge=1, le=1000, description="Concurrent HTTP/2 streams of one connection."
    )
    listener_connections_at_most: int = Field(default=10_000, ge=1, le=1_000_000)
    connections_at_most: int = Field(
        default=50_000, ge=1, le=1_000_000, description="Over all listeners."
    )
    heap_bytes_at_most: int = Field(default=1024 * MEBIBYTE, ge=64 * MEBIBYTE, le=2**40)
    server_name: str = Field(default="meshwarden", pattern=r"^[A-Za-z0-9._-]{1,64}$")
