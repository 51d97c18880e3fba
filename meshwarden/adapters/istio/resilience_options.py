"""What an operator may choose about the resilience of one service or one external API."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from meshwarden.adapters.envoy.clusters import CONNECTIONS_AT_MOST, REQUESTS_AT_MOST
from meshwarden.adapters.envoy.options import EnvoyOptions, Host, Port
from meshwarden.adapters.istio.options import DnsLabel, Words

_EDGE = EnvoyOptions()


class ResilienceOptions(BaseModel):
    """One host that workloads of one namespace call; the defaults are the edge proxy's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: DnsLabel = Field(default="orders", description="Of the objects.")
    namespace: DnsLabel = Field(default="shop", description="Where they stand.")
    host: Host = Field(
        default="orders.shop.svc.cluster.local", description="The Service, or the external API."
    )
    port: Port = Field(default=8000, description="Its port, as callers address it.")
    gateways: Words = Field(
        default=("mesh",), description="Gateways that the routes are for; mesh: the sidecars."
    )

    timeout_seconds: float = Field(
        default=2, gt=0, le=3600, description="A whole request, retries included."
    )
    per_try_timeout_seconds: float = Field(
        default=0.5, gt=0, le=3600, description="One try: the 99.9th percentile, with room."
    )
    retries_at_most: int = Field(
        default=_EDGE.retries_at_most, ge=0, le=10, description="Of one request."
    )
    retry_budget_percent: float = Field(
        default=_EDGE.retry_budget_percent,
        ge=0,
        le=100,
        description="Of the requests in flight; three are always allowed.",
    )

    connections_at_most: int = Field(
        default=CONNECTIONS_AT_MOST, ge=1, le=1_000_000, description="Of one proxy to the host."
    )
    requests_at_most: int = Field(
        default=REQUESTS_AT_MOST,
        ge=1,
        le=1_000_000,
        description="Of one proxy in flight, and as many waiting for a connection.",
    )
    connect_timeout_seconds: float = Field(
        default=_EDGE.upstream_connect_timeout_seconds, gt=0, le=10, description="A TCP connection."
    )
    ejection_seconds: float = Field(
        default=1,
        ge=0.1,
        le=300,
        description="How long a failing endpoint rests, times how often it did.",
    )
    failover: Words = Field(
        default=(), description="Regions, REGION>REGION, that take over from each other."
    )

    @model_validator(mode="after")
    def _tries_fit(self) -> ResilienceOptions:
        """A try that takes the whole time leaves none for another."""
        if self.retries_at_most and self.per_try_timeout_seconds * 2 > self.timeout_seconds:
            raise ValueError(
                "timeout_seconds leaves no time for a second try: make it at least twice "
                "per_try_timeout_seconds"
            )
        if any(len(pair.split(">")) != 2 for pair in self.failover):
            raise ValueError("failover is written REGION>REGION, with a comma between two")
        return self
