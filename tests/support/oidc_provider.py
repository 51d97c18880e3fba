"""npm's `oidc-provider`, real and on a free loopback port, for the length of a block.

Issues access tokens for client credentials, introspects and revokes the opaque ones (it refuses to
do so for JWTs), and takes new signing keys under traffic. Knows no service of ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import httpx2

from tests.support.node import node_command
from tests.support.processes import Running, running
from tests.support.tokens import Signer

Credentials = tuple[str, str]
"""A client's `client_id` and its secret."""

SHOP: Credentials = ("shop", "the-secret-of-the-shop-0123456789")
"""The client that gets tokens and revokes them."""
ORDERS_API: Credentials = ("orders-api", "the-secret-of-the-api-0123456789")
"""The client that introspects the tokens sent to it, as a resource server does."""


@dataclass(frozen=True)
class ResourceServer:
    """What the provider puts into the tokens for one resource indicator (RFC 8707)."""

    audience: str
    scope: str = "orders:read orders:write"
    format: Literal["jwt", "opaque"] = "jwt"
    algorithm: Literal["ES256", "RS256"] = "ES256"
    lifetime_seconds: int = 600

    def setup(self) -> dict[str, Any]:
        """As provider.mjs reads it."""
        shared = {"audience": self.audience, "scope": self.scope, "format": self.format}
        return {**shared, "algorithm": self.algorithm, "lifetimeSeconds": self.lifetime_seconds}


ORDERS = "urn:orders"
ORDERS_RSA = "urn:orders:rsa"
ORDERS_OPAQUE = "urn:orders:opaque"
BILLING = "urn:billing"
RESOURCE_SERVERS = {
    ORDERS: ResourceServer("orders"),
    ORDERS_RSA: ResourceServer("orders", algorithm="RS256"),
    ORDERS_OPAQUE: ResourceServer("orders", format="opaque"),
    BILLING: ResourceServer("billing"),
}


class OidcProvider:
    """A running oidc-provider and how to ask it. What it refuses raises `httpx2.HTTPError`."""

    def __init__(self, process: Running, client: httpx2.Client) -> None:
        self.process = process
        self.issuer = str(client.base_url).rstrip("/")
        self.jwks_uri = f"{self.issuer}/jwks"
        self.introspection_endpoint = f"{self.issuer}/token/introspection"
        self._client = client

    def token(self, *, scope: str = "orders:read", resource: str = ORDERS) -> str:
        """A new access token; a scope that the resource server doesn't have is left out."""
        form = {"grant_type": "client_credentials", "scope": scope, "resource": resource}
        return str(self._post("/token", form, SHOP).json()["access_token"])

    def introspect(self, token: str) -> dict[str, Any]:
        """RFC 7662: `{"active": False}` for any opaque token but a good one."""
        answer = self._post("/token/introspection", {"token": token}, ORDERS_API)
        members: dict[str, Any] = answer.json()
        return members

    def revoke(self, token: str) -> None:
        """RFC 7009, for an opaque token."""
        self._post("/token/revocation", {"token": token}, SHOP)

    def rotate(self, *signers: Signer) -> None:
        """Publish these keys and no others; the first of an algorithm signs. Tokens are kept."""
        answer = self._client.post("/test/jwks", json=private_jwks(*signers))
        assert answer.status_code == 204, answer.text

    def _post(
        self, path: str, form: Mapping[str, str], credentials: Credentials
    ) -> httpx2.Response:
        answer = self._client.post(path, data=dict(form), auth=credentials)
        return answer.raise_for_status()


def private_jwks(*signers: Signer) -> dict[str, Any]:
    return {"keys": [signer.private_jwk() for signer in signers]}


@contextmanager
def running_oidc_provider(
    *signers: Signer, resource_servers: Mapping[str, ResourceServer] = RESOURCE_SERVERS
) -> Iterator[OidcProvider]:
    """The provider for the length of the block, signing with `signers` at first (see `rotate`)."""
    setup = {
        "clients": [
            _client(SHOP, grant_types=["client_credentials"]),
            _client(ORDERS_API, grant_types=[]),
        ],
        "resources": {name: server.setup() for name, server in resource_servers.items()},
        "jwks": private_jwks(*signers),
    }
    with TemporaryDirectory(prefix="meshwarden-test-") as folder:
        file = Path(folder) / "provider.json"
        file.write_text(json.dumps(setup))
        with running(node_command("provider.mjs", str(file))) as process:
            process.wait_until(lambda: "\n" in process.output, "oidc-provider listens")
            port = json.loads(process.output)["port"]
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                yield OidcProvider(process, client)


def _client(credentials: Credentials, *, grant_types: list[str]) -> dict[str, Any]:
    client_id, secret = credentials
    return {
        "client_id": client_id,
        "client_secret": secret,
        "grant_types": grant_types,
        "redirect_uris": [],
        "response_types": [],
        "token_endpoint_auth_method": "client_secret_basic",
    }
