"""The settings of ratelimit_service; each is a flag, a variable and a row of the reference page.

The variables of envoyproxy/ratelimit that are honoured are in `reference_environment`, below ours
in precedence.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from meshwarden.adapters.redis_settings import RedisSettings
from meshwarden.adapters.settings import (
    GrpcSettings,
    HttpSettings,
    Port,
    Section,
    ServiceSettings,
)
from ratelimit_service.adapters.reference_environment import ReferenceEnvironment


class StoreSettings(Section):
    """Where hits are counted."""

    kind: Literal["memory", "redis"] = Field(
        "memory", description="memory: this process alone; redis: any number of processes."
    )
    memory_counters_at_most: int = Field(
        500_000,
        ge=1,
        le=100_000_000,
        description="Counters in memory, 300 bytes each; beyond them on-store-failure decides.",
    )
    key_format: Literal["meshwarden", "envoyproxy"] = Field(
        "meshwarden",
        description="envoyproxy: the reference's counter keys, for a rolling change on one Redis.",
    )
    key_prefix: str = Field("", description="Put before every counter's key.")
    expiration_jitter_seconds: int = Field(
        300,
        ge=0,
        le=86_400,
        description="Redis forgets a counter up to this long after its window, at random.",
    )
    over_limit_cache_bytes: int = Field(
        0,
        ge=0,
        le=16 << 30,
        description="Counters known to be over their limit are kept in so much memory, and Redis "
        "isn't asked for them; 0: none.",
    )
    stops_when_over_limit: bool = Field(
        False,
        description="Where a request goes over one limit, its other limits' counters stay as they "
        "are.",
    )
    breaker_failures: int = Field(
        3, ge=1, le=1000, description="A Redis node that failed so often in a row is left alone."
    )
    breaker_pause_seconds: float = Field(
        1, gt=0, le=4, description="For so long; then one call tries it again."
    )
    replicas: int = Field(
        1,
        ge=1,
        le=100_000,
        description="Processes that share a limit while Redis is away and has not yet told how "
        "many live.",
    )
    follows_redis_clock: bool = Field(
        True,
        description="Windows follow Redis' clock, so that replicas agree; else this machine's.",
    )


class PerSecondRedisSettings(RedisSettings):
    """A Redis of their own for the limits per second, which write most."""

    enabled: bool = Field(False, description="Count limits per second in this Redis.")


class AnswerSettings(Section):
    """What the answers hold besides the statuses."""

    shadow_mode: bool = Field(False, description="Never answer over the limit; count as ever.")
    quota_mode: bool = Field(False, description="Every limit is a quota.")
    headers_enabled: bool = Field(False, description="Send the RateLimit-* response headers.")
    limit_header: str = Field("RateLimit-Limit", min_length=1, description="Header of the limit.")
    remaining_header: str = Field(
        "RateLimit-Remaining", min_length=1, description="Header of what is left."
    )
    reset_header: str = Field(
        "RateLimit-Reset", min_length=1, description="Header of the seconds to the next window."
    )
    dynamic_metadata: bool = Field(
        False, description="Send the descriptors and the limits' metadata as dynamic metadata."
    )


class StatisticsSettings(Section):
    """What `/stats` shows."""

    near_limit_ratio: float = Field(
        0.8, ge=0, le=1, description="Hits above this share of a limit are near it."
    )
    names_at_most: int = Field(
        10_000, ge=1, le=1_000_000, description="Limits listed; beyond them none is added."
    )


class DebugSettings(Section):
    """The debug port."""

    host: str = Field("0.0.0.0", description="Address that the debug port binds to.")
    port: Port = Field(6070, description="Port of /rlconfig and /stats; 0 takes a free one.")


class Settings(ServiceSettings):
    """How often may they."""

    model_config = SettingsConfigDict(env_prefix="RATELIMIT_")

    grpc: GrpcSettings = GrpcSettings(port=8081, streaming_port=8083)
    http: HttpSettings = HttpSettings(port=8080)
    debug: DebugSettings = DebugSettings()
    store: StoreSettings = StoreSettings()
    on_store_failure: Literal["error", "allow", "deny", "approximate"] = Field(
        "error",
        description="When counters can't be reached: error leaves it to the caller's failure mode; "
        "approximate counts here, each limit divided by the live replicas.",
    )
    redis: RedisSettings = RedisSettings()
    redis_per_second: PerSecondRedisSettings = PerSecondRedisSettings()
    answer: AnswerSettings = AnswerSettings()
    statistics: StatisticsSettings = StatisticsSettings()
    merge_domain_config: bool = Field(
        False, description="Several files may describe one domain; else that is a fault."
    )

    def addresses(self) -> list[tuple[str, int]]:
        return [*super().addresses(), (self.debug.host, self.debug.port)]

    @model_validator(mode="after")
    def require_a_shared_store(self) -> Settings:
        """Several processes with a store each would each admit the whole limit."""
        if self.workers > 1 and self.store.kind == "memory":
            raise ValueError(
                f"{self.workers} workers can't share the memory store: use Redis "
                "(--store.kind redis), or one worker"
            )
        return self

    @model_validator(mode="after")
    def require_a_store_that_can_be_away(self) -> Settings:
        if self.on_store_failure == "approximate" and self.store.kind == "memory":
            raise ValueError(
                "on_store_failure: approximate is for Redis; the memory store fails only when it "
                "is full (choose error, allow or deny)"
            )
        return self

    @property
    def atomic_refusal(self) -> str:
        """Why this store can't count all or nothing; empty where it can."""
        if self.store.kind == "memory":
            return ""
        if self.redis_per_second.enabled:
            return "counters stand in two Redis servers (redis_per_second.enabled)"
        if self.redis.type == "cluster" and self.store.key_format == "envoyproxy":
            return (
                "envoyproxy's counter keys spread over a Redis Cluster "
                "(store.key_format=meshwarden keeps a domain's together)"
            )
        return ""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Our variables, then the reference's."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, ReferenceEnvironment(settings_cls)
