"""The environment variables of envoyproxy/ratelimit, as settings of ours.

A deployment that changes its image keeps its environment. Variables that mean nothing here are left
alone. Source: `src/settings/settings.go` of the reference.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

SETTINGS = {
    "HOST": "http.host",
    "PORT": "http.port",
    "GRPC_HOST": "grpc.host",
    "GRPC_PORT": "grpc.port",
    "DEBUG_HOST": "debug.host",
    "DEBUG_PORT": "debug.port",
    "LOG_LEVEL": "log.level",
    "LOG_FORMAT": "log.format",
    "BACKEND_TYPE": "store.kind",
    "REDIS_URL": "redis.url",
    "REDIS_AUTH": "redis.auth",
    "REDIS_TIMEOUT": "redis.time_limit_seconds",
    "NEAR_LIMIT_RATIO": "statistics.near_limit_ratio",
    "EXPIRATION_JITTER_MAX_SECONDS": "store.expiration_jitter_seconds",
    "CACHE_KEY_PREFIX": "store.key_prefix",
    "COUNTER_KEY_FORMAT": "store.key_format",
    "SHADOW_MODE": "answer.shadow_mode",
    "QUOTA_MODE": "answer.quota_mode",
    "MERGE_DOMAIN_CONFIG": "merge_domain_config",
    "LIMIT_RESPONSE_HEADERS_ENABLED": "answer.headers_enabled",
    "LIMIT_LIMIT_HEADER": "answer.limit_header",
    "LIMIT_REMAINING_HEADER": "answer.remaining_header",
    "LIMIT_RESET_HEADER": "answer.reset_header",
    "RESPONSE_DYNAMIC_METADATA": "answer.dynamic_metadata",
    "CONFIG_TYPE": "configuration.source",
    "CONFIG_GRPC_XDS_NODE_ID": "xds.node_id",
    "CONFIG_GRPC_XDS_NODE_METADATA": "xds.node_metadata",
    "CONFIG_GRPC_XDS_SERVER_URL": "xds.server",
    "CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL": "xds.connect_retry_seconds",
    "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS": "xds.headers",
    "CONFIG_GRPC_XDS_SERVER_USE_TLS": "xds.tls",
    "CONFIG_GRPC_XDS_CLIENT_TLS_CERT": "xds.tls_certificate_file",
    "CONFIG_GRPC_XDS_CLIENT_TLS_KEY": "xds.tls_key_file",
    "CONFIG_GRPC_XDS_SERVER_TLS_CACERT": "xds.tls_ca_file",
    "CONFIG_GRPC_XDS_SERVER_TLS_SAN": "xds.tls_server_san",
    "XDS_CLIENT_BACKOFF_INITIAL_INTERVAL": "xds.backoff_initial_seconds",
    "XDS_CLIENT_BACKOFF_MAX_INTERVAL": "xds.backoff_at_most_seconds",
    "XDS_CLIENT_BACKOFF_RANDOM_FACTOR": "xds.backoff_random_factor",
    "XDS_CLIENT_BACKOFF_JITTER": "xds.backoff_jitter",
    "XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES": "xds.message_bytes_at_most",
}
"""Variable of the reference (COUNTER_KEY_FORMAT is ours) to setting."""

_WORDS = {
    "log.level": {"trace": "debug", "warn": "warning", "fatal": "error", "panic": "error"},
    "log.format": {"text": "console"},
    "configuration.source": {"file": "folder", "grpc_xds_sotw": "xds"},
}


class ReferenceEnvironment(PydanticBaseSettingsSource):
    """A source of settings that reads the reference's variables."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not used: `__call__` gives everything at once."""
        del field
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        return from_environment(os.environ)


def from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """The nested settings that `environment` asks for; an empty value asks for nothing."""
    result: dict[str, Any] = {}
    if environment.get("REDIS_URL"):
        _set(result, "store.kind", "redis")
    for variable, setting in SETTINGS.items():
        value = environment.get(variable)
        if value:
            _set(result, setting, _WORDS.get(setting, {}).get(value.lower(), value))
    for setting in ("log.level", "store.kind"):
        section, _, name = setting.partition(".")
        if name in result.get(section, {}):
            result[section][name] = result[section][name].lower()
    root = environment.get("RUNTIME_ROOT")
    if root:
        parts = (
            environment.get("RUNTIME_SUBDIRECTORY", ""),
            environment.get("RUNTIME_APPDIRECTORY", "") or "config",
        )
        _set(result, "configuration.folder", str(PurePath(root, *parts)))
    return result


def _set(result: dict[str, Any], setting: str, value: str) -> None:
    *sections, name = setting.split(".")
    for section in sections:
        result = result.setdefault(section, {})
    result[name] = value
