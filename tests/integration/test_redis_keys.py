"""API keys and revocations in Redis, as replicas of ext_authz see them: found, changed, cut off."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis

from ext_authz.app import Settings, key_records, source
from ext_authz.core.revocations import Revocation
from meshwarden.adapters.settings import load
from meshwarden.cli.keys import create_key
from meshwarden.core.faults import Misconfigured
from tests.support.authz_service import PEPPER, Service, live, serving
from tests.support.check_requests import access_policy, token_issuer
from tests.support.processes import wait_until
from tests.support.quickstart import meshwarden
from tests.support.redis_server import RedisServer, running_redis
from tests.support.tokens import ISSUER, ec_signer, jwks

EC = ec_signer()
RESOURCES = (token_issuer(jwks(EC)), access_policy({"name": "orders", "paths": ["/orders"]}))
WITHIN_SECONDS = 1.0


@contextmanager
def replica(folder: Path, server: RedisServer, *options: str) -> Iterator[Service]:
    folder.mkdir()
    wanted = ("--keys.redis-url", server.url, *options)
    is_measured = folder.name != "b"  # both run the same lines
    with serving(
        folder, *RESOURCES, options=wanted, keeps_keys=False, is_measured=is_measured
    ) as service:
        yield service


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as running:
        yield running


@pytest.fixture(scope="module")
def replicas(
    tmp_path_factory: pytest.TempPathFactory, server: RedisServer
) -> Iterator[list[Service]]:
    folder = tmp_path_factory.mktemp("replicas")
    with ExitStack() as stack:
        yield [stack.enter_context(replica(folder / name, server)) for name in ("a", "b")]


def new_key(server: RedisServer, name: str = "service") -> tuple[str, str]:
    """A key and its id."""
    records = key_records(server.url)
    key, record = create_key(records, PEPPER, name)
    records.close()
    return key, record.id


def new_known_key(server: RedisServer, *services: Service) -> str:
    """A new key, of which Redis has told each service: what they remember of it stays."""
    heard = [changes(service) for service in services]
    key, _ = new_key(server)
    for service, before in zip(services, heard, strict=True):
        wait_until(lambda s=service, n=before: changes(s) > n, "Redis tells of it")
        assert service.ask(key=key) == "allowed"
    return key


def changes(service: Service) -> float:
    lines = service.get("/metrics").text.splitlines()
    found = (x.split()[1] for x in lines if x.startswith("ext_authz_key_changes_total "))
    return float(next(found, 0))


def reasons(replicas: list[Service], *, key: str = "", token: str = "") -> set[str]:
    return {service.ask(key=key, token=token) for service in replicas}


def test_a_key_is_known_everywhere_at_once_and_revoked_within_a_second(replicas, server):
    """Also one that was asked for before it was made: that it is unknown is remembered, too."""
    key, key_id = new_key(server)
    with redis.Redis(port=server.port) as raw:
        name = next(raw.scan_iter("meshwarden:key:*"))
        content = raw.get(name)
        raw.delete(name)
        assert reasons(replicas, key=key) == {"invalid_api_key"}
        raw.set(name, content)
    allowed = {"allowed"}
    wait_until(lambda: reasons(replicas, key=key) == allowed, "it is known", limit_seconds=1)
    done = meshwarden("keys", "revoke", key_id, "--redis", server.url)
    assert done.returncode == 0, done.stderr
    revoked = {"invalid_api_key"}
    wait_until(lambda: reasons(replicas, key=key) == revoked, "it is revoked", limit_seconds=1)


def test_what_is_remembered_costs_redis_nothing(replicas, server):
    key = new_known_key(server, *replicas)
    with redis.Redis(port=server.port) as raw:
        before = raw.info("commandstats").get("cmdstat_mget", {}).get("calls", 0)
        for _ in range(50):
            assert reasons(replicas, key=key) == {"allowed"}
            assert reasons(replicas, key=key[:-1] + "?") == {"invalid_api_key"}
        assert raw.info("commandstats")["cmdstat_mget"]["calls"] == before


@pytest.mark.parametrize("way", ["jti", "subject", "issued-before"])
def test_a_revoked_token_is_refused_everywhere_within_a_second(replicas, server, way):
    """By its id, its subject, or the time at which its issuer made it; others go on."""
    token = EC.token(live(jti=f"id-{way}", sub=f"rita-{way}", iat=time.time() - 5))
    other = EC.token(live(jti="other", sub="otto", iat=time.time() - 1))
    assert reasons(replicas, token=token) == reasons(replicas, token=other) == {"allowed"}
    words = {
        "jti": ("--jti", f"id-{way}"),
        "subject": ("--subject", f"rita-{way}"),
        "issued-before": ("--issued-before", str(time.time() - 3)),
    }
    done = meshwarden("token", "revoke", *words[way], "--issuer", ISSUER, "--redis", server.url)
    assert done.returncode == 0, done.stderr
    wait_until(
        lambda: reasons(replicas, token=token) == {"revoked"}, "it is revoked", limit_seconds=1
    )
    assert reasons(replicas, token=other) == {"allowed"}


def test_a_broken_record_is_no_key_and_is_told(replicas, server):
    key, _ = new_key(server, "broken")
    with redis.Redis(port=server.port) as raw:
        for name in raw.scan_iter("meshwarden:key:*"):
            if b"broken" in raw.get(name):
                raw.set(name, b"{")
        raw.hset("meshwarden:revocations", "x", b"nonsense")
    assert reasons(replicas, key=key) == {"invalid_api_key"}
    for service in replicas:
        wait_until(lambda s=service: "revocation_is_broken" in s.process.output, "it is told")
        assert "key_record_is_broken" in service.process.output


def test_everything_flushed_is_forgotten_within_a_second(replicas, server):
    """The last test on these replicas."""
    key, _ = new_key(server, "flushed")
    assert reasons(replicas, key=key) == {"allowed"}
    with redis.Redis(port=server.port) as raw:
        raw.flushall()
    unknown = {"invalid_api_key"}
    wait_until(lambda: reasons(replicas, key=key) == unknown, "it is gone", limit_seconds=1)


@pytest.mark.parametrize("cut", ["killed", "stuck"])
def test_while_redis_is_away_what_is_known_is_served_and_nothing_else(tmp_path, cut):
    """The default. A new key is a 503 meanwhile; both are right again soon after Redis is back."""
    with running_redis() as server, replica(tmp_path / "r", server) as service:
        known, (other, _) = new_known_key(server, service), new_key(server, "other")
        token = EC.token(live())
        assert (service.ask(key=known), service.ask(token=token)) == ("allowed", "allowed")
        server.kill() if cut == "killed" else server.pause()
        wait_until(lambda: "key_store_is_down" in service.process.output, "it is seen")
        assert service.ask(key=known) == "allowed"
        assert service.ask(token=token) == "allowed"
        assert service.ask(key=other) == "key_store_unavailable"
        assert service.get("/readyz").status_code == 200
        assert "ext_authz_key_store_is_up 0.0" in service.get("/metrics").text
        server.start() if cut == "killed" else server.resume()
        key = other if cut == "stuck" else new_key(server, "new")[0]
        wait_until(lambda: service.ask(key=key) == "allowed", "it recovers", limit_seconds=5)


def test_with_refuse_nothing_that_may_be_revoked_is_served_a_second_after_the_last_word(tmp_path):
    with (
        running_redis() as server,
        replica(tmp_path / "r", server, "--keys.on-store-failure", "refuse") as service,
    ):
        key, _ = new_key(server)
        token = EC.token(live())
        wait_until(lambda: service.ask(token=token) == "allowed", "revocations are known")
        assert service.ask(key=key) == "allowed"
        server.pause()
        began = time.monotonic()
        refused = "key_store_unavailable"
        wait_until(lambda: service.ask(key=key) == refused, "the key is refused", limit_seconds=2)
        wait_until(lambda: service.ask(token=token) == refused, "the token is", limit_seconds=2)
        assert time.monotonic() - began < WITHIN_SECONDS
        server.resume()
        wait_until(lambda: service.ask(key=key) == "allowed", "it recovers", limit_seconds=5)
        wait_until(lambda: service.ask(token=token) == "allowed", "it recovers", limit_seconds=5)


def test_without_redis_at_start_it_is_not_ready_and_says_why(tmp_path):
    with running_redis(started=False) as server:
        (tmp_path / "r").mkdir()
        options = ("--keys.redis-url", server.url)
        with serving(
            tmp_path / "r", *RESOURCES, options=options, keeps_keys=False, is_ready=False
        ) as service:
            service.process.wait_until(lambda: service.answers("/readyz", 503), "it is not ready")
            assert "redis: " in service.get("/readyz").json()["reasons"]["key_store"]
            server.start()
            service.wait_until_ready()
            assert service.ask(key=new_key(server)[0]) == "allowed"


def test_settings_that_do_not_go_together_are_told_at_once(tmp_path):
    words = ["--keys.redis-url", "localhost:1", "--keys.file", str(tmp_path / "k")]
    words += ["--identity-tokens.issuer", "http://a"]
    with pytest.raises(Misconfigured) as wrong:
        source(load(Settings, words, "ext_authz"))
    assert [str(problem) for problem in wrong.value.problems] == [
        "identity_tokens.keys-file and .issuer go together: set both or none",
        "keys.redis-url is in place of keys.file and keys.revocations-file",
        "keys.redis-url needs keys.pepper-file: without it no key is found",
        "no configuration: set --configuration.folder to a folder of policies, "
        "or --configuration.kubernetes.enabled",
    ]


def test_a_revocation_covers_what_it_names_alone():
    """The record of a subject is no record of the issuer."""
    with pytest.raises(ValueError, match="exactly one of jti, issued_before"):
        Revocation(id="a", issuer="i", subject="rita", expires_at=1)
    with pytest.raises(ValueError, match="a jti needs no subject"):
        Revocation(id="a", issuer="i", subject="rita", jti="j", expires_at=1)
