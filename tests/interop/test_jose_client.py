"""npm's `jose` and `oauth4webapi` judge tokens as their users have them do, and refuse wrong ones.

The tokens are those of oidc-provider, and wrong ones signed with its keys.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.support.jose_client import (
    Verification,
    discover_with_oauth4webapi,
    validate_with_oauth4webapi,
    verify_with_jose,
)
from tests.support.oidc_provider import ORDERS, ORDERS_RSA, OidcProvider
from tests.support.ports import free_port
from tests.support.tokens import ec_signer

EC = ec_signer()


def by_jose(provider: OidcProvider, token: str, **changes: str) -> Verification:
    right = {"issuer": provider.issuer, "audience": "orders", "jwks_uri": provider.jwks_uri}
    return verify_with_jose(token, **{**right, **changes})


def by_oauth4webapi(provider: OidcProvider, token: str, **changes: str) -> Verification:
    right = {"issuer": provider.issuer, "audience": "orders"}
    return validate_with_oauth4webapi(token, **{**right, **changes})


def access_claims(provider: OidcProvider, **changes: Any) -> dict[str, Any]:
    """Those of an access token (RFC 9068 section 2.2) of this provider, right now."""
    subject = {"iss": provider.issuer, "aud": "orders", "sub": "shop", "client_id": "shop"}
    return {**subject, "jti": "1", "iat": int(time.time()), "exp": time.time() + 60, **changes}


# --- accepted


@pytest.mark.parametrize(("resource", "kid"), [(ORDERS, "ec"), (ORDERS_RSA, "rsa")])
def test_jose_accepts_a_token_by_its_key_set(provider, resource, kid):
    verified = by_jose(provider, provider.token(resource=resource), typ="at+jwt")
    assert verified.error == ""
    assert (verified.claims["sub"], verified.claims["scope"]) == ("shop", "orders:read")
    assert (verified.header["kid"], verified.header["typ"]) == (kid, "at+jwt")


def test_jose_accepts_a_token_by_discovery(provider):
    place = f"{provider.issuer}/.well-known/openid-configuration"
    verified = by_jose(provider, provider.token(), jwks_uri="", discovery_uri=place)
    assert verified.claims["iss"] == provider.issuer


@pytest.mark.parametrize("resource", [ORDERS, ORDERS_RSA])
def test_oauth4webapi_accepts_an_access_token(provider, resource):
    validated = by_oauth4webapi(provider, provider.token(resource=resource))
    assert (validated.error, validated.claims["client_id"]) == ("", "shop")


def test_oauth4webapi_accepts_the_discovery_document(provider):
    metadata = discover_with_oauth4webapi(provider.issuer).metadata
    assert metadata["jwks_uri"] == provider.jwks_uri
    assert metadata["introspection_endpoint"] == provider.introspection_endpoint


# --- refused


def test_another_audience_is_refused(provider):
    token = provider.token()
    assert by_jose(provider, token, audience="billing").error == "ERR_JWT_CLAIM_VALIDATION_FAILED"
    validated = by_oauth4webapi(provider, token, audience="billing")
    assert validated.error == "OAUTH_JWT_CLAIM_COMPARISON_FAILED"


def test_an_expired_token_is_refused(provider):
    token = EC.token(access_claims(provider, exp=int(time.time()) - 60), typ="at+jwt")
    assert by_jose(provider, token).error == "ERR_JWT_EXPIRED"
    assert by_oauth4webapi(provider, token).error == "OAUTH_JWT_TIMESTAMP_CHECK_FAILED"


def test_a_key_that_is_not_published_is_refused(provider):
    token = ec_signer("other").token(access_claims(provider), typ="at+jwt")
    assert by_jose(provider, token).error == "ERR_JWKS_NO_MATCHING_KEY"
    assert by_oauth4webapi(provider, token).error == "OAUTH_KEY_SELECTION_FAILED"


def test_a_wrong_signature_is_refused(provider):
    token = ec_signer("other").token(access_claims(provider), kid="ec", typ="at+jwt")
    assert by_jose(provider, token).error == "ERR_JWS_SIGNATURE_VERIFICATION_FAILED"
    assert by_oauth4webapi(provider, token).error == "OAUTH_INVALID_RESPONSE"


def test_a_token_that_is_no_access_token_is_refused(provider):
    """Without `typ: at+jwt`; jose judges the type only where it is told one."""
    token = EC.token(access_claims(provider))
    assert by_jose(provider, token).error == ""
    assert by_jose(provider, token, typ="at+jwt").error == "ERR_JWT_CLAIM_VALIDATION_FAILED"
    assert by_oauth4webapi(provider, token).error == "OAUTH_INVALID_RESPONSE"


def test_no_server_is_no_verdict(provider):
    """A test that expects a refusal must not pass because nothing was there to ask."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(AssertionError, match="gave no verdict"):
        by_jose(provider, provider.token(), jwks_uri=f"{nowhere}/jwks")
    with pytest.raises(AssertionError, match="gave no verdict"):
        by_oauth4webapi(provider, provider.token(), issuer=nowhere)
