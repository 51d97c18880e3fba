"""A Redis is named in the forms of envoyproxy/ratelimit, and what is wrong is told where it is."""

from __future__ import annotations

import pydantic
import pytest

from meshwarden.adapters.redis_settings import Address, RedisSettings, parse_address


def faults(**given: object) -> dict[str, str]:
    """The faults of these settings, by field."""
    with pytest.raises(pydantic.ValidationError) as refused:
        RedisSettings.model_validate(given)
    return {
        ".".join(map(str, fault["loc"])): str(fault["msg"]).removeprefix("Value error, ")
        for fault in refused.value.errors()
    }


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("localhost:6379", "redis://localhost:6379"),
        ("/run/redis.sock", "unix:///run/redis.sock"),
        ("rediss://user:secret@h:1/2", "rediss://user:secret@h:1/2"),
        ("unix:///run/redis.sock?db=3", "unix:///run/redis.sock?db=3"),
    ],
)
def test_one_server_is_a_url_an_address_or_a_path(written: str, url: str):
    assert RedisSettings(url=written).url == url


def test_sentinels_and_cluster_nodes_are_lists_in_the_references_form():
    trio = RedisSettings(type="SENTINEL", url="mymaster,a:1, b:2,[::1]:3")  # type: ignore[arg-type]
    assert trio.sentinel_master == "mymaster"
    assert trio.addresses == [Address("a", 1), Address("b", 2), Address("::1", 3)]
    cluster = RedisSettings(type="cluster", url="a:1,b:2")
    assert cluster.addresses == [Address("a", 1), Address("b", 2)]
    assert str(parse_address("[::1]:3")) == "[::1]:3"


@pytest.mark.parametrize(
    ("kind", "url", "word"),
    [
        ("single", "a:1,b:2", "must be host:port"),
        ("single", "redis://h:port", "host or port"),
        ("single", "redis://h:1?socket_timeout=5", "no ?options"),
        ("single", "redis://h:1/name", "database's number"),
        ("single", "unix://", "names no socket"),
        ("sentinel", "a:1,b:2", "master's name"),
        ("sentinel", "mymaster", "must list sentinel"),
        ("cluster", "redis://a:1", "is not host:port"),
        ("cluster", "a:1,,b:0", "'b:0' is not host:port"),
        ("cluster", "redis://127.0.0.1:6379", "is not host:port"),
    ],
)
def test_a_url_of_another_form_is_refused(kind: str, url: str, word: str):
    assert word in faults(type=kind, url=url)["url"]


def test_the_form_is_asked_for_where_only_the_type_is_set():
    assert "master's name" in faults(type="sentinel")["url"]


def test_a_refused_list_shows_no_password():
    told = faults(type="cluster", url="user:secret@a:1")["url"]
    assert "secret" not in told


def test_every_fault_is_told_where_it_is():
    told = faults(
        type="cluster", url="nowhere", time_limit_seconds="soon", protocol=4, tls_key_file="k"
    )
    assert set(told) == {"url", "time_limit_seconds", "protocol", "tls_key_file"}


def test_tls_settings_without_tls_are_refused():
    told = faults(tls_ca_file="ca", tls_skips_hostname_verification=True)
    assert set(told) == {"tls_ca_file", "tls_skips_hostname_verification"}
    assert "together" in faults(tls=True, tls_certificate_file="c")["tls_key_file"]
    assert "path" in faults(tls=True, url="/run/redis.sock")["tls"]
    assert RedisSettings(url="rediss://h:1", tls_ca_file="ca").speaks_tls  # type: ignore[arg-type]
    assert RedisSettings(url="h:1", tls=True).speaks_tls
    assert not RedisSettings().speaks_tls
