"""The keys of the identity tokens that we sign, and the document that leads to them, over HTTP.

`/.well-known/openid-configuration` and `/.well-known/oauth-authorization-server` (OpenID Connect
Discovery, RFC 8414) and `/.well-known/jwks.json`. Where no tokens are signed there is nothing: 404.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ext_authz.core.keys import Keys

JWKS = "/.well-known/jwks.json"
CACHE_SECONDS = 60
"""Short beside the time for which a key is published before it signs."""


def identity_routes(keys: Keys) -> list[BaseRoute]:
    """What is published of `keys.signing`, as it is at each request."""

    def document() -> dict[str, Any]:
        issuer = keys.signing.issuer
        return {
            "issuer": issuer,
            "jwks_uri": f"{issuer.rstrip('/')}{JWKS}",
            "id_token_signing_alg_values_supported": sorted(
                {key.algorithm for key in keys.signing.keys}
            ),
            "response_types_supported": ["none"],
            "subject_types_supported": ["public"],
        }

    def jwks() -> dict[str, Any]:
        return keys.signing.public_jwks()

    def showing(make: Callable[[], dict[str, Any]]) -> Callable[[Request], Any]:
        async def show(_request: Request) -> Response:
            if not keys.signing.keys:
                return JSONResponse({"error": "no identity tokens are signed here"}, 404)
            headers = {"cache-control": f"public, max-age={CACHE_SECONDS}"}
            return JSONResponse(make(), headers=headers)

        return show

    return [
        Route("/.well-known/openid-configuration", showing(document)),
        Route("/.well-known/oauth-authorization-server", showing(document)),
        Route(JWKS, showing(jwks)),
    ]
