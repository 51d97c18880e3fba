"""Ways to identify that ask somebody, through a real Envoy: issuers, key stores, revocation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ext_authz.app import key_records
from meshwarden.cli.keys import create_key
from tests.support.authz_service import PEPPER, live
from tests.support.check_requests import access_policy, token_issuer
from tests.support.guarded_mesh import GuardedMesh, guarded_mesh
from tests.support.jwks_server import JwksServer, running_jwks_server
from tests.support.processes import wait_until
from tests.support.quickstart import meshwarden
from tests.support.redis_server import RedisServer, running_redis
from tests.support.tokens import ec_signer, ed_signer

OLD, NEW = ec_signer("old"), ed_signer("new")
BEARER = [{"header": "authorization", "scheme": "Bearer"}]


def ways(**jwt: str) -> list[Any]:
    """Tokens of one issuer, read by us or by it, and API keys, all in the same header."""
    return [
        {"jwt": {"issuers": ["main"]}, "onInvalid": "skip", **jwt},
        {"apiKey": {"sources": BEARER}, "onInvalid": "skip"},
        {"introspection": {"issuer": "main"}},
    ]


@dataclass
class Installation:
    """A mesh, and everybody who is asked."""

    mesh: GuardedMesh
    issuer: JwksServer
    redis: RedisServer

    def reason(self, credential: str, path: str = "/orders") -> str:
        return self.mesh.reason(path, {"authorization": f"Bearer {credential}"})


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("installation")
    with ExitStack() as stack:
        issuer = stack.enter_context(running_jwks_server(OLD))
        redis = stack.enter_context(running_redis())
        issuer.documents["/.well-known/openid-configuration"] = {
            "issuer": issuer.base,
            "jwks_uri": issuer.url,
            "introspection_endpoint": f"{issuer.base}/introspect",
        }
        issuer.introspect = introspected
        client = {"clientId": "us", "clientSecretFile": "secret", "discovery": "oidc"}
        source = token_issuer(
            issuer=issuer.base,
            jwks={"discovery": "oidc", "refreshSeconds": 1},
            introspection={**client, "cacheSeconds": 0, "inactiveCacheSeconds": 0},
        )
        policy = access_policy({"name": "orders", "paths": ["/orders"]}, identify=ways())
        options = ("--keys.redis-url", redis.url, "--lookup-wait-seconds", "0.15")
        mesh = stack.enter_context(
            guarded_mesh(
                folder,
                source,
                policy,
                options=options,
                files={"secret": "s"},
                keeps_keys=False,
            )
        )
        yield Installation(mesh, issuer, redis)


def introspected(form: dict[str, str], _credentials: str) -> dict[str, Any]:
    return {"active": form["token"] == "opaque", "sub": "olga", "aud": "orders"}


def test_keys_that_an_issuer_rotates_under_traffic_are_followed(installation: Installation):
    """Found by discovery. Nobody with a good token is refused while both keys are published."""
    issuer, mesh = installation.issuer, installation.mesh
    base = issuer.base
    old, new = OLD.token(live(iss=base)), NEW.token(live(iss=base))
    assert installation.reason(old) == "allowed"
    issuer.serve_keys(OLD, NEW)
    wait_until(lambda: keys_known(mesh) == 2, "both keys are known")
    assert [installation.reason(old), installation.reason(new)] == ["allowed", "allowed"]
    issuer.serve_keys(NEW)
    wait_until(lambda: installation.reason(old) != "allowed", "the old key is refused")
    assert installation.reason(new) == "allowed"


def keys_known(mesh: GuardedMesh) -> int:
    return int(mesh.authorizer.get("/readyz?verbose").json()["jwks"]["main"]["keys"])


def test_an_opaque_token_is_who_its_issuer_says(installation: Installation):
    """The first question finds the endpoint, too, which may take longer than Envoy waits."""
    wait_until(lambda: installation.reason("opaque") == "allowed", "it is introspected")
    seen = installation.mesh.seen("/orders", {"authorization": "Bearer opaque"})
    assert seen["x-auth-principal"] == ["opaque:olga"]
    assert installation.reason("other") == "inactive_token"


def test_an_api_key_is_found_in_redis_and_revoked_within_a_second(installation: Installation):
    records = key_records(installation.redis.url)
    key, record = create_key(records, PEPPER, "service")
    assert installation.reason(key) == "allowed"
    records.revoke(record.id, time.time())
    records.close()
    wait_until(lambda: installation.reason(key) != "allowed", "it is revoked", limit_seconds=1)


def test_a_token_is_revoked_within_a_second(installation: Installation):
    token = NEW.token(live(iss=installation.issuer.base, jti="lost"))
    installation.issuer.serve_keys(NEW)
    wait_until(lambda: installation.reason(token) == "allowed", "its key is known")
    url, base = installation.redis.url, installation.issuer.base
    done = meshwarden("token", "revoke", "--jti", "lost", "--issuer", base, "--redis", url)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: installation.reason(token) != "allowed", "it is revoked", limit_seconds=1)


# --- what happens when nobody answers


@pytest.mark.parametrize("answer", ["grpc_error", "error_response"])
def test_an_issuer_that_never_gave_its_keys_is_answered_as_the_policy_says(
    tmp_path: Path, answer: str
):
    """A fault is an error to Envoy, whose failure mode (here: closed, 503) decides."""
    source = token_issuer(jwks={"url": "http://127.0.0.1:9/jwks.json"})
    policies = []
    for strategy in ("deny", "skip", "fault"):
        first = {"jwt": {"issuers": ["main"]}, "onInvalid": "skip", "onUnavailable": strategy}
        identify = [first, {"apiKey": {"sources": BEARER}}]
        named = {"name": strategy, "hosts": [f"{strategy}.example.com"]}
        policies.append(access_policy({"name": "orders"}, identify=identify, **named))
    options = ("--fault-answer", answer)
    with guarded_mesh(tmp_path, source, *policies, options=options) as mesh:
        headers = {"authorization": f"Bearer {OLD.token(live())}"}
        for strategy, status, reason in (
            ("deny", 503, "issuer_unavailable"),
            ("skip", 401, "invalid_api_key"),
            ("fault", 503, "authorizer_unavailable"),
        ):
            got = mesh.get("/orders", {**headers, "host": f"{strategy}.example.com"})
            assert (got.status_code, got.json()["reason"]) == (status, reason)
