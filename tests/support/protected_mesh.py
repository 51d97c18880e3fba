"""A mesh with something to protect, and what its upstream must never see.

`deny.example.com` is open but for what a deny rule protects, `role.example.com` closed but for what
is open, every other host open. What is tried on it stands in the tests of bypasses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ext_authz.core.api_keys import make_key
from tests.support.authz_service import live, record
from tests.support.check_requests import access_policy, access_role, token_issuer
from tests.support.envoy_services import Seen, Upstream
from tests.support.guarded_mesh import GuardedMesh, guarded_mesh
from tests.support.raw_http import exchange
from tests.support.tokens import ec_signer, jwks

EC = ec_signer()
TOKEN = EC.token(live())
KEY = make_key(bytes(32))
BEARER, API_KEY = f"authorization: Bearer {TOKEN}", f"x-api-key: {KEY}"
SOURCES = [
    {"header": "authorization", "scheme": "Bearer"},
    {"cookie": "session"},
    {"query": "access_token"},
]
IDENTIFY: Any = [{"jwt": {"issuers": ["main"], "sources": SOURCES}}, {"apiKey": {}}]
OPEN: Any = {"name": "open", "callers": "anyone", "paths": ["/**"]}
DENY_HOST, ROLE_HOST, OTHER_HOST = "deny.example.com", "role.example.com", "other.example.com"
IDENTITY = {
    "x-auth-principal": ("jwt:rita", "key:service"),
    "x-auth-subject": ("rita", "service"),
    "x-auth-roles": (),
    "x-auth-scopes": (),
}
"""What the two callers there are prove; they hold no role and no scope."""
PROTECTED_HOSTS = (DENY_HOST, ROLE_HOST)
POLICIES = (
    access_policy(
        OPEN,
        {"name": "closed", "effect": "deny", "paths": ["/admin/**"]},
        {"name": "no-deletes", "effect": "deny", "methods": ["DELETE"]},
        name="deny",
        hosts=[DENY_HOST],
        identify=IDENTIFY,
    ),
    access_policy(
        {"name": "open", "callers": "anyone", "methods": ["GET"], "paths": ["/open/**"]},
        {"name": "mine", "paths": ["/me"]},
        {"name": "admins", "paths": ["/admin/**"], "roles": ["admin"]},
        {
            "name": "inside",
            "callers": "anyone",
            "paths": ["/inside"],
            "clientAddresses": ["10.0.0.0/8"],
        },
        name="role",
        hosts=[ROLE_HOST],
        identify=IDENTIFY,
    ),
    access_policy(OPEN, name="any", hosts=["*"], identify=IDENTIFY),
)


@contextmanager
def protected_mesh(folder: Path) -> Iterator[GuardedMesh]:
    with guarded_mesh(folder, token_issuer(jwks(EC)), access_role("admin"), *POLICIES) as mesh:
        mesh.authorizer.keys(record(KEY))
        mesh.authorizer.process.wait_until(
            lambda: mesh.reason("/me", {"host": ROLE_HOST, "x-api-key": KEY}) == "allowed",
            "the key is known",
        )
        yield mesh


def require_no_harm(upstream: Upstream) -> None:
    """Fail where the upstream saw a request for what is protected, or a forged identity."""
    for seen in upstream.seen:
        assert not is_protected(seen), seen
        for name, proved in IDENTITY.items():
            assert seen.values(name) in ([], *([value] for value in proved)), seen


def is_protected(seen: Seen) -> bool:
    """Whether the most lenient upstream would take the request for one below `/admin` of a host
    that protects it: decoded twice, backslashes, parameters, dots, all hosts in it.
    """
    target = re.sub(r"^[a-z]+://[^/]*", "", seen.target).partition("?")[0]
    path = unquote(unquote(target, "latin-1"), "latin-1").replace("\\", "/")
    segments: list[str] = []
    for part in re.sub(r";[^/]*", "", path).split("/"):
        name = part.rstrip(". \t\0") if part.strip(".") else part
        if name == "..":
            segments[-1:] = []
        elif name not in ("", "."):
            segments.append(name)
    hosts = " ".join((*seen.values("host"), seen.target)).lower()
    return segments[:1] == ["admin"] and any(host in hosts for host in PROTECTED_HOSTS)


def answered(mesh: GuardedMesh, content: bytes) -> str:
    """What Envoy answers to the bytes of a request, and why."""
    return str(exchange(mesh.envoy.gateway, content))


def rows(table: dict[str, list[str]]) -> list[tuple[str, str]]:
    """A table of what was sent, by what is answered, as pairs."""
    return [(answer, sent) for answer, requests in table.items() for sent in requests]
