"""Discovery and introspection against a certified OpenID provider: npm's oidc-provider."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.authz_service import Service, request_of, serving
from tests.support.check_requests import access_policy, response_of, token_issuer
from tests.support.oidc_provider import ORDERS_API, ORDERS_OPAQUE, OidcProvider
from tests.support.processes import wait_until

READ = {"name": "read", "paths": ["/orders"], "scopes": ["orders:read"]}
WRITE = {"name": "write", "paths": ["/orders/new"], "scopes": ["orders:write"]}
WAYS = [
    {"jwt": {"issuers": ["main"]}, "onInvalid": "skip"},
    {"introspection": {"issuer": "main"}},
]
BRIEF_SECONDS = 0.5


def discovered(provider: OidcProvider) -> dict[str, Any]:
    """The TokenIssuer of a provider of which nothing but its address is told."""
    return token_issuer(
        issuer=provider.issuer,
        jwks={"discovery": "oidc"},
        introspection={
            "discovery": "oidc",
            "clientId": ORDERS_API[0],
            "clientSecretFile": "secret",
            "cacheSeconds": BRIEF_SECONDS,
            "inactiveCacheSeconds": BRIEF_SECONDS,
        },
        claims={"subject": "client_id"},
    )


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, provider: OidcProvider) -> Iterator[Service]:
    policy = access_policy(READ, WRITE, identify=WAYS)
    options = ("--lookup-wait-seconds", "2")
    files = {"secret": ORDERS_API[1]}
    folder = tmp_path_factory.mktemp("discovered")
    with serving(folder, discovered(provider), policy, files=files, options=options) as running:
        yield running


def test_keys_are_discovered(provider, service):
    answer = service.send(request_of("/orders", token=provider.token()))
    metadata = response_of(answer).dynamic_metadata.fields
    assert metadata["principal"].string_value == "jwt:shop"


def test_an_opaque_token_is_introspected_and_its_scopes_count(provider, service):
    read = provider.token(resource=ORDERS_OPAQUE)
    both = provider.token(resource=ORDERS_OPAQUE, scope="orders:read orders:write")
    metadata = response_of(service.send(request_of("/orders", token=read))).dynamic_metadata.fields
    assert metadata["principal"].string_value == "opaque:shop"
    assert service.ask("/orders/new", token=read) == "no_rule_allows"
    assert service.ask("/orders/new", token=both) == "allowed"


def test_a_token_that_its_issuer_revokes_is_refused_when_the_answer_is_old(provider, service):
    token = provider.token(resource=ORDERS_OPAQUE)
    assert service.ask(token=token) == "allowed"
    provider.revoke(token)
    wait_until(lambda: service.ask(token=token) == "inactive_token", "it is refused")


def test_what_no_issuer_made_is_inactive(provider, service):
    assert service.ask(token="nonsense") == "inactive_token"
