"""What an operator may choose about the rendered Envoy; the rest is fixed where it is built."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Port = Annotated[int, Field(ge=1, le=65535)]
ListenPort = Annotated[int, Field(ge=0, le=65535)]
Host = Annotated[str, Field(min_length=1, max_length=253)]
FilePath = Annotated[str, Field(max_length=4096)]
MEBIBYTE = 1024 * 1024


class EnvoyOptions(BaseModel):
    """One Envoy at the edge, one authorizer, one rate-limit service, one upstream."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen_address: str = Field(
        default="127.0.0.1", min_length=2, max_length=45, description="IP address of the listener."
    )
    listen_port: ListenPort = Field(default=10000, description="Its port; 0: any free one.")
    admin_address: Literal["127.0.0.1", "::1"] = Field(
        default="127.0.0.1", description="Loopback only: whoever reaches it commands Envoy."
    )
    admin_port: ListenPort = Field(default=9901, description="0: any free one.")

    ext_authz_enabled: bool = Field(
        default=True, description="False renders no authorization at all: for measuring alone."
    )
    ext_authz_host: Host = Field(default="127.0.0.1", description="Address or DNS name.")
    ext_authz_port: Port = Field(default=9001, description="Its gRPC port.")
    ext_authz_timeout_seconds: float = Field(
        default=0.2, gt=0, le=5, description="A decision, retry included; then 503."
    )
    ext_authz_peer_certificate: bool = Field(
        default=False,
        description="Sends the client's certificate: for policies that name its authorities, or "
        "read more of it than its principal.",
    )
    ext_authz_body_bytes_at_most: int = Field(
        default=0,
        ge=0,
        le=MEBIBYTE,
        description="How much of a request's body is sent; 0: none, and the request is not held "
        "back for it.",
    )

    ratelimit_enabled: bool = Field(default=True, description="False asks no rate-limit service.")
    ratelimit_host: Host = Field(default="127.0.0.1", description="Address or DNS name.")
    ratelimit_port: Port = Field(default=8081, description="Its gRPC port.")
    ratelimit_timeout_seconds: float = Field(
        default=0.15, gt=0, le=5, description="A count, retry included; then the request passes."
    )
    ratelimit_domain: str = Field(
        default="quickstart", min_length=1, max_length=253, description="Whose limits apply."
    )

    services_tls_ca_file: FilePath = Field(
        default="",
        description="PEM file, as Envoy sees it: both services must show a certificate of this CA.",
    )
    services_tls_san: str = Field(
        default="",
        max_length=253,
        description="The name in it: DNS name (sent as SNI, too), IP address, or URI.",
    )
    services_tls_certificate_file: FilePath = Field(
        default="", description="Envoy's own certificate, where the services ask for one."
    )
    services_tls_key_file: FilePath = Field(default="", description="Its private key.")
    services_tls_secrets_folder: FilePath = Field(
        default="",
        description="Folder of what `render envoy-secrets` writes: Envoy follows changed "
        "certificates; without it, a restart takes them.",
    )

    local_rate_limit_enabled: bool = Field(
        default=True, description="False removes the limit of each client address."
    )
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

    upstream_host: Host = Field(default="127.0.0.1", description="Address or DNS name.")
    upstream_port: Port = Field(default=8088, description="The workload's port.")
    upstream_protocol: Literal["http1", "http2"] = Field(
        default="http1", description="What the workload speaks; it is not negotiated."
    )
    upstream_health_path: str = Field(
        default="/healthz",
        pattern=r"^/\S*$",
        max_length=200,
        description="Answers 200 while the workload is healthy.",
    )
    upstream_timeout_seconds: float = Field(
        default=15, gt=0, le=3600, description="A whole request at the upstream, retries included."
    )
    upstream_connect_timeout_seconds: float = Field(
        default=1, gt=0, le=1, description="A TCP connection to the upstream."
    )
    retries_at_most: int = Field(default=2, ge=0, le=10, description="Of one request.")
    retry_budget_percent: float = Field(
        default=20, ge=0, le=100, description="Of the requests in flight; three are always allowed."
    )

    connection_idle_timeout_seconds: float = Field(
        default=3600, gt=0, le=86_400, description="A client connection without a request."
    )
    stream_idle_timeout_seconds: float = Field(
        default=300, gt=0, le=86_400, description="A request in which nothing moves."
    )
    request_timeout_seconds: float = Field(
        default=300, gt=0, le=86_400, description="Receiving a whole request."
    )
    request_headers_timeout_seconds: float = Field(
        default=10, gt=0, le=300, description="Receiving a request's headers."
    )

    headers_at_most: int = Field(
        default=100,
        ge=30,
        le=1000,
        description="Of a request, with what Envoy and the authorizer add: more is 431, or 500.",
    )
    headers_kibibytes_at_most: int = Field(
        default=60, ge=8, le=8192, description="A request's headers in sum."
    )
    buffer_bytes_at_most: int = Field(
        default=32_768, ge=4096, le=MEBIBYTE, description="Of each connection, on both sides."
    )
    streams_at_most: int = Field(
        default=100, ge=1, le=1000, description="Concurrent HTTP/2 streams of one connection."
    )
    listener_connections_at_most: int = Field(
        default=10_000, ge=1, le=1_000_000, description="Client connections of the listener."
    )
    connections_at_most: int = Field(
        default=50_000, ge=1, le=1_000_000, description="Client connections of the process."
    )
    heap_bytes_at_most: int = Field(
        default=1024 * MEBIBYTE,
        ge=64 * MEBIBYTE,
        le=2**40,
        description="At 95 % memory is given back, at 98 % requests are refused.",
    )
    server_name: str = Field(
        default="meshwarden",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="The `server` header of every response.",
    )

    @model_validator(mode="after")
    def require_whole_tls(self) -> EnvoyOptions:
        """A CA without a name would take any workload of the mesh for the authorizer."""
        if bool(self.services_tls_certificate_file) != bool(self.services_tls_key_file):
            raise ValueError(
                "services_tls_certificate_file and services_tls_key_file go together: set both "
                "or none"
            )
        if bool(self.services_tls_ca_file) != bool(self.services_tls_san):
            raise ValueError(
                "services_tls_ca_file and services_tls_san go together: set both or none"
            )
        if not self.services_tls_ca_file and (
            self.services_tls_certificate_file or self.services_tls_secrets_folder
        ):
            raise ValueError("the other services_tls_* options need services_tls_ca_file")
        return self
