"""The ADS client against a real gRPC server: what is told, what is kept, every way to fail."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import pytest
from google.protobuf import any_pb2

from meshwarden.adapters.ads_settings import AdsSettings
from meshwarden.adapters.ads_source import AdsSource
from meshwarden.adapters.configuration import Configuration
from meshwarden.adapters.telemetry import Metrics
from meshwarden.core.snapshot import SnapshotHolder
from ratelimit_service.adapters.rate_limit_config import (
    TYPE_URL,
    bundle_of,
    compile_discovered,
)
from ratelimit_service.core.model import Rules
from tests.support.ads_server import AdsServer, ads_server, config, limited
from tests.support.certificates import Authority
from tests.support.ports import free_port
from tests.support.processes import PAUSE_SECONDS, until
from tests.support.tcp_proxy import running_proxy

GOOD = config("good", "domain", limited("one"))
BAD = config("bad", "domain", {"key": ""})


class Followed:
    """A stream that is followed, and what came of it."""

    def __init__(self, server: str, **settings: object) -> None:
        self.waits: list[float] = []
        self.told: list[str] = []
        self.metrics = Metrics()
        self.holder: SnapshotHolder[Rules] = SnapshotHolder(compile_discovered)
        self.source = AdsSource(
            AdsSettings.model_validate({"server": server, **settings}),
            type_url=TYPE_URL,
            bundle_of=bundle_of,
            metrics=self.metrics,
            chance=lambda: 0.5,
            told=lambda _bundle, outcome: self.told.append(type(outcome).__name__),
            pause=self._pause,
        )
        self.configuration = Configuration(
            self.holder,
            self.source,
            apply=lambda _rules: None,
            counts=lambda rules: {"domains": len(rules.domains)},
            metrics=self.metrics,
            resync_seconds=60,
        )

    async def _pause(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(PAUSE_SECONDS)

    @property
    def domains(self) -> list[str] | None:
        return None if self.holder.current is None else sorted(self.holder.current.domains)

    @property
    def failure(self) -> str:
        return str(self.source.status()["failure"] or "")

    async def fails(self, told: str) -> None:
        """Fail unless the stream fails with these words in time."""
        await until(lambda: told in self.failure, f"'{told}' is told, not {self.failure!r}")

    def metric(self, line: str) -> bool:
        return line in self.metrics.exposition().decode().splitlines()


@asynccontextmanager
async def following(server: str, **settings: object) -> AsyncIterator[Followed]:
    followed = Followed(server, **settings)
    followed.configuration.load()
    task = asyncio.create_task(followed.configuration.follow())
    try:
        yield followed
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def server() -> Iterator[AdsServer]:
    with ads_server() as made:
        yield made


async def sent(server: AdsServer, version: str, *resources: object, **how: str) -> grpc.Any:
    """Send from a thread: the client under test lives in our event loop."""
    return await asyncio.to_thread(server.send, version, *resources, **how)


async def test_a_response_is_acknowledged_once_it_is_put_to_work(server: AdsServer):
    metadata = "zone=a,team=b"
    async with following(
        server.address, node_id="me", node_metadata=metadata, headers="X-Token:abc"
    ) as followed:
        assert followed.configuration.unready_reason() == "no configuration is loaded yet"
        answer = await sent(server, "v1", GOOD)
        assert followed.domains == ["domain"]
        first = server.stream.requests[0]
        assert (first.type_url, first.version_info, first.response_nonce) == (TYPE_URL, "", "")
        assert (first.node.id, dict(first.node.metadata)) == ("me", {"zone": "a", "team": "b"})
        assert server.stream.metadata["x-token"] == "abc"
        assert (answer.version_info, answer.HasField("error_detail")) == ("v1", False)
        assert followed.metric('configuration_stream_answers_total{answer="ack"} 1.0')
        assert followed.metric("configuration_stream_is_open 1.0")


async def test_a_refused_response_names_every_fault_and_the_last_good_one_stays(
    server: AdsServer,
):
    async with following(server.address) as followed:
        await sent(server, "v1", GOOD)
        answer = await sent(server, "v2", BAD, config("empty", ""))
        assert answer.version_info == "v1"
        assert answer.error_detail.message.splitlines() == [
            "bad: descriptor has empty key",
            "empty: config file cannot have empty domain",
        ]
        assert followed.domains == ["domain"]
        again = await sent(server, "v3", BAD, config("empty", ""))
        assert again.error_detail.message == answer.error_detail.message
        right = await sent(server, "v4", GOOD, config("other", "other"))
        assert (right.version_info, right.error_detail.message) == ("v4", "")
        assert followed.domains == ["domain", "other"]
        unchanged = await sent(server, "v5", GOOD, config("other", "other"))
        assert unchanged.version_info == "v5"
        assert followed.told == ["Accepted", "Refused", "Refused", "Accepted", "Unchanged"]


async def test_what_cannot_be_read_at_all_is_told_first_and_alone(server: AdsServer):
    rubbish = any_pb2.Any(type_url=TYPE_URL, value=b"\xff")
    async with following(server.address):
        told = (await sent(server, "v1", BAD, rubbish)).error_detail.message.splitlines()
        assert len(told) == 1
        assert "invalid wire-format data" in told[0]
        told = (await sent(server, "v2", BAD)).error_detail.message.splitlines()
        assert told == ["bad: descriptor has empty key"]


async def test_a_refused_version_that_is_sent_again_is_not_refused_as_fast(
    server: AdsServer, capsys: pytest.CaptureFixture[str]
):
    """go-control-plane sends it again at once: that would be a storm, and a log of nothing else."""
    other = config("other", "")
    async with following(server.address) as followed:
        for number in range(5):
            answer = await sent(server, "v1", *((BAD, other) if number % 2 else (other, BAD)))
            assert answer.error_detail.message
        assert followed.waits == [0.75, 1.5, 3, 3.75]
        await sent(server, "v2", BAD)
        await sent(server, "v3", GOOD)
        await sent(server, "v1", BAD)
        assert len(followed.waits) == 4
    told = capsys.readouterr().out
    assert told.count("configuration_refused") == 3


async def test_what_is_not_ours_is_refused(server: AdsServer):
    cluster = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    async with following(server.address) as followed:
        await sent(server, "v1", GOOD)
        for resource, how, told in (
            (GOOD, {"type_url": cluster}, "unexpected type URL"),
            (any_pb2.Any(type_url=cluster), {}, 'want "envoy.config.cluster.v3.Cluster"'),
            (any_pb2.Any(type_url=TYPE_URL, value=b"\xff"), {}, "cannot parse"),
        ):
            answer = await sent(server, "v2", resource, **how)
            assert told in answer.error_detail.message
            assert answer.version_info == "v1"
        assert followed.domains == ["domain"]


async def test_an_empty_response_takes_every_limit_away(server: AdsServer):
    """Said by a server, that is no accident as an emptied folder is."""
    async with following(server.address) as followed:
        await sent(server, "v1", GOOD)
        answer = await sent(server, "v2")
        assert (answer.version_info, followed.domains) == ("v2", [])


async def test_ten_thousand_resources_are_taken(server: AdsServer):
    many = [config(f"c{n}", f"d{n}", limited("a"), limited("b")) for n in range(10_000)]
    async with following(server.address) as followed:
        answer = await sent(server, "v1", *many)
        assert answer.version_info == "v1"
        assert followed.domains is not None
        assert len(followed.domains) == 10_000


async def test_a_response_larger_than_allowed_ends_the_stream_and_is_told(server: AdsServer):
    server.on_open = lambda: server.response("v1", config("long", "d" * 5000))
    async with following(server.address, message_bytes_at_most=2000) as followed:
        await followed.fails("larger than max")
        await until(lambda: len(followed.waits) > 1, "it is tried again")
        assert followed.domains is None


async def test_rubbish_on_the_stream_ends_it_and_the_next_is_tried(server: AdsServer):
    server.on_open = lambda: b"\xff\xff"
    async with following(server.address) as followed:
        await followed.fails("not a DiscoveryResponse")
        server.on_open = lambda: server.response("v1", GOOD)
        await until(lambda: followed.domains == ["domain"], "the next stream is read")
        assert followed.failure == ""


async def test_a_server_that_refuses_us_is_asked_ever_less_often(server: AdsServer):
    server.on_open = lambda: grpc.StatusCode.PERMISSION_DENIED
    async with following(server.address, backoff_at_most_seconds=5) as followed:
        await followed.fails("PERMISSION_DENIED: not today")
        await until(lambda: len(followed.waits) > 4, "it is tried again")
        assert followed.waits[:5] == [0.75, 1.5, 3, 3.75, 3.75]
        server.on_open = lambda: server.response("v1", GOOD)
        await until(lambda: followed.domains, "it lets us in")
        waited = len(followed.waits)
        server.stream.end()
        await until(lambda: len(followed.waits) > waited, "the stream ends")
        assert followed.waits[waited] == 0.75


async def test_the_log_tells_a_failure_once(server: AdsServer, capsys: pytest.CaptureFixture[str]):
    server.on_open = lambda: grpc.StatusCode.PERMISSION_DENIED
    async with following(server.address) as followed:
        await until(lambda: len(followed.waits) > 3, "it failed often")
        told = capsys.readouterr().out
        # Where it ends while we write, gRPC forgets the reason; that may be told before it.
        assert told.count("PERMISSION_DENIED") == 1
        assert told.count("configuration_stream_failed") <= 2
        server.on_open = lambda: server.response("v1", GOOD)
        await until(lambda: followed.domains, "it works again")
    assert capsys.readouterr().out.count("configuration_stream_open") == 1


async def test_a_server_that_goes_and_comes_is_found_again_and_the_last_good_one_serves():
    port = free_port()
    async with following(f"127.0.0.1:{port}", connect_retry_seconds=4) as followed:
        await followed.fails("UNAVAILABLE")
        assert followed.waits[0] == 4
        assert followed.domains is None
        with ads_server(port) as server:
            await sent(server, "v1", GOOD)
        await until(lambda: followed.metric("configuration_stream_is_open 0.0"), "it is closed")
        assert followed.domains == ["domain"]
        with ads_server(port) as server:
            await until(lambda: server.streams and server.stream.requests, "it comes back")
            first = server.stream.requests[0]
            assert (first.version_info, first.response_nonce) == ("v1", "")


async def test_a_server_that_hangs_is_given_up(server: AdsServer):
    """It takes the connection and says nothing: first at the start, then after a configuration."""
    async with running_proxy(server.port) as proxy:
        proxy.hold()
        async with following(
            f"127.0.0.1:{proxy.port}",
            connect_time_limit_seconds=0.5,
            keepalive_interval_seconds=1,
            keepalive_time_limit_seconds=1,
        ) as followed:
            await followed.fails("no connection within 0.5 s")
            proxy.release()
            await sent(server, "v1", GOOD)
            assert followed.failure == ""
            proxy.hold()
            await until(lambda: followed.failure, "the silence is noticed")
            assert followed.domains == ["domain"]


async def test_following_ends_at_once_whatever_it_waits_for(server: AdsServer):
    """SIGTERM cancels it: while it is connected, and while it can't connect."""
    async with running_proxy(server.port) as proxy:
        proxy.hold()
        for address in (server.address, f"127.0.0.1:{proxy.port}"):
            async with following(address):
                await until(lambda: server.streams, "the first is connected")
                began = time.monotonic()
            assert time.monotonic() - began < 3


async def test_both_sides_show_certificates_and_ours_must_be_for_the_name(tmp_path: Path):
    authority, stranger = Authority(), Authority("stranger")
    theirs = authority.issue(dns=("control-plane.internal",))
    ours = authority.issue(subject="ratelimit")
    certificate, key = ours.write(tmp_path, "ours")
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    (tmp_path / "stranger.pem").write_bytes(stranger.certificate)
    credentials = grpc.ssl_server_credentials(
        [(theirs.key, theirs.certificate)], authority.certificate, require_client_auth=True
    )
    shown = {"tls_certificate_file": certificate, "tls_key_file": key}
    trusted = {"tls": True, "tls_ca_file": tmp_path / "ca.pem"}
    named = {"tls_server_san": "control-plane.internal"}
    with ads_server(credentials=credentials) as server:
        async with following(server.address, **trusted, **named, **shown) as followed:
            answer = await sent(server, "v1", GOOD)
            assert (answer.version_info, followed.domains) == ("v1", ["domain"])
        for wrong in (
            {**trusted, **shown},
            {**trusted, **shown, "tls_server_san": "other.internal"},
            {**trusted, **named},
            {**trusted, **named, **shown, "tls_ca_file": tmp_path / "stranger.pem"},
            {**named},
        ):
            async with following(server.address, **wrong) as followed:
                await followed.fails("UNAVAILABLE")
        assert len(server.streams) == 1


async def test_a_certificate_that_went_away_is_told_and_looked_for_again(tmp_path: Path):
    settings = {"tls": True, "tls_ca_file": tmp_path / "ca.pem"}
    with ads_server() as server:
        async with following(server.address, **settings) as followed:
            await followed.fails("ca.pem can't be read")
            (tmp_path / "ca.pem").write_text("no certificate at all")
            await until(lambda: "can't be read" not in followed.failure, "it is read again")
            await until(lambda: followed.failure, "what it holds is refused")
