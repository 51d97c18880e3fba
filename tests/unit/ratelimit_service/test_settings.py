"""What ratelimit_service can be told: by our names, and by the reference's."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshwarden.adapters.durations import parse_seconds
from meshwarden.adapters.redis_url import parse_redis_url
from meshwarden.adapters.settings import load
from meshwarden.core.faults import Misconfigured
from ratelimit_service.adapters.reference_environment import SETTINGS
from ratelimit_service.app import options, source
from ratelimit_service.settings import Settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SETTINGS, "RUNTIME_ROOT", "RUNTIME_SUBDIRECTORY", "RUNTIME_APPDIRECTORY"):
        monkeypatch.delenv(name, raising=False)


def settings(*arguments: str) -> Settings:
    return load(Settings, arguments, "ratelimit_service")


def test_the_defaults_are_the_references_ports_and_our_memory():
    found = settings()
    assert (found.grpc.port, found.http.port, found.debug.port) == (8081, 8080, 6070)
    assert (found.store.kind, found.on_store_failure) == ("memory", "error")
    assert found.redis.time_limit_seconds == 0.1


def test_the_references_environment_is_understood(monkeypatch: pytest.MonkeyPatch):
    given = {
        "HOST": "127.0.0.1",
        "PORT": "1",
        "GRPC_HOST": "127.0.0.2",
        "GRPC_PORT": "2",
        "DEBUG_HOST": "127.0.0.3",
        "DEBUG_PORT": "3",
        "LOG_LEVEL": "WARN",
        "LOG_FORMAT": "text",
        "BACKEND_TYPE": "redis",
        "REDIS_URL": "redis.internal:6379",
        "REDIS_AUTH": "user:secret",
        "REDIS_TIMEOUT": "250ms",
        "NEAR_LIMIT_RATIO": "0.5",
        "EXPIRATION_JITTER_MAX_SECONDS": "0",
        "CACHE_KEY_PREFIX": "p:",
        "COUNTER_KEY_FORMAT": "envoyproxy",
        "SHADOW_MODE": "true",
        "QUOTA_MODE": "1",
        "MERGE_DOMAIN_CONFIG": "t",
        "LIMIT_RESPONSE_HEADERS_ENABLED": "TRUE",
        "LIMIT_LIMIT_HEADER": "l",
        "LIMIT_REMAINING_HEADER": "r",
        "LIMIT_RESET_HEADER": "s",
        "RESPONSE_DYNAMIC_METADATA": "true",
        "RUNTIME_ROOT": "/data",
        "RUNTIME_SUBDIRECTORY": "ratelimit",
    }
    elsewhere = ("xds.", "configuration.source")  # test_xds_settings.py
    assert {name for name, told in SETTINGS.items() if not told.startswith(elsewhere)} <= set(given)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    found = settings()
    assert (found.http.host, found.http.port) == ("127.0.0.1", 1)
    assert (found.grpc.host, found.grpc.port) == ("127.0.0.2", 2)
    assert (found.debug.host, found.debug.port) == ("127.0.0.3", 3)
    assert (found.log.level, found.log.format) == ("warning", "console")
    assert found.store.model_dump(
        include={"kind", "key_format", "key_prefix", "expiration_jitter_seconds"}
    ) == {
        "kind": "redis",
        "key_format": "envoyproxy",
        "key_prefix": "p:",
        "expiration_jitter_seconds": 0,
    }
    assert (found.redis.url, found.redis.time_limit_seconds) == (
        "redis://redis.internal:6379",
        0.25,
    )
    assert found.redis.auth.get_secret_value() == "user:secret"
    assert found.merge_domain_config
    assert found.statistics.near_limit_ratio == 0.5
    made = options(found)
    assert (made.shadow_mode, made.quota_mode, made.has_dynamic_metadata) == (True, True, True)
    assert made.header_names is not None
    assert made.header_names.remaining == "r"
    assert found.configuration.folder == Path("/data/ratelimit/config")
    assert "secret" not in repr(found)


def test_our_own_variables_and_flags_come_before_the_references(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PORT", "1")
    monkeypatch.setenv("GRPC_PORT", "1")
    monkeypatch.setenv("RATELIMIT_HTTP__PORT", "2")
    found = settings("--grpc.port", "3")
    assert (found.http.port, found.grpc.port) == (2, 3)


def test_a_redis_address_alone_means_redis(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REDIS_URL", "localhost:6379")
    assert settings().store.kind == "redis"


def test_more_than_one_worker_with_the_memory_store_is_refused_naming_redis():
    with pytest.raises(Misconfigured, match="use Redis"):
        settings("--workers", "2")
    assert settings("--workers", "2", "--store.kind", "redis").workers == 2


def test_every_fault_of_the_settings_is_told_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BACKEND_TYPE", "memcache")
    monkeypatch.setenv("REDIS_TIMEOUT", "soon")
    monkeypatch.setenv("PORT", "70000")
    with pytest.raises(Misconfigured) as refused:
        settings("--redis.url", "master,host:1,host:2")
    text = str(refused.value)
    for name in ("store.kind", "redis.time_limit_seconds", "http.port", "redis.url"):
        assert name in text


@pytest.mark.parametrize(
    ("written", "seconds"), [("100ms", 0.1), ("1m30s", 90), ("1.5s", 1.5), ("2h", 7200), ("5", "5")]
)
def test_durations_are_read_as_go_writes_them(written: str, seconds: object):
    assert parse_seconds(written) == pytest.approx(seconds) if seconds != "5" else True
    assert parse_seconds("5") == "5"


def test_redis_addresses_of_the_reference_become_urls():
    assert parse_redis_url("/run/redis.sock") == "unix:///run/redis.sock"
    assert parse_redis_url("rediss://h:1/0") == "rediss://h:1/0"


def test_without_a_folder_the_service_says_what_to_set():
    with pytest.raises(Misconfigured, match=r"configuration\.folder"):
        source(settings())
