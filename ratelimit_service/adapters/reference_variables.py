"""The 108 variables of envoyproxy/ratelimit, and what becomes of each here.

The table alone: how an environment is read with it, `reference_environment` says. The page
docs/reference/ratelimit_variables.md is written from it. Source: the reference's
`src/settings/settings.go`, of which a test holds the names, types and defaults.
"""

from __future__ import annotations

from ratelimit_service.adapters.go_values import Kind
from ratelimit_service.adapters.reference_variable import (
    Variable,
    age_seconds,
    at_least_zero,
    configuration_for_health,
    configuration_source,
    log_format,
    log_level,
    redis_type,
    share,
    store_kind,
)

_TLS = ("GRPC_SERVER_USE_TLS",)
_XDS_TLS = ("CONFIG_GRPC_XDS_SERVER_USE_TLS",)
_TRACING = ("TRACING_ENABLED",)
_PER_SECOND = ("REDIS_PERSECOND",)
_NO_MEMCACHED = (
    "there is no memcached here: set BACKEND_TYPE=redis and REDIS_URL to a Redis or Valkey"
)
_MEMCACHED_ALONE = "the reference reads it with BACKEND_TYPE=memcache alone, which is refused"
_BLOCKS = "the reference ends with a panic, too: remove it, or set WAIT"
_ON_EMPTY = {"CREATE": _BLOCKS, "ERROR": _BLOCKS}
_ONE_CONNECTION = "one connection a node is shared, without a pool"
_COALESCED = "calls that come in one turn of the event loop always share a round trip"
_BY_ADDRESS = "the address says it: a path is a socket, all else TCP"
_OURS_IS_SHORTER = "unset, 100 ms hold, not the reference's 10 s: far below Envoy's own limit"

_SERVER = (
    Variable("HOST", "text", "0.0.0.0", ("http.host",)),
    Variable("PORT", "integer", "8080", ("http.port",)),
    Variable("DEBUG_HOST", "text", "0.0.0.0", ("debug.host",)),
    Variable("DEBUG_PORT", "integer", "6070", ("debug.port",)),
    Variable("GRPC_UDS", "text", "", ("grpc.socket",), note="in place of GRPC_HOST and GRPC_PORT"),
    Variable("GRPC_HOST", "text", "0.0.0.0", ("grpc.host",)),
    Variable("GRPC_PORT", "integer", "8081", ("grpc.port",)),
    Variable(
        "GRPC_MAX_CONNECTION_AGE",
        "duration",
        "24h",
        ("grpc.connection_age_seconds",),
        convert=age_seconds,
        note="0: for ever",
    ),
    Variable(
        "GRPC_MAX_CONNECTION_AGE_GRACE",
        "duration",
        "1h",
        ("grpc.connection_age_grace_seconds",),
        convert=age_seconds,
        note="0: for ever",
    ),
    Variable("GRPC_SERVER_USE_TLS", "flag", "false", note="switches the next four on"),
    Variable("GRPC_SERVER_TLS_CERT", "text", "", ("tls.certificate_file",), when=_TLS),
    Variable("GRPC_SERVER_TLS_KEY", "text", "", ("tls.key_file",), when=_TLS),
    Variable(
        "GRPC_CLIENT_TLS_CACERT",
        "text",
        "",
        ("tls.client_ca_file",),
        when=_TLS,
        note="this CA alone; the reference trusts the system's CAs beside it",
    ),
    Variable(
        "GRPC_CLIENT_TLS_SAN",
        "text",
        "",
        ("tls.client_san",),
        when=_TLS,
        note="needs GRPC_CLIENT_TLS_CACERT; the call is refused, not the handshake",
    ),
    Variable("LOG_LEVEL", "text", "WARN", ("log.level",), convert=log_level),
    Variable("LOG_FORMAT", "text", "text", ("log.format",), convert=log_format),
    Variable("TRACING_ENABLED", "flag", "false", note="to OTEL_EXPORTER_OTLP_ENDPOINT, over HTTP"),
    Variable("TRACING_SERVICE_NAME", "text", "RateLimit", ("tracing.service_name",), when=_TRACING),
    Variable(
        "TRACING_SERVICE_NAMESPACE", "text", "", ("tracing.service_namespace",), when=_TRACING
    ),
    Variable(
        "TRACING_SERVICE_INSTANCE_ID", "text", "", ("tracing.service_instance_id",), when=_TRACING
    ),
    Variable(
        "TRACING_EXPORTER_PROTOCOL",
        "text",
        "http",
        when=_TRACING,
        refused={"GRPC": "set http, and the endpoint to the collector's HTTP port, often 4318"},
    ),
    Variable(
        "TRACING_SAMPLING_RATE",
        "number",
        "1",
        ("tracing.sample_ratio",),
        when=_TRACING,
        convert=share,
    ),
)

_CONFIGURATION = (
    Variable(
        "CONFIG_TYPE", "text", "FILE", ("configuration.source",), convert=configuration_source
    ),
    Variable(
        "FORCE_START_WITHOUT_INITIAL_CONFIG", "flag", "false", ("configuration.starts_without",)
    ),
    Variable(
        "HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED",
        "flag",
        "false",
        ("health.configuration",),
        convert=configuration_for_health,
    ),
    Variable("MERGE_DOMAIN_CONFIG", "flag", "false", ("merge_domain_config",)),
    Variable("RUNTIME_ROOT", "text", "/srv/runtime_data/current", ("runtime.root",)),
    Variable("RUNTIME_SUBDIRECTORY", "text", "", ("runtime.subdirectory",)),
    Variable("RUNTIME_APPDIRECTORY", "text", "config", ("runtime.app_directory",)),
    Variable("RUNTIME_IGNOREDOTFILES", "flag", "false", ("runtime.ignores_dot_files",)),
    Variable(
        "RUNTIME_WATCH_ROOT",
        "flag",
        "true",
        ("runtime.watches_root",),
        note="the same files are read; a change in place is taken, too",
    ),
    Variable("CONFIG_GRPC_XDS_NODE_ID", "text", "default", ("xds.node_id",)),
    Variable("CONFIG_GRPC_XDS_NODE_METADATA", "text", "", ("xds.node_metadata",)),
    Variable("CONFIG_GRPC_XDS_SERVER_URL", "text", "localhost:18000", ("xds.server",)),
    Variable(
        "CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL",
        "duration",
        "3s",
        ("xds.connect_retry_seconds",),
    ),
    Variable("CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS", "map", "", ("xds.headers",)),
    Variable("CONFIG_GRPC_XDS_SERVER_USE_TLS", "flag", "false", ("xds.tls",)),
    Variable(
        "CONFIG_GRPC_XDS_CLIENT_TLS_CERT", "text", "", ("xds.tls_certificate_file",), when=_XDS_TLS
    ),
    Variable("CONFIG_GRPC_XDS_CLIENT_TLS_KEY", "text", "", ("xds.tls_key_file",), when=_XDS_TLS),
    Variable("CONFIG_GRPC_XDS_SERVER_TLS_CACERT", "text", "", ("xds.tls_ca_file",), when=_XDS_TLS),
    Variable("CONFIG_GRPC_XDS_SERVER_TLS_SAN", "text", "", ("xds.tls_server_san",), when=_XDS_TLS),
    Variable(
        "XDS_CLIENT_BACKOFF_INITIAL_INTERVAL", "duration", "10s", ("xds.backoff_initial_seconds",)
    ),
    Variable(
        "XDS_CLIENT_BACKOFF_MAX_INTERVAL", "duration", "60s", ("xds.backoff_at_most_seconds",)
    ),
    Variable("XDS_CLIENT_BACKOFF_RANDOM_FACTOR", "number", "0.5", ("xds.backoff_random_factor",)),
    Variable("XDS_CLIENT_BACKOFF_JITTER", "flag", "true", ("xds.backoff_jitter",)),
    Variable("XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES", "integer", "", ("xds.message_bytes_at_most",)),
)

_ANSWERS = (
    Variable("SHADOW_MODE", "flag", "false", ("answer.shadow_mode",)),
    Variable("QUOTA_MODE", "flag", "false", ("answer.quota_mode",)),
    Variable("RESPONSE_DYNAMIC_METADATA", "flag", "false", ("answer.dynamic_metadata",)),
    Variable("LIMIT_RESPONSE_HEADERS_ENABLED", "flag", "false", ("answer.headers_enabled",)),
    Variable("LIMIT_LIMIT_HEADER", "text", "RateLimit-Limit", ("answer.limit_header",)),
    Variable("LIMIT_REMAINING_HEADER", "text", "RateLimit-Remaining", ("answer.remaining_header",)),
    Variable("LIMIT_RESET_HEADER", "text", "RateLimit-Reset", ("answer.reset_header",)),
    Variable("USE_DOG_STATSD", "flag", "false", ("statistics.dogstatsd.enabled",)),
    Variable("USE_DOG_STATSD_MOGRIFIERS", "list", "", ("statistics.dogstatsd.mogrifiers",)),
    Variable(
        "USE_STATSD",
        "flag",
        "true",
        ("statistics.statsd.enabled",),
        note="unset, it is off where USE_DOG_STATSD or USE_PROMETHEUS is on; the reference would "
        "not start",
    ),
    Variable("STATSD_HOST", "text", "localhost", ("statistics.statsd.host",)),
    Variable("STATSD_PORT", "integer", "8125", ("statistics.statsd.port",)),
    Variable("EXTRA_TAGS", "map", "", ("statistics.extra_tags",)),
    Variable("STATS_FLUSH_INTERVAL", "duration", "10s", ("statistics.flush_interval_seconds",)),
    Variable("DISABLE_STATS", "flag", "false", ("statistics.disabled",)),
    Variable("USE_PROMETHEUS", "flag", "false", ("statistics.prometheus.enabled",)),
    Variable("PROMETHEUS_ADDR", "text", ":9090", ("statistics.prometheus.address",)),
    Variable("PROMETHEUS_PATH", "text", "/metrics", ("statistics.prometheus.path",)),
    Variable("PROMETHEUS_MAPPER_YAML", "text", "", ("statistics.prometheus.mapper_file",)),
    Variable("NEAR_LIMIT_RATIO", "number", "0.8", ("statistics.near_limit_ratio",)),
)

_COUNTERS = (
    Variable(
        "BACKEND_TYPE",
        "text",
        "redis",
        ("store.kind",),
        convert=store_kind,
        refused={"MEMCACHE": _NO_MEMCACHED},
        note="memory, one process's own, is ours besides",
    ),
    Variable(
        "EXPIRATION_JITTER_MAX_SECONDS",
        "integer",
        "300",
        ("store.expiration_jitter_seconds",),
        convert=at_least_zero,
    ),
    Variable(
        "LOCAL_CACHE_SIZE_IN_BYTES",
        "integer",
        "0",
        ("store.over_limit_cache_bytes",),
        convert=at_least_zero,
    ),
    Variable("CACHE_KEY_PREFIX", "text", "", ("store.key_prefix",)),
    Variable(
        "STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT",
        "flag",
        "false",
        ("store.stops_when_over_limit",),
        note="read and written at once; the reference reads first",
    ),
    Variable("REDIS_HEALTH_CHECK_ACTIVE_CONNECTION", "flag", "false", ("health.follows_store",)),
)


def _redis(prefix: str, section: str, when: tuple[str, ...], socket: str) -> tuple[Variable, ...]:
    """The variables that each of the two Redis has."""

    def variable(name: str, kind: Kind, default: str = "", setting: str = "") -> Variable:
        return Variable(prefix + name, kind, default, (f"{section}.{setting}",), when=when)

    def idle(name: str, kind: Kind, default: str, note: str) -> Variable:
        return Variable(prefix + name, kind, default, fate="without effect", note=note)

    return (
        idle("SOCKET_TYPE", "text", "unix", _BY_ADDRESS),
        Variable(
            f"{prefix}TYPE", "text", "SINGLE", (f"{section}.type",), when=when, convert=redis_type
        ),
        variable("URL", "text", socket, "url"),
        idle("POOL_SIZE", "integer", "10", _ONE_CONNECTION),
        variable("AUTH", "text", "", "auth"),
        variable("TLS", "flag", "false", "tls"),
        variable("SENTINEL_AUTH", "text", "", "sentinel_auth"),
        idle("PIPELINE_WINDOW", "duration", "0", _COALESCED),
        idle("PIPELINE_LIMIT", "integer", "0", "the reference does nothing with it either"),
        Variable(
            f"{prefix}TIMEOUT",
            "duration",
            "10s",
            (f"{section}.time_limit_seconds",),
            when=when,
            note=_OURS_IS_SHORTER,
            keeps_our_default=True,
        ),
        Variable(
            f"{prefix}POOL_ON_EMPTY_BEHAVIOR",
            "text",
            "WAIT",
            fate="without effect",
            when=when,
            refused=_ON_EMPTY,
            note=_ONE_CONNECTION,
        ),
    )


def _redis_tls(name: str, kind: Kind, default: str, setting: str) -> Variable:
    """Files that both Redis share, each where its own TLS is on."""
    when_for = {
        f"redis.{setting}": ("REDIS_TLS",),
        f"redis_per_second.{setting}": ("REDIS_PERSECOND", "REDIS_PERSECOND_TLS"),
    }
    note = "for each of the two Redis whose TLS is on"
    return Variable(
        f"REDIS_TLS_{name}", kind, default, tuple(when_for), note=note, when_for=when_for
    )


_REDIS = (
    *_redis("REDIS_", "redis", (), "/var/run/nutcracker/ratelimit.sock"),
    _redis_tls("CLIENT_CERT", "text", "", "tls_certificate_file"),
    _redis_tls("CLIENT_KEY", "text", "", "tls_key_file"),
    _redis_tls("CACERT", "text", "", "tls_ca_file"),
    _redis_tls("SKIP_HOSTNAME_VERIFICATION", "flag", "false", "tls_skips_hostname_verification"),
    Variable("REDIS_PERSECOND", "flag", "false", ("redis_per_second.enabled",)),
    *_redis(
        "REDIS_PERSECOND_",
        "redis_per_second",
        _PER_SECOND,
        "/var/run/nutcracker/ratelimitpersecond.sock",
    ),
)

_MEMCACHED: tuple[tuple[str, Kind, str], ...] = (
    ("HOST_PORT", "list", ""),
    ("MAX_IDLE_CONNS", "integer", "2"),
    ("SRV", "text", ""),
    ("SRV_REFRESH", "duration", "0"),
    ("TLS", "flag", "false"),
    ("TLS_CLIENT_CERT", "text", ""),
    ("TLS_CLIENT_KEY", "text", ""),
    ("TLS_CACERT", "text", ""),
    ("TLS_SKIP_HOSTNAME_VERIFICATION", "flag", "false"),
)

VARIABLES: tuple[Variable, ...] = (
    *_SERVER,
    *_CONFIGURATION,
    *_ANSWERS,
    *_COUNTERS,
    *_REDIS,
    *(
        Variable(f"MEMCACHE_{name}", kind, default, fate="without effect", note=_MEMCACHED_ALONE)
        for name, kind, default in _MEMCACHED
    ),
)

FURTHER: tuple[Variable, ...] = (
    Variable(
        "COUNTER_KEY_FORMAT",
        "text",
        settings=("store.key_format",),
        note="ours: `envoyproxy` while both count in one Redis",
    ),
    Variable(
        "STATSD_PROTOCOL",
        "text",
        settings=("statistics.statsd.protocol",),
        note="`tcp` or `udp`; read by the reference's library",
    ),
)
"""Variables that are not in that file."""
