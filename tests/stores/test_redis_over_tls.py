"""Redis behind TLS, with users of few rights: alone, with a sentinel, and as a Cluster of one."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from redis import exceptions

from meshwarden.adapters.redis_client import translated
from meshwarden.adapters.redis_settings import RedisSettings
from meshwarden.adapters.redis_topology import Redis, connect
from meshwarden.core.faults import Misconfigured
from ratelimit_service.adapters.redis_store import Breaking, RedisStore
from ratelimit_service.adapters.replicas import Replicas
from ratelimit_service.core.model import Effect, Increment, Mode
from ratelimit_service.core.window import Unit, Window
from tests.stores.conftest import Connect
from tests.support.certificates import Authority
from tests.support.ports import free_ports
from tests.support.processes import CHECKOUT, PAUSE_SECONDS, wait_until
from tests.support.redis_server import RedisServer
from tests.support.redis_traffic import COUNT, count

BINARY = CHECKOUT / ".tools/redis-tls/redis-server"
NAME = "counters"
AUTH = "counters:secret"
ADMINISTRATOR = "of-the-test"
GUIDE = (CHECKOUT / "docs" / "how-to" / "redis.md").read_text()
RIGHTS = re.findall(r"^ACL SETUSER counters on >secret (.+)$", GUIDE, re.MULTILINE)[0].split()
SENTINEL_RIGHTS = ["-@all", "+sentinel|get-master-addr-by-name"]
WINDOW = Window.of(Unit.HOUR, now=1_000_000)


class Rig(NamedTuple):
    """A server alone, its sentinel, and a Cluster of one: each with a port for TLS, and one without
    that only the test uses.
    """

    folder: Path
    authority: Authority
    servers: dict[str, RedisServer]
    ports: dict[str, int]

    def settings(self, kind: str, **more: Any) -> dict[str, Any]:
        """Settings that reach it."""
        name = f"{NAME}," if kind == "sentinel" else ""
        return {
            "type": kind,
            "url": f"{name}127.0.0.1:{self.ports[kind]}",
            "auth": AUTH,
            "sentinel_auth": AUTH,
            "tls": True,
            "tls_ca_file": self.folder / "ca.pem",
            "tls_certificate_file": self.folder / "client.pem",
            "tls_key_file": self.folder / "client.key",
            **more,
        }

    def give_client(self, authority: Authority) -> None:
        """Have us show a new certificate, of this authority."""
        authority.issue().write(self.folder, "client")


def tls_options(folder: Path) -> list[str]:
    return [
        *("--tls-cert-file", str(folder / "server.pem")),
        *("--tls-key-file", str(folder / "server.key")),
        *("--tls-ca-cert-file", str(folder / "ca.pem")),
        *("--tls-auth-clients", "yes", "--tls-replication", "yes", "--tls-cluster", "yes"),
    ]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority()
    (folder / "ca.pem").write_bytes(authority.certificate)
    authority.issue(dns=("127.0.0.1",)).write(folder, "server")
    kinds = ("single", "sentinel", "cluster")
    ports = dict(zip(kinds, free_ports(3), strict=True))
    configuration = folder / "sentinel.conf"
    configuration.write_text(
        f"sentinel monitor {NAME} 127.0.0.1 {ports['single']} 1\n"
        f"sentinel auth-pass {NAME} {ADMINISTRATOR}\n"
    )
    of_kind = {"single": [], "sentinel": ["--sentinel"], "cluster": ["--cluster-enabled", "yes"]}
    servers = {
        kind: RedisServer(
            folder,
            password=ADMINISTRATOR,
            options=[*tls_options(folder), "--tls-port", str(ports[kind]), *of_kind[kind]],
            binary=BINARY,
            configuration=configuration if kind == "sentinel" else None,
        )
        for kind in kinds
    }
    try:
        for kind, server in servers.items():
            server.start()
            rights = SENTINEL_RIGHTS if kind == "sentinel" else RIGHTS
            server.ask("ACL", "SETUSER", "counters", "on", ">secret", *rights)
        cluster = servers["cluster"]
        cluster.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: "state:ok" in cluster.ask("CLUSTER", "INFO"), "the cluster is whole")
        rig = Rig(folder, authority, servers, ports)
        rig.give_client(authority)
        yield rig
    finally:
        for server in servers.values():
            server.kill()


@pytest.fixture(autouse=True)
async def leave() -> AsyncIterator[None]:
    """TLS takes its leave in two steps, the second of which is the server's."""
    yield
    for _ in range(5):
        await asyncio.sleep(PAUSE_SECONDS)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("kind", ["single", "sentinel", "cluster"])
async def test_every_form_is_reached_by_a_user_with_the_rights_that_the_guide_lists(
    rig: Rig, kind: str, protocol: int, connected: Connect
):
    """All that the service does: counting in each mode, heartbeats, and pings."""
    redis = connected(**rig.settings(kind, protocol=protocol))
    store = RedisStore(
        redis,
        breaking=Breaking(5, 1),
        jitter=lambda: 0,
        monotonic=time.monotonic,
    )
    key = f"{kind}{protocol}"
    for mode, hits, expected in (
        (Mode.ALWAYS, 2, 2),
        (Mode.ALL_OR_NONE, 3, 5),
        (Mode.STOPS_WHEN_OVER, -1, 4),
    ):
        increment = Increment(key, hits, WINDOW, 10, Effect.DENIES)
        assert await store.add([increment], mode=mode, now=WINDOW.start) == [expected]
    await store.ping()
    replicas = Replicas(
        redis,
        name="one",
        key=f"replicas{protocol}",
        count=9,
        time_limit_seconds=2,
        clock=time.time,
        monotonic=time.monotonic,
    )
    await replicas.beat()
    assert abs(replicas.offset_seconds) < 1
    holder = rig.servers["single" if kind == "sentinel" else kind]
    assert "user=counters" in holder.ask("CLIENT", "LIST")


async def test_a_right_that_is_missing_is_a_lasting_fault_that_names_the_command(
    rig: Rig, connected: Connect
):
    redis = connected(**rig.settings("single"))
    with pytest.raises(exceptions.NoPermissionError, match="flushall"):
        await redis.command("FLUSHALL")
    wrong = connected(**rig.settings("single", auth="counters:wrong"))
    (fault,) = await wrong.call_script(COUNT, [count("a")])
    assert isinstance(fault, exceptions.AuthenticationError)
    assert not translated(fault).retryable


async def test_a_databases_number_needs_the_right_that_the_guide_names(
    rig: Rig, connected: Connect
):
    assert "add `+select`" in GUIDE
    url = f"rediss://127.0.0.1:{rig.ports['single']}/1"
    redis = connected(**rig.settings("single", url=url))
    (fault,) = await redis.call_script(COUNT, [count("numbered")])
    assert isinstance(fault, exceptions.NoPermissionError)
    holder = rig.servers["single"]
    holder.ask("ACL", "SETUSER", "counters", "+select")
    try:
        assert await redis.call_script(COUNT, [count("numbered")]) == [1]
    finally:
        holder.ask("ACL", "SETUSER", "counters", "-select")


async def test_a_server_of_another_authority_is_refused(rig: Rig, connected: Connect):
    other = rig.folder / "other.pem"
    other.write_bytes(Authority("another").certificate)
    redis = connected(**rig.settings("single", tls_ca_file=other))
    (fault,) = await redis.call_script(COUNT, [count("a")])
    assert "certificate" in str(fault).lower()
    skipping = connected(
        **rig.settings("single", tls_ca_file=other, tls_skips_hostname_verification=True)
    )
    (fault,) = await skipping.call_script(COUNT, [count("a")])
    assert "certificate" in str(fault).lower(), "only the name is skipped"


async def test_a_certificate_for_another_host_is_refused_unless_the_name_is_skipped(
    rig: Rig, connected: Connect
):
    """The server's certificate is for 127.0.0.1."""
    url = f"localhost:{rig.ports['single']}"
    strict = connected(**rig.settings("single", url=url))
    (fault,) = await strict.call_script(COUNT, [count("name")])
    assert "mismatch" in str(fault)
    lenient = connected(**rig.settings("single", url=url, tls_skips_hostname_verification=True))
    assert await lenient.call_script(COUNT, [count("name")]) == [1]


async def test_a_changed_certificate_is_shown_at_the_next_connection(rig: Rig, connected: Connect):
    """Redis knows the authority of the second, not that of the first."""
    rig.give_client(Authority("another"))
    try:
        redis = connected(**rig.settings("single"))
        (fault,) = await redis.call_script(COUNT, [count("shown")])
        assert isinstance(fault, exceptions.ConnectionError)
        rig.give_client(rig.authority)
        assert await redis.call_script(COUNT, [count("shown")]) == [1]
        (rig.folder / "client.key").write_text("broken")
        assert await redis.call_script(COUNT, [count("shown")]) == [2], "its connection goes on"
        rig.servers["single"].ask("CLIENT", "KILL", "USER", "counters")
        await until_heard(redis)
        (fault,) = await redis.call_script(COUNT, [count("shown")])
        assert isinstance(fault, OSError)
    finally:
        rig.give_client(rig.authority)
    assert await redis.call_script(COUNT, [count("shown")]) == [3]


async def until_heard(redis: Redis) -> None:
    """Return when the connection that the server closed is known to be closed."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_every_file_that_cannot_be_used_is_told_at_start(rig: Rig):
    missing = rig.settings("single", tls_ca_file="no ca", tls_key_file="no key")
    with pytest.raises(Misconfigured) as refused:
        connect(RedisSettings(**missing))
    assert [problem.file for problem in refused.value.problems] == ["no ca", "no key"]
    swapped = rig.settings("cluster", tls_key_file=rig.folder / "server.key")
    with pytest.raises(Misconfigured, match="can't be used"):
        connect(RedisSettings(**swapped))


async def test_a_rediss_url_speaks_tls(rig: Rig, connected: Connect):
    url = f"rediss://{AUTH}@127.0.0.1:{rig.ports['single']}/0"
    redis = connected(**rig.settings("single", url=url, auth="", tls=False))
    assert await redis.call_script(COUNT, [count("url")]) == [1]
