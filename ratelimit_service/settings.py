"""The settings of ratelimit_service; each is a flag, a variable and a row of the reference page.

The variables of envoyproxy/ratelimit that are honoured are in `reference_environment`, below ours
in precedence.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from meshwarden.adapters.ads_settings import AdsSettings
from meshwarden.adapters.durations import Seconds
from meshwarden.adapters.redis_settings import RedisSettings
from meshwarden.adapters.settings import (
    ConfigurationSettings,
    GrpcSettings,
    HttpSettings,
    Port,
    Section,
    ServiceSettings,
    variable,
)
from meshwarden.core.faults import Problem
from ratelimit_service.adapters.reference_environment import ReferenceEnvironment, read
from ratelimit_service.core.statsd_lines import parse_tags


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `host:port`, as Go writes it: `:9090` means every address.

    Raises `ValueError`.
    """
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdecimal() or int(port) > 65535:
        raise ValueError("must be host:port, or :port")
    return host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port)


def checked_address(text: str) -> str:
    """`text`, which `parse_address` can read."""
    parse_address(text)
    return text


def checked_tags(text: str) -> str:
    """`text`, which `parse_tags` can read."""
    parse_tags(text)
    return text


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


HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$")]
"""A field name of HTTP (RFC 9110 section 5.1)."""


class AnswerSettings(Section):
    """What the answers hold besides the statuses."""

    shadow_mode: bool = Field(False, description="Never answer over the limit; count as ever.")
    quota_mode: bool = Field(False, description="Every limit is a quota.")
    headers_enabled: bool = Field(False, description="Send the RateLimit-* response headers.")
    limit_header: HeaderName = Field("RateLimit-Limit", description="Header of the limit.")
    remaining_header: HeaderName = Field(
        "RateLimit-Remaining", description="Header of what is left."
    )
    reset_header: HeaderName = Field(
        "RateLimit-Reset", description="Header of the seconds to the next window."
    )
    dynamic_metadata: bool = Field(
        False, description="Send the descriptors and the limits' metadata as dynamic metadata."
    )
    rule_metadata: bool = Field(
        False, description="Send which limits answered as dynamic metadata, under meshwarden."
    )
    rule_header: str = Field(
        "",
        pattern=r"^[A-Za-z0-9-]{0,100}$",
        description="Response header that names the limit which decided; empty: none.",
    )


class DenialLogSettings(Section):
    """Which limit was over, in the log at level info."""

    enabled: bool = Field(
        True, description="Log each limit that is over, once a second; how many more is told."
    )
    shows_values: bool = Field(
        False, description="Log the client's values, too; they may be personal or secret."
    )


class StatsdSettings(Section):
    """Where lines of statsd go, DogStatsD's, too."""

    enabled: bool = Field(False, description="Send statistics to statsd, as gostats writes them.")
    host: str = Field("localhost", description="Host of statsd, or of DogStatsD.")
    port: Annotated[int, Field(ge=1, le=65535)] = Field(8125, description="Its port.")
    protocol: Literal["tcp", "udp"] = Field(
        "tcp", description="How statsd is reached; DogStatsD takes datagrams."
    )


class DogstatsdSettings(Section):
    """DogStatsD in place of statsd."""

    enabled: bool = Field(False, description="Send statistics to DogStatsD.")
    mogrifiers: str = Field(
        "",
        description="Names of mogrifiers, comma-separated; of each the variables "
        "DOG_STATSD_MOGRIFIER_NAME_PATTERN, _NAME and _TAGS say the rest.",
    )


class PrometheusSettings(Section):
    """The reference's statistics for Prometheus; our own metrics are at /metrics of http.port."""

    enabled: bool = Field(False, description="Serve the statistics to Prometheus.")
    address: Annotated[str, AfterValidator(checked_address)] = Field(
        ":9090", description="host:port of the page; without a host all addresses."
    )
    path: str = Field("/metrics", pattern="^/", description="Path of the page.")
    mapper_file: Path | None = Field(
        None, description="statsd_exporter's mapping in place of the reference's default."
    )


class StatisticsSettings(Section):
    """What is counted under the reference's names, and where it goes."""

    disabled: bool = Field(False, description="Send no statistics anywhere; /stats is there.")
    near_limit_ratio: float = Field(
        0.8, ge=0, le=1, description="Hits above this share of a limit are near it."
    )
    names_at_most: int = Field(
        10_000,
        ge=2,
        le=1_000_000,
        description="Names made from requests; the one idle longest makes room. Configured limits "
        "stay.",
    )
    extra_tags: Annotated[str, AfterValidator(checked_tags)] = Field(
        "", description="Tags of every statistic: name:value,name:value."
    )
    flush_interval_seconds: Seconds = Field(
        10, gt=0, le=3600, description="Statistics are sent this often."
    )
    logged: bool = Field(
        False, description="Write the statistics to standard error, as the reference does alone."
    )
    statsd: StatsdSettings = StatsdSettings()
    dogstatsd: DogstatsdSettings = DogstatsdSettings()
    prometheus: PrometheusSettings = PrometheusSettings()

    @model_validator(mode="after")
    def require_one_way_to_push(self) -> StatisticsSettings:
        """What one way has taken, another can't send."""
        if not self.disabled and self.statsd.enabled + self.dogstatsd.enabled + self.logged > 1:
            raise ValueError("only one of statsd, dogstatsd and logged can be on")
        return self


class DebugSettings(Section):
    """The debug port."""

    host: str = Field("0.0.0.0", description="Address that the debug port binds to.")
    port: Port = Field(6070, description="Port of /rlconfig and /stats; 0 takes a free one.")


class LimitConfigurationSettings(ConfigurationSettings):
    """Where the limits come from."""

    source: Literal["folder", "xds"] = Field(
        "folder", description="folder: its files; xds: the ADS server of the settings xds.*."
    )
    starts_without: bool = Field(
        False,
        description="Healthy before any configuration was offered; matters where "
        "health.configuration is not_needed.",
    )


class RuntimeSettings(Section):
    """Limits in a folder that is laid out as envoyproxy/ratelimit wants it (its RUNTIME_*); read
    where configuration.folder is not set.
    """

    root: Path | None = Field(None, description="Folder, or link to one that is swapped.")
    subdirectory: Path = Field(Path(), description="Folder below the root.")
    app_directory: Path = Field(Path("config"), description="Folder of the limits below that.")
    watches_root: bool = Field(
        True,
        description="Reads, too, the files beside app-directory whose name begins with its name "
        "and a dot, and puts that before every file's name in messages.",
    )
    ignores_dot_files: bool = Field(
        False, description="Passes over names that start with a dot, as in a mounted ConfigMap."
    )


class HealthSettings(Section):
    """What must hold before the service calls itself healthy, besides a first answer of Redis."""

    configuration: Literal["loaded", "with_domains", "not_needed"] = Field(
        "loaded",
        description="with_domains: loaded, and with one domain at least; not_needed: a refused "
        "configuration will do.",
    )
    follows_store: bool = Field(
        False,
        description="Unhealthy whenever Redis does not answer; else healthy stays healthy, and "
        "on-store-failure answers.",
    )


class Settings(ServiceSettings):
    """How often may they."""

    model_config = SettingsConfigDict(env_prefix="RATELIMIT_")

    grpc: GrpcSettings = GrpcSettings(port=8081, streaming_port=8083)
    http: HttpSettings = HttpSettings(port=8080)
    debug: DebugSettings = DebugSettings()
    health: HealthSettings = HealthSettings()
    configuration: LimitConfigurationSettings = LimitConfigurationSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    xds: AdsSettings = AdsSettings()
    store: StoreSettings = StoreSettings()
    on_store_failure: Literal["error", "allow", "deny", "approximate"] = Field(
        "error",
        description="When counters can't be reached: error leaves it to the caller's failure mode; "
        "approximate counts here, each limit divided by the live replicas.",
    )
    redis: RedisSettings = RedisSettings()
    redis_per_second: PerSecondRedisSettings = PerSecondRedisSettings()
    answer: AnswerSettings = AnswerSettings()
    denial_log: DenialLogSettings = DenialLogSettings()
    statistics: StatisticsSettings = StatisticsSettings()
    merge_domain_config: bool = Field(
        False, description="Several files may describe one domain; else that is a fault."
    )

    def addresses(self) -> list[tuple[str, int]]:
        found = [*super().addresses(), (self.debug.host, self.debug.port)]
        statistics = self.statistics
        if statistics.prometheus.enabled and not statistics.disabled:
            found.append(parse_address(statistics.prometheus.address))
        return found

    @classmethod
    def environment_problems(cls) -> list[Problem]:
        return read(os.environ).problems

    @classmethod
    def ways_to_set(cls, name: str) -> str:
        """Named by the reference's variable first, where that one set it."""
        ours, reference = super().ways_to_set(name), read(os.environ).set_by.get(name)
        is_set_by_it = reference is not None and variable(cls, name) not in os.environ
        return f"{reference}; or {ours}" if is_set_by_it else ours

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
