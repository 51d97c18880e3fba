"""`python -m ext_authz` before the tokens of a certified OpenID provider: npm's oidc-provider."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.authz_service import Service, request_of, serving
from tests.support.check_requests import access_policy, response_of, token_issuer
from tests.support.oidc_provider import (
    BILLING,
    ORDERS,
    ORDERS_OPAQUE,
    ORDERS_RSA,
    OidcProvider,
    running_oidc_provider,
)
from tests.support.processes import wait_until
from tests.support.tokens import Signer, ec_signer, rsa_signer

READ = {"name": "read", "paths": ["/orders"], "scopes": ["orders:read"]}
WRITE = {"name": "write", "paths": ["/orders/new"], "scopes": ["orders:write"]}


def issuer_of(provider: OidcProvider) -> dict[str, Any]:
    """The TokenIssuer that a platform engineer writes for this provider."""
    keys = {"url": provider.jwks_uri, "refreshSeconds": 1}
    return token_issuer(issuer=provider.issuer, jwks=keys, tokenType="at+jwt")


def guarding(folder: Path, provider: OidcProvider) -> AbstractContextManager[Service]:
    """ext_authz before this provider's tokens, for the length of the block."""
    return serving(folder, issuer_of(provider), access_policy(READ, WRITE))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, provider: OidcProvider) -> Iterator[Service]:
    with guarding(tmp_path_factory.mktemp("service"), provider) as running:
        yield running


# --- tokens


@pytest.mark.parametrize("resource", [ORDERS, ORDERS_RSA])
def test_an_access_token_is_accepted(provider, service, resource):
    """ES256 and RS256; the principal is the client (RFC 9068 section 2.2)."""
    answer = service.send(request_of("/orders", token=provider.token(resource=resource)))
    metadata = response_of(answer).dynamic_metadata.fields
    assert metadata["reason"].string_value == "allowed"
    assert metadata["principal"].string_value == "jwt:shop"


def test_a_token_may_what_its_scopes_say(provider, service):
    read, both = provider.token(), provider.token(scope="orders:read orders:write")
    assert service.ask("/orders/new", token=read) == "no_rule_allows"
    assert service.ask("/orders/new", token=both) == "allowed"


def test_a_token_for_another_audience_is_refused(provider, service):
    assert service.ask(token=provider.token(resource=BILLING)) == "wrong_audience"


def test_an_opaque_token_is_no_jwt(provider, service):
    assert service.ask(token=provider.token(resource=ORDERS_OPAQUE)) == "malformed_token"


# --- keys


def test_an_announced_rotation_refuses_nobody(tmp_path):
    """Published first, then signing, then alone: refused is only what the removed key signed."""
    old, new = ec_signer("old"), ec_signer("new")
    with running_oidc_provider(old) as provider, guarding(tmp_path, provider) as service:
        before = provider.token()
        provider.rotate(old, new)
        wait_until(lambda: keys_known(service) == 2, "the new key is known")
        provider.rotate(new, old)
        after = provider.token()
        assert [service.ask(token=before), service.ask(token=after)] == ["allowed", "allowed"]
        provider.rotate(new)
        wait_until(lambda: service.ask(token=before) == "unknown_key", "the old key is refused")
        assert service.ask(token=after) == "allowed"


@pytest.mark.parametrize("new", [ec_signer("new"), rsa_signer("new")], ids=["ES256", "RS256"])
def test_keys_changed_without_notice_are_taken_under_traffic(tmp_path, new: Signer):
    """The new key's tokens are accepted and the old one's refused, though they are remembered."""
    old = ec_signer("old")
    resource = ORDERS if new.algorithm == "ES256" else ORDERS_RSA
    with running_oidc_provider(old) as provider, guarding(tmp_path, provider) as service:
        before = provider.token()
        assert service.ask(token=before) == "allowed"
        provider.rotate(new)
        after = provider.token(resource=resource)
        wait_until(
            lambda: (
                [service.ask(token=before), service.ask(token=after)] == ["unknown_key", "allowed"]
            ),
            "the keys are the new ones",
        )


def keys_known(service: Service) -> int:
    return int(service.get("/readyz?verbose").json()["jwks"]["main"]["keys"])


# --- what the provider itself promises, which later tests build on


def test_an_opaque_token_is_introspected_until_it_is_revoked(provider):
    """RFC 7662, by another client than the token's, and RFC 7009."""
    token = provider.token(resource=ORDERS_OPAQUE)
    found = provider.introspect(token)
    assert found["active"] is True
    assert (found["client_id"], found["aud"], found["scope"]) == ("shop", "orders", "orders:read")
    provider.revoke(token)
    assert provider.introspect(token) == {"active": False}


def test_opaque_tokens_outlive_a_rotation():
    with running_oidc_provider(ec_signer("old")) as provider:
        token = provider.token(resource=ORDERS_OPAQUE)
        provider.rotate(ec_signer("new"))
        assert provider.introspect(token)["active"] is True


def test_a_jwt_is_not_introspected(provider):
    """The provider answers `unsupported_token_type`: who has a JWT checks it by its signature."""
    with pytest.raises(httpx2.HTTPStatusError) as refused:
        provider.introspect(provider.token())
    assert refused.value.response.json()["error"] == "unsupported_token_type"


def test_a_broken_key_set_is_refused_and_changes_nothing(provider):
    with pytest.raises(AssertionError, match="duplicate"):
        provider.rotate(ec_signer(), ec_signer())
    assert provider.token()
