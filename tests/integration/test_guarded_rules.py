"""What rules may ask of a request, through a real Envoy that sends its body."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import grpc
import httpx2
import pytest

from ext_authz.core.time_windows import DAYS
from tests.support.authz_service import live
from tests.support.check_requests import access_policy, access_role, role_binding, token_issuer
from tests.support.guarded_mesh import GuardedMesh, guarded_mesh
from tests.support.tokens import ec_signer, jwks

EC, ACME = ec_signer(), ec_signer("acme")
BODY_BYTES = 1024
A = "request.query.a"
ANOTHER_DAY = DAYS[(datetime.now(UTC).weekday() + 3) % 7]
RULES = (
    {"name": "own", "paths": ["/users/{id}/**"],
     "when": "request.path_variables.id == principal.subject"},
    {"name": "tenant", "paths": ["/tenant"], "headers": {"x-tenant": ["acme"]}},
    {"name": "preview", "paths": ["/preview"], "query": {"mode": ["safe"]}},
    {"name": "small", "paths": ["/pay"], "when": "request.json.amount <= 100"},
    {"name": "form", "paths": ["/form"], "when": "request.form.role == ['user']"},
    {"name": "inside", "paths": ["/inside"], "clientAddresses": ["10.0.0.0/8"]},
    {"name": "always", "paths": ["/always"], "times": [{"timeZone": "Europe/Berlin"}]},
    {"name": "never", "paths": ["/never"], "times": [{"days": [ANOTHER_DAY]}]},
    {"name": "loop", "paths": ["/loop"],
     "when": f"{A}.all(x, {A}.all(y, {A}.all(z, x + y + z != '')))"},
    {"name": "grpc", "grpc": ["orders.v1.Orders/Get"], "roles": ["reader"]},
    {"name": "roles", "paths": ["/roles"], "roles": ["reader"]},
    {"name": "permissions", "paths": ["/permissions"], "permissions": ["orders:write"]},
    {"name": "scopes", "paths": ["/scopes"], "scopes": ["orders:read"]},
    {"name": "all", "paths": ["/all/**"]},
    {"name": "no-secrets", "effect": "deny", "paths": ["/all/secret/**"]},
    {"name": "failing", "effect": "deny", "paths": ["/all/failing"],
     "when": "request.headers['x-absent'] == 'x'"},
)  # fmt: skip


def own_address() -> str:
    """What Envoy appends to X-Forwarded-For for a client on loopback: this machine's address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # Sends nothing; it only chooses a route.
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def of(namespace: str, resource: dict[str, Any]) -> dict[str, Any]:
    return {**resource, "metadata": {**resource["metadata"], "namespace": namespace}}


RESOURCES = (
    token_issuer(jwks(EC)),
    access_role("reader"),
    access_role("writer", "orders:write", inherits=["reader"]),
    role_binding("writer", {"group": "staff"}),
    role_binding("reader", {"principal": "jwt:bound"}),
    access_policy(
        *RULES,
        identify=[{"jwt": {"issuers": ["main"]}}],
        trustedProxies=["127.0.0.0/8", own_address()],
    ),
    of("acme", token_issuer(jwks(ACME), name="own")),
    of(
        "acme",
        access_policy(
            {"name": "any"},
            hosts=["acme.example.com"],
            identify=[{"jwt": {"issuers": ["own"]}}],
        ),
    ),
)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedMesh]:
    envoy = {"ext_authz_body_bytes_at_most": BODY_BYTES}
    with guarded_mesh(tmp_path_factory.mktemp("rules"), *RESOURCES, envoy=envoy) as running:
        yield running


def bearer(signer: Any = EC, **claims: object) -> dict[str, str]:
    return {"authorization": f"Bearer {signer.token(live(**claims))}"}


def status(mesh: GuardedMesh, path: str, *, method: str = "GET", **options: Any) -> int:
    headers = {**bearer(**options.pop("claims", {})), **options.pop("headers", {})}
    return mesh.client.request(method, path, headers=headers, **options).status_code


@pytest.mark.parametrize(
    ("path", "options", "expected"),
    [
        ("/users/rita/x", {}, 200),
        ("/users/r%69ta/x", {}, 200),
        ("/users/otto/x", {}, 403),
        ("/tenant", {"headers": {"x-tenant": "acme"}}, 200),
        ("/tenant", {"headers": {"x-tenant": "other"}}, 403),
        ("/tenant", {}, 403),
        ("/preview?mode=safe", {}, 200),
        ("/preview?mode=safe&mode=raw", {}, 403),
        ("/preview?x;mode=safe", {}, 403),
        ("/inside", {"headers": {"x-forwarded-for": "10.1.1.1"}}, 200),
        ("/inside", {"headers": {"x-forwarded-for": "10.1.1.1, 203.0.113.1"}}, 403),
        ("/inside", {}, 403),
        ("/always", {}, 200),
        ("/never", {}, 403),
        ("/loop?" + "&".join(["a=1"] * 900), {}, 403),
        ("/loop?a=1&a=2", {}, 200),
        ("/roles", {}, 403),
        ("/roles", {"claims": {"roles": ["writer"]}}, 200),
        ("/roles", {"claims": {"groups": ["staff"]}}, 200),
        ("/roles", {"claims": {"sub": "bound"}}, 200),
        ("/permissions", {"claims": {"groups": ["staff"]}}, 200),
        ("/permissions", {"claims": {"roles": ["reader"]}}, 403),
        ("/scopes", {"claims": {"scope": "orders:read x"}}, 200),
        ("/scopes", {"claims": {"scope": "x"}}, 403),
        ("/all/x", {}, 200),
        ("/all/secret/x", {}, 403),
        ("/all/failing", {}, 403),
    ],
)
def test_a_rule_holds_for_what_it_names(mesh: GuardedMesh, path, options, expected):
    assert status(mesh, path, **options) == expected


@pytest.mark.parametrize(
    ("path", "sent", "expected"),
    [
        ("/pay", {"json": {"amount": 100}}, 200),
        ("/pay", {"json": {"amount": 101}}, 403),
        ("/pay", {"content": b'{"amount": 1, "amount": 999}'}, 403),
        ("/pay", {"json": {"amount": 1, "padding": "x" * BODY_BYTES}}, 403),
        ("/pay", {}, 403),
        ("/form", {"data": {"role": "user"}}, 200),
        ("/form", {"data": {"role": ["user", "admin"]}}, 403),
        ("/form", {"data": {"role": "user"}, "files": {"doc": ("a.txt", b"x")}}, 200),
        ("/all/x", {"content": b"x" * (BODY_BYTES * 2)}, 200),
    ],
)
def test_a_rule_reads_the_body_that_the_upstream_gets(mesh: GuardedMesh, path, sent, expected):
    """One that is longer than Envoy sends can't be judged, and stops only rules that read it."""
    headers = {"content-type": "application/json"} if "content" in sent else {}
    assert status(mesh, path, method="POST", headers=headers, **sent) == expected


def test_a_rule_names_a_grpc_method(mesh: GuardedMesh):
    """The upstream here speaks no gRPC: an allowed call ends otherwise than a denied one."""
    address = mesh.envoy.gateway.removeprefix("http://")
    codes = []
    with grpc.insecure_channel(address) as channel:
        for method in ("Get", "Put"):
            call = channel.unary_unary(f"/orders.v1.Orders/{method}")
            with pytest.raises(grpc.RpcError) as ended:
                call(b"", timeout=5, metadata=tuple(bearer(roles=["reader"]).items()))
            codes.append(ended.value.code())
    assert codes[0] is not grpc.StatusCode.PERMISSION_DENIED
    assert codes[1] is grpc.StatusCode.PERMISSION_DENIED


def test_a_tenants_policy_takes_its_own_issuers_tokens_alone(mesh: GuardedMesh):
    def ask(signer: Any) -> httpx2.Response:
        return mesh.get("/x", {**bearer(signer), "host": "acme.example.com"})

    assert ask(ACME).status_code == 200
    assert ask(EC).json()["reason"] == "unknown_key"
