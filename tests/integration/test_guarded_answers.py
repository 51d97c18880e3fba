"""What an answer carries, through a real Envoy: up, down, and in place of a denial."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx2
import jwt
import pytest

from tests.support.authz_service import live
from tests.support.check_requests import access_policy, token_issuer
from tests.support.guarded_mesh import Bootstrap, GuardedMesh, guarded_mesh
from tests.support.processes import wait_until
from tests.support.quickstart import meshwarden
from tests.support.tokens import ec_signer, jwks

EC = ec_signer()
LOGIN = "https://login.example.com/start?next=${url}"
PAGE = {"text": "<p>${reason} at ${path}</p>", "contentType": "text/html; charset=utf-8"}
POLICY = access_policy(
    {"name": "orders", "paths": ["/orders"]},
    identify=[{"jwt": {"issuers": ["main"]}}],
    upstream={
        "headers": [
            {"name": "x-static", "value": "s"},
            {"name": "x-plan", "expression": "principal.claims.plan"},
            {"name": "x-list", "value": "ours", "action": "append"},
            {"name": "x-default", "value": "ours", "action": "addIfAbsent"},
            {"name": "x-present", "value": "ours", "action": "overwriteIfExists"},
        ],
        "removeHeaders": ["x-internal"],
        "query": [{"name": "tenant", "expression": "principal.subject"}],
        "removeQuery": ["debug"],
    },
    downstream={
        "headers": [
            {"name": "x-served-for", "expression": "principal.name"},
            {"name": "x-never", "expression": "principal.claims.absent"},
        ]
    },
    metadata=[{"name": "plan", "expression": "principal.claims.plan"}],
    denied={
        "unauthenticated": {"redirect": {"location": LOGIN}, "headers": {"x-why": "${reason}"}},
        "forbidden": {"status": 404, "body": PAGE},
    },
    identityToken={
        "audience": "orders-service",
        "claims": {"plan": "principal.claims.plan", "absent": "principal.claims.absent"},
    },
)
ISSUER = token_issuer(jwks(EC))
BROWSER = {"accept": "text/html,application/xhtml+xml", "sec-fetch-mode": "navigate"}
IDENTITY_ISSUER = "http://ext-authz.test"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("answers")


@pytest.fixture(scope="module")
def mesh(folder: Path) -> Iterator[GuardedMesh]:
    made = meshwarden("keys", "signing", str(folder / "signing.json"))
    assert made.returncode == 0, made.stderr
    options = ("--identity-tokens.keys-file", str(folder / "signing.json"))
    options += ("--identity-tokens.issuer", IDENTITY_ISSUER)
    with guarded_mesh(folder, ISSUER, POLICY, options=options, changed=logging_the_plan) as running:
        yield running


def logging_the_plan(document: Bootstrap) -> Bootstrap:
    """The access log has an entry for the metadata that the policy adds."""
    chain = document["static_resources"]["listeners"][0]["filter_chains"][0]
    log = chain["filters"][0]["typed_config"]["access_log"][0]["typed_config"]
    shown = "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:plan)%"
    log["log_format"]["json_format"]["plan"] = shown
    return document


def bearer(**claims: object) -> dict[str, str]:
    return {"authorization": f"Bearer {EC.token(live(plan='gold', **claims))}"}


# --- up and down


def test_headers_are_overwritten_appended_added_and_removed_as_the_policy_says(mesh: GuardedMesh):
    sent = {
        **{"x-static": "theirs", "x-plan": "theirs", "x-list": "theirs", "x-internal": "theirs"},
        **{"x-default": "theirs", "x-present": "theirs"},
    }
    seen = mesh.seen("/orders", {**bearer(), **sent})
    assert (seen["x-static"], seen["x-plan"]) == (["s"], ["gold"])
    assert ",".join(seen["x-list"]) == "theirs,ours"
    assert (seen["x-default"], seen["x-present"]) == (["theirs"], ["ours"])
    assert "x-internal" not in seen
    seen = mesh.seen("/orders", bearer())
    assert (seen["x-list"], seen["x-default"]) == (["ours"], ["ours"])
    assert "x-present" not in seen


def test_a_header_whose_value_can_not_be_made_is_not_the_clients_own(mesh: GuardedMesh):
    token = EC.token(live())
    seen = mesh.seen("/orders", {"authorization": f"Bearer {token}", "x-plan": "theirs"})
    assert "x-plan" not in seen


def test_query_parameters_are_set_and_removed(mesh: GuardedMesh):
    seen = mesh.seen("/orders?a=1&tenant=theirs&debug=1", bearer())
    assert seen[":path"] == ["/orders?a=1&tenant=rita"]


def test_the_client_gets_headers_and_later_filters_metadata(mesh: GuardedMesh):
    answer = mesh.get("/orders", bearer())
    assert answer.headers["x-served-for"] == "jwt:rita"
    assert "x-never" not in answer.headers
    wait_until(lambda: "gold" in [entry.get("plan") for entry in mesh.envoy.access_log], "logged")


# --- denials


def test_a_browser_is_sent_to_log_in_and_back_to_where_it_was(mesh: GuardedMesh):
    answer = mesh.get("/orders?a=1&b=%26", BROWSER, follow_redirects=False)
    assert answer.status_code == 302
    where = f"{mesh.envoy.gateway}/orders?a=1&b=%26"
    location = httpx2.URL(answer.headers["location"])
    assert (location.host, location.params["next"]) == ("login.example.com", where)


@pytest.mark.parametrize(
    ("headers", "method"),
    [
        ({}, "GET"),
        ({"accept": "application/json"}, "GET"),
        (BROWSER, "POST"),
        ({**BROWSER, "sec-fetch-mode": "cors"}, "GET"),
        ({**BROWSER, "x-requested-with": "XMLHttpRequest"}, "GET"),
    ],
)
def test_a_program_is_told_and_not_redirected(mesh: GuardedMesh, headers, method):
    answer = mesh.client.request(method, "/orders", headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (401, "missing_credential")
    assert answer.headers["x-why"] == "missing_credential"
    assert answer.headers["www-authenticate"].startswith("Bearer ")


def test_a_denial_has_the_policys_status_and_page_and_runs_nothing_of_the_clients(
    mesh: GuardedMesh,
):
    answer = mesh.get("/a&amp'b", bearer())
    assert (answer.status_code, answer.headers["content-type"]) == (404, PAGE["contentType"])
    assert answer.text == "<p>no_rule_allows at /a&amp;amp&#x27;b</p>"


def test_a_grpc_call_is_denied_as_grpc_whatever_the_page(mesh: GuardedMesh):
    address = mesh.envoy.gateway.removeprefix("http://")
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary("/orders.v1.Orders/Get")
        with pytest.raises(grpc.RpcError) as unknown:
            call(b"", timeout=5)
        with pytest.raises(grpc.RpcError) as known:
            call(b"", timeout=5, metadata=tuple(bearer().items()))
    assert unknown.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "missing_credential" in unknown.value.details()
    assert known.value.code() is grpc.StatusCode.PERMISSION_DENIED


# --- the identity token


def identity(mesh: GuardedMesh, **claims: object) -> str:
    (token,) = mesh.seen("/orders", {**bearer(**claims), "x-identity-token": "theirs"})[
        "x-identity-token"
    ]
    return token


def test_the_upstream_gets_a_token_that_our_published_keys_verify(mesh: GuardedMesh):
    token = identity(mesh)
    document = mesh.authorizer.get("/.well-known/openid-configuration").json()
    assert document["issuer"] == IDENTITY_ISSUER
    assert document["jwks_uri"] == f"{IDENTITY_ISSUER}/.well-known/jwks.json"
    published = mesh.authorizer.get("/.well-known/jwks.json").json()
    assert all("d" not in jwk and "signs_from" not in jwk for jwk in published["keys"])
    key = jwt.PyJWKSet.from_dict(published)[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, ["ES256"], audience="orders-service", issuer=IDENTITY_ISSUER)
    assert (claims["sub"], claims["plan"], claims["exp"] - claims["iat"]) == (
        *("jwt:rita", "gold"), 60,
    )  # fmt: skip
    assert "absent" not in claims


def test_callers_get_tokens_of_their_own_and_the_same_one_twice(mesh: GuardedMesh):
    assert identity(mesh) == identity(mesh)
    assert identity(mesh) != identity(mesh, sub="otto")


def test_keys_rotate_with_overlap(mesh: GuardedMesh, folder: Path):
    """The new key is published before it signs; the old one stays as long as its tokens."""
    file = folder / "signing.json"
    before = kid_of(identity(mesh))
    assert meshwarden("keys", "signing", str(file), "--overlap", "3600").returncode == 0
    wait_until(lambda: len(published(mesh)) == 2, "both are published", limit_seconds=2)
    assert kid_of(identity(mesh, sub="a")) == before
    stored = json.loads(file.read_text())
    stored["keys"][-1]["signs_from"] = 0.5
    file.write_text(json.dumps(stored))
    wait_until(lambda: kid_of(identity(mesh, sub="b")) != before, "the new one signs")
    assert before in published(mesh)


def published(mesh: GuardedMesh) -> list[str]:
    keys = mesh.authorizer.get("/.well-known/jwks.json").json()["keys"]
    return [jwk["kid"] for jwk in keys]


def kid_of(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])
