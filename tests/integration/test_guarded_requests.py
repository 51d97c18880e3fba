"""What reaches an upstream behind Envoy and ext_authz, and what does not."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from tests.support.authz_service import live
from tests.support.check_requests import access_policy, token_issuer
from tests.support.guarded_mesh import GuardedMesh, guarded_mesh
from tests.support.tokens import ec_signer, jwks

EC = ec_signer()
PLACES = [{"cookie": "session"}, {"query": "access_token"}]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedMesh]:
    policy = access_policy(
        {"name": "orders", "paths": ["/orders"]},
        identify=[{"jwt": {"issuers": ["main"], "sources": PLACES}}],
    )
    folder = tmp_path_factory.mktemp("guarded")
    with guarded_mesh(folder, token_issuer(jwks(EC)), policy) as running:
        yield running


def test_a_token_in_a_cookie_identifies_and_is_taken_out_of_the_cookies(mesh: GuardedMesh):
    token = EC.token(live())
    seen = mesh.seen("/orders", {"cookie": f"theme=dark; session={token}; lang=en"})
    assert seen["x-auth-principal"] == ["jwt:rita"]
    assert seen["cookie"] == ["theme=dark; lang=en"]
    assert mesh.reason("/orders", {"cookie": f"session={token}="}) == "malformed_token"


@pytest.mark.parametrize("name", ["access_token", "access%5Ftoken"])
def test_a_token_in_the_query_identifies_and_is_taken_out_of_the_query(mesh: GuardedMesh, name):
    token = EC.token(live())
    seen = mesh.seen(f"/orders?page=2&{name}={token}&sort=up")
    assert seen["x-auth-principal"] == ["jwt:rita"]
    assert seen[":path"] == ["/orders?page=2&sort=up"]


def test_a_query_without_a_credential_reaches_the_upstream_as_it_was_sent(mesh: GuardedMesh):
    cookie = {"cookie": f"session={EC.token(live())}"}
    for path in ("/orders?k", "/orders?a=1&&b=%20+", "/orders?"):
        assert mesh.seen(path, cookie)[":path"] == [path]


def test_a_flood_of_wrong_tokens_is_refused_unverified_and_others_are_served(mesh: GuardedMesh):
    """Beyond two hundred of one address; a token that is known is served from there, too."""
    known = {"cookie": f"session={EC.token(live(jti='known'))}"}
    assert mesh.reason("/orders", known) == "allowed"
    reasons = {mesh.reason("/orders", {"cookie": f"session=x{n}"}) for n in range(260)}
    assert reasons == {"malformed_token", "too_many_failures"}
    for number in range(100):  # Ten a second are let through again, which a slow machine may see.
        mesh.reason("/orders", {"cookie": "session=x"})
        unknown = {"cookie": f"session={EC.token(live(jti=f'unknown {number}'))}"}
        answer = mesh.get("/orders", unknown)
        if answer.status_code == 429:
            break
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert mesh.reason("/orders", known) == "allowed"
    elsewhere = httpx2.HTTPTransport(local_address="127.0.0.9")
    with httpx2.Client(transport=elsewhere) as client:
        answer = client.get(f"{mesh.envoy.gateway}/orders", headers=unknown)
        assert answer.status_code == 200
