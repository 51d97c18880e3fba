"""The identity tokens that we sign, verified by somebody else's libraries: jose, oauth4webapi."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.authz_service import Service, live, request_of, serving
from tests.support.check_requests import access_policy, response_of, token_issuer
from tests.support.jose_client import discover_with_oauth4webapi, verify_with_jose
from tests.support.quickstart import meshwarden
from tests.support.tokens import ec_signer, jwks

POLICY = access_policy(
    {"name": "orders", "paths": ["/orders"]}, identityToken={"audience": "orders-service"}
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("identity")
    keys = folder / "signing.json"
    assert meshwarden("keys", "signing", str(keys)).returncode == 0
    options = ("--identity-tokens.keys-file", str(keys))
    options += ("--identity-tokens.issuer", "http://127.0.0.1:{http_port}")
    with serving(folder, token_issuer(jwks(ec_signer())), POLICY, options=options) as running:
        yield running


def issuer_of(service: Service) -> str:
    return f"http://127.0.0.1:{service.http_port}"


def token_of(service: Service) -> str:
    answer = service.send(request_of("/orders", token=ec_signer().token(live())))
    headers = response_of(answer).ok_response.headers
    return next(h.header.value for h in headers if h.header.key == "x-identity-token")


def test_jose_verifies_a_token_by_our_discovery_document(service):
    issuer = issuer_of(service)
    verified = verify_with_jose(
        token_of(service),
        issuer=issuer,
        audience="orders-service",
        discovery_uri=f"{issuer}/.well-known/openid-configuration",
        typ="JWT",
    )
    assert (verified.error, verified.claims["sub"]) == ("", "jwt:rita")


def test_jose_refuses_it_for_another_audience(service):
    issuer = issuer_of(service)
    jwks_uri = f"{issuer}/.well-known/jwks.json"
    verified = verify_with_jose(
        token_of(service), issuer=issuer, audience="billing-service", jwks_uri=jwks_uri
    )
    assert verified.error == "ERR_JWT_CLAIM_VALIDATION_FAILED"


@pytest.mark.parametrize("algorithm", ["oidc", "oauth2"])
def test_oauth4webapi_discovers_us(service, algorithm):
    """By OpenID Connect Discovery, and by RFC 8414."""
    issuer = issuer_of(service)
    found = discover_with_oauth4webapi(issuer, algorithm=algorithm)
    assert found.error == "", found.message
    assert found.metadata["jwks_uri"] == f"{issuer}/.well-known/jwks.json"
