"""What ratelimit_service can be told: by our names, and by the reference's."""

from __future__ import annotations

import pytest

from meshwarden.adapters.durations import parse_seconds
from meshwarden.adapters.redis_url import parse_redis_url
from meshwarden.adapters.settings import load
from meshwarden.core.faults import Misconfigured
from ratelimit_service.adapters.reference_variables import VARIABLES
from ratelimit_service.app import source
from ratelimit_service.settings import Settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable.name, raising=False)


def settings(*arguments: str) -> Settings:
    return load(Settings, arguments, "ratelimit_service")


def test_the_defaults_are_the_references_ports_and_our_memory():
    found = settings()
    assert (found.grpc.port, found.http.port, found.debug.port) == (8081, 8080, 6070)
    assert (found.store.kind, found.on_store_failure) == ("memory", "error")
    assert found.redis.time_limit_seconds == 0.1


def test_our_own_variables_and_flags_come_before_the_references(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PORT", "1")
    monkeypatch.setenv("GRPC_PORT", "1")
    monkeypatch.setenv("RATELIMIT_HTTP__PORT", "2")
    found = settings("--grpc.port", "3")
    assert (found.http.port, found.grpc.port) == (2, 3)


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
    for name in (
        "BACKEND_TYPE",
        "REDIS_TIMEOUT",
        "http.port",
        "(PORT; or --http.port",
        "redis.url",
    ):
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
