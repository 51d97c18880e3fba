"""Somebody else's verdict over a token: npm's `jose` and `oauth4webapi`, a process of Node each.

Knows no service of ours and no issuer; who signed the token is the test's business.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.node import node_command

LIMIT_SECONDS = 20.0


@dataclass(frozen=True)
class Verification:
    """The claims of an accepted token, or the library's own error code (and no claims)."""

    claims: Mapping[str, Any] = field(default_factory=dict)
    header: Mapping[str, Any] = field(default_factory=dict)
    """The JWS header; jose alone tells it."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What was discovered; oauth4webapi alone tells it, and not where it refuses."""
    error: str = ""
    """Such as ERR_JWT_EXPIRED or OAUTH_JWT_CLAIM_COMPARISON_FAILED."""
    message: str = ""


def verify_with_jose(
    token: str,
    *,
    issuer: str,
    audience: str,
    jwks_uri: str = "",
    discovery_uri: str = "",
    typ: str = "",
) -> Verification:
    """What jose says about a JWT whose keys are at `jwks_uri`, or at the `jwks_uri` of the document
    at `discovery_uri`; `typ`, where given, must be the header's. Fails where there is no verdict.
    """
    expected = {"issuer": issuer, "audience": audience, "typ": typ}
    return _verdict("verify.mjs", token, jwks=jwks_uri, discovery=discovery_uri, **expected)


def validate_with_oauth4webapi(
    token: str, *, issuer: str, audience: str, algorithm: str = "oidc"
) -> Verification:
    """What oauth4webapi says about a JWT access token (RFC 9068) of an issuer that it discovers, by
    OpenID Connect Discovery or (`algorithm="oauth2"`) RFC 8414. Fails where there is no verdict.
    """
    return _verdict("discover.mjs", token, issuer=issuer, audience=audience, algorithm=algorithm)


def discover_with_oauth4webapi(issuer: str, *, algorithm: str = "oidc") -> Verification:
    """The issuer's `metadata` as oauth4webapi discovers and checks them; no token is judged."""
    return _verdict("discover.mjs", "", issuer=issuer, audience="", algorithm=algorithm)


def _verdict(script: str, token: str, **options: str) -> Verification:
    flags = [f"--{name}={value}" for name, value in options.items() if value]
    ended = subprocess.run(
        node_command(script, *flags),
        input=token,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, f"{script} gave no verdict:\n{ended.stderr}"
    return Verification(**json.loads(ended.stdout))
