"""What the configuration stream can be told, by our names and by the reference's."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshwarden.adapters.ads_channel import ads_credentials
from meshwarden.adapters.ads_settings import AdsSettings
from meshwarden.adapters.settings import load
from meshwarden.core.backoff import Backoff
from meshwarden.core.faults import Misconfigured
from ratelimit_service.settings import Settings

VARIABLES = {
    "CONFIG_TYPE": "GRPC_XDS_SOTW",
    "CONFIG_GRPC_XDS_NODE_ID": "gateway",
    "CONFIG_GRPC_XDS_NODE_METADATA": "zone=a=b,lonely,team=edge",
    "CONFIG_GRPC_XDS_SERVER_URL": "envoy-gateway:18001",
    "CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL": "500ms",
    "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS": "Authorization:Bearer hush,x-tenant:a",
    "CONFIG_GRPC_XDS_SERVER_USE_TLS": "true",
    "CONFIG_GRPC_XDS_CLIENT_TLS_CERT": "/certs/tls.crt",
    "CONFIG_GRPC_XDS_CLIENT_TLS_KEY": "/certs/tls.key",
    "CONFIG_GRPC_XDS_SERVER_TLS_CACERT": "/certs/ca.crt",
    "CONFIG_GRPC_XDS_SERVER_TLS_SAN": "envoy-gateway",
    "XDS_CLIENT_BACKOFF_INITIAL_INTERVAL": "2s",
    "XDS_CLIENT_BACKOFF_MAX_INTERVAL": "1m",
    "XDS_CLIENT_BACKOFF_RANDOM_FACTOR": "0.5",
    "XDS_CLIENT_BACKOFF_JITTER": "false",
    "XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES": "1048576",
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_every_variable_of_the_references_xds_client_is_understood(monkeypatch: pytest.MonkeyPatch):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    found = load(Settings, (), "ratelimit_service")
    assert found.configuration.source == "xds"
    stream = found.xds
    assert (stream.server, stream.node_id) == ("envoy-gateway:18001", "gateway")
    assert stream.metadata_pairs() == {"zone": "a=b", "team": "edge"}
    assert stream.header_pairs() == [("authorization", "Bearer hush"), ("x-tenant", "a")]
    assert stream.connect_retry_seconds == 0.5
    assert stream.message_bytes_at_most == 1 << 20
    assert (stream.tls, stream.tls_server_san) == (True, "envoy-gateway")
    assert stream.tls_certificate_file == Path("/certs/tls.crt")
    assert stream.tls_key_file == Path("/certs/tls.key")
    assert stream.tls_ca_file == Path("/certs/ca.crt")
    assert stream.backoff_rule() == Backoff(2, 60, 0.5, has_jitter=False)
    assert "hush" not in repr(found)


def test_a_file_type_of_the_reference_is_our_folder(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CONFIG_TYPE", "FILE")
    assert load(Settings, (), "ratelimit_service").configuration.source == "folder"


@pytest.mark.parametrize(
    "headers", ["just-a-word", "with space:sesame", ":sesame", "x:\nsesame", "y:sesam\u00e9"]
)
def test_headers_that_cannot_be_sent_are_refused_without_being_shown(headers: str):
    with pytest.raises(Misconfigured, match=r"xds\.headers") as refused:
        load(Settings, ("--xds.headers", headers), "ratelimit_service")
    assert "sesam" not in str(refused.value)


def test_a_certificate_without_its_key_is_refused():
    with pytest.raises(ValueError, match="set both or none"):
        AdsSettings(tls_certificate_file=Path("/certs/tls.crt"))


def test_files_that_cannot_be_read_are_all_named(tmp_path: Path):
    settings = AdsSettings(
        tls_ca_file=tmp_path / "ca", tls_certificate_file=tmp_path / "c", tls_key_file=tmp_path
    )
    with pytest.raises(Misconfigured) as refused:
        ads_credentials(settings)
    for name in ("xds.tls_ca_file", "xds.tls_certificate_file", "xds.tls_key_file"):
        assert name in str(refused.value)


def test_waits_grow_to_their_bound_and_vary_by_half():
    rule = Backoff(1, 60)
    assert [rule.seconds(n, chance=0) for n in (1, 2, 3, 7, 1000)] == [1, 2, 4, 60, 60]
    assert rule.seconds(1, chance=0.999) == pytest.approx(0.5, abs=0.01)
    assert Backoff(2, 60, 0.5).seconds(9, chance=0) == 2
