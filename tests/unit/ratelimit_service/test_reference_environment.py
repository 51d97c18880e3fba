"""The reference's environment as a whole: its defaults, what comes before it, what is left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshwarden.adapters.settings import load
from meshwarden.core.faults import Misconfigured
from ratelimit_service.adapters.reference_environment import TELLTALES, read
from ratelimit_service.adapters.reference_variables import VARIABLES
from ratelimit_service.app import options
from ratelimit_service.settings import Settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name in {v.name for v in VARIABLES} or name.startswith(("RATELIMIT_", "OTEL_")):
            monkeypatch.delenv(name)


def settings(environment: dict[str, str], *arguments: str) -> Settings:
    with pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        return load(Settings, arguments, "ratelimit_service")


@pytest.mark.parametrize("telltale", TELLTALES)
def test_one_telltale_brings_the_references_defaults(telltale: str):
    text = {"CONFIG_TYPE": "FILE", "BACKEND_TYPE": "redis", "REDIS_TYPE": "SINGLE"}
    found = settings({telltale: text.get(telltale, "x:1")})
    assert (found.store.kind, found.log.level, found.log.format) == ("redis", "warning", "console")
    assert (found.grpc.port, found.http.port, found.debug.port) == (8081, 8080, 6070)
    ages = found.grpc.connection_age_seconds, found.grpc.connection_age_grace_seconds
    assert ages == (86_400, 3_600)
    root = "x:1" if telltale == "RUNTIME_ROOT" else "/srv/runtime_data/current"
    assert found.runtime.root == Path(root)
    assert found.health.configuration == "not_needed"
    if telltale != "REDIS_URL":
        assert found.redis.url == "unix:///var/run/nutcracker/ratelimit.sock"


def test_the_time_limit_of_redis_is_ours_unless_it_is_set():
    assert settings({"REDIS_URL": "h:1"}).redis.time_limit_seconds == 0.1
    given = {"REDIS_URL": "h:1", "REDIS_TIMEOUT": "250ms"}
    assert settings(given).redis.time_limit_seconds == 0.25


def test_without_a_telltale_ours_hold_beside_what_is_set():
    found = settings({"GRPC_PORT": "1", "LOG_FORMAT": "text"})
    assert (found.grpc.port, found.log.format) == (1, "console")
    assert (found.store.kind, found.log.level, found.runtime.root) == ("memory", "info", None)


def test_an_empty_value_counts_as_none():
    found = settings(dict.fromkeys((v.name for v in VARIABLES), ""))
    assert found == settings({})


def test_what_kubernetes_adds_for_services_named_ratelimit_and_redis_does_no_harm():
    names = ("RATELIMIT_PORT", "RATELIMIT_PORT_8081_TCP", "RATELIMIT_REDIS_PORT", "REDIS_PORT")
    added = dict.fromkeys(names, "tcp://10.0.0.1:8081")
    added |= {"RATELIMIT_SERVICE_HOST": "10.0.0.1", "RATELIMIT_SERVICE_PORT_GRPC": "8081"}
    assert settings(added) == settings({})


def test_ours_come_before_the_references_defaults_and_values():
    environment = {"REDIS_URL": "h:1", "PORT": "1", "RATELIMIT_HTTP__PORT": "2"}
    found = settings(environment, "--store.kind", "memory", "--log.level", "debug")
    assert (found.http.port, found.store.kind, found.log.level) == (2, "memory", "debug")


def test_the_docker_compose_environment_of_the_reference_is_taken():
    found = settings(
        {
            "USE_STATSD": "false",
            "LOG_LEVEL": "debug",
            "REDIS_SOCKET_TYPE": "tcp",
            "REDIS_URL": "redis:6379",
            "REDIS_AUTH": "user:hush",
            "RUNTIME_ROOT": "/data",
            "RUNTIME_SUBDIRECTORY": "ratelimit",
            "MEMCACHE_HOST_PORT": "memcached:11211",
            "LIMIT_RESPONSE_HEADERS_ENABLED": "TRUE",
            "LIMIT_REMAINING_HEADER": "r",
            "SHADOW_MODE": "1",
            "COUNTER_KEY_FORMAT": "envoyproxy",
        }
    )
    assert found.redis.url == "redis://redis:6379"
    assert found.redis.auth.get_secret_value() == "user:hush"
    assert "hush" not in repr(found)
    assert (found.log.level, found.store.key_format) == ("debug", "envoyproxy")
    assert (found.runtime.root, found.runtime.subdirectory) == (Path("/data"), Path("ratelimit"))
    made = options(found)
    assert made.shadow_mode
    assert made.header_names is not None
    assert (made.header_names.limit, made.header_names.remaining) == ("RateLimit-Limit", "r")


def test_tls_holds_where_it_is_switched_on():
    files = {"GRPC_SERVER_TLS_CERT": "/c", "GRPC_SERVER_TLS_KEY": "/k"}
    assert settings(files).tls.certificate_file is None
    clients = {"GRPC_CLIENT_TLS_CACERT": "/ca", "GRPC_CLIENT_TLS_SAN": "envoy.mesh"}
    found = settings({**files, **clients, "GRPC_SERVER_USE_TLS": "true"}).tls
    assert (found.certificate_file, found.key_file) == (Path("/c"), Path("/k"))
    assert (found.client_ca_file, found.client_san) == (Path("/ca"), "envoy.mesh")


@pytest.mark.parametrize(
    ("given", "endpoint"),
    [
        ({}, "https://localhost:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_INSECURE": "true"}, "http://localhost:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}, "http://c:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/x"}, "http://c/x"),
    ],
)
def test_traces_go_where_opentelemetrys_variables_say(given: dict[str, str], endpoint: str):
    tracing = {"TRACING_ENABLED": "true", "TRACING_SERVICE_NAME": "limits"}
    found = settings({**given, **tracing, "TRACING_SAMPLING_RATE": "7"}).tracing
    assert (found.otlp_endpoint, found.service_name, found.sample_ratio) == (endpoint, "limits", 1)
    assert settings(given).tracing.otlp_endpoint == ""


def test_files_of_redis_tls_go_to_each_redis_whose_tls_is_on():
    environment = {"REDIS_TLS_CACERT": "/ca", "REDIS_PERSECOND": "true"}
    for switch, section in (("REDIS_TLS", "redis"), ("REDIS_PERSECOND_TLS", "redis_per_second")):
        found = read({**environment, switch: "true"})
        told = [name for name, by in found.set_by.items() if by == "REDIS_TLS_CACERT"]
        assert told == [f"{section}.tls_ca_file"]


def test_another_sink_switches_the_default_statsd_off():
    def is_on(**given: str) -> object:
        found = read({"REDIS_URL": "h:1", **given})
        return found.settings["statistics"]["statsd"]["enabled"]

    assert is_on() is True
    assert is_on(USE_PROMETHEUS="true") is False
    assert is_on(USE_DOG_STATSD="true") is False
    assert is_on(USE_PROMETHEUS="true", USE_STATSD="true") is True


def test_a_value_out_of_bounds_is_told_by_the_references_name():
    with pytest.raises(Misconfigured) as refused:
        settings({"GRPC_PORT": "70000", "NEAR_LIMIT_RATIO": "2", "SHADOW_MODE": "on"})
    told = str(refused.value)
    assert "(GRPC_PORT; or --grpc.port or RATELIMIT_GRPC__PORT)" in told
    assert "(NEAR_LIMIT_RATIO; or" in told
    assert "SHADOW_MODE: must be one of" in told


def test_several_workers_cannot_share_a_socket():
    with pytest.raises(Misconfigured, match=r"can't share grpc\.socket"):
        settings({"REDIS_URL": "h:1", "GRPC_UDS": "/run/limits.sock"}, "--workers", "2")
