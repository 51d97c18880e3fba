"""Callers known by their certificates, through a real Envoy that verifies or forwards them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support.certificates import Authority, Issued
from tests.support.check_requests import access_policy
from tests.support.guarded_mesh import Bootstrap, GuardedMesh, guarded_mesh
from tests.support.mutual_tls import mutual_tls_client, with_mutual_tls

AUTHORITY, OTHER = Authority("mesh"), Authority("other")
WEB = "spiffe://cluster.local/ns/shop/sa/web"
RULES = (
    {"name": "web", "paths": ["/web"], "principals": [WEB]},
    {"name": "billing", "paths": ["/billing"], "principals": ["cert:billing.example.com"]},
    {"name": "address", "paths": ["/address"], "callers": "anyone",
     "when": "source.address == '127.0.0.1'"},
)  # fmt: skip
HCM = "envoy.filters.network.http_connection_manager"


def forwarding(document: Bootstrap) -> Bootstrap:
    """The listener passes X-Forwarded-Client-Cert on, as one behind another proxy does."""
    for chain in document["static_resources"]["listeners"][0]["filter_chains"]:
        for item in chain["filters"]:
            if item["name"] == HCM:
                item["typed_config"]["forward_client_cert_details"] = "ALWAYS_FORWARD_ONLY"
    return document


@pytest.fixture(scope="module", params=["principal", "certificate"])
def mutual(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[GuardedMesh, Path]]:
    """A mesh whose Envoy gives its peer's principal, or its certificate, too."""
    folder = tmp_path_factory.mktemp("mutual")
    sends = request.param == "certificate"
    named = {"authoritiesFile": "ca.pem"} if sends else {}
    ways = [
        {"spiffe": {"trustDomains": ["cluster.local"], **named}, "onInvalid": "skip"},
        {"clientCertificate": named},
    ]
    with guarded_mesh(
        folder,
        access_policy(*RULES, identify=ways),
        files={"ca.pem": AUTHORITY.certificate.decode()},
        envoy={"ext_authz_peer_certificate": sends},
        changed=with_mutual_tls(folder, AUTHORITY),
    ) as mesh:
        yield mesh, folder


def asked(mesh: GuardedMesh, folder: Path, path: str, shown: Issued | None) -> httpx2.Response:
    with mutual_tls_client(mesh, folder, shown) as client:
        return client.get(path)


def test_a_workload_and_a_certificate_are_known_by_what_they_show(mutual):
    mesh, folder = mutual
    web, billing = AUTHORITY.issue(uris=(WEB,)), AUTHORITY.issue(dns=("billing.example.com",))
    answer = asked(mesh, folder, "/web", web)
    assert answer.status_code == 200, answer.text
    assert f"x-auth-principal: {WEB}" in answer.text.lower()
    answer = asked(mesh, folder, "/billing", billing)
    assert "x-auth-principal: cert:billing.example.com" in answer.text.lower()
    assert asked(mesh, folder, "/billing", web).json()["reason"] == "no_rule_allows"


def test_a_certificate_of_nobody_we_know_does_not_come_so_far(mutual):
    """Envoy itself ends the connection."""
    mesh, folder = mutual
    for shown in (None, OTHER.issue(uris=(WEB,))):
        with pytest.raises(httpx2.TransportError):
            asked(mesh, folder, "/web", shown)


def test_a_forwarded_certificate_is_believed_behind_a_trusted_address_alone(tmp_path: Path):
    trusting = {"trustDomains": ["cluster.local"], "forwarded": {"trustedProxies": ["127.0.0.1"]}}
    with guarded_mesh(
        tmp_path, access_policy(*RULES, identify=[{"spiffe": trusting}]), changed=forwarding
    ) as mesh:
        forwarded = {"x-forwarded-client-cert": f"By=spiffe://cluster.local/gw;URI={WEB}"}
        assert mesh.reason("/web", forwarded) == "allowed"
        assert mesh.reason("/web") == "missing_credential"
        # The address is the connection's, whatever the client claims before us.
        assert mesh.reason("/address", {"x-forwarded-for": "10.9.9.9"}) == "allowed"
        trusting["forwarded"] = {"trustedProxies": ["10.0.0.0/8"]}
        mesh.authorizer.configure(access_policy(*RULES, identify=[{"spiffe": trusting}]))
        mesh.authorizer.process.wait_until(
            lambda: mesh.reason("/web", forwarded) == "missing_credential", "it is not believed"
        )


def test_our_own_listener_takes_a_forwarded_certificate_away(tmp_path: Path):
    """At the edge anybody may have written it."""
    trusting = {"trustDomains": ["cluster.local"], "forwarded": {"trustedProxies": ["127.0.0.1"]}}
    with guarded_mesh(tmp_path, access_policy(*RULES, identify=[{"spiffe": trusting}])) as mesh:
        forwarded = {"x-forwarded-client-cert": f"URI={WEB}"}
        assert mesh.reason("/web", forwarded) == "missing_credential"
