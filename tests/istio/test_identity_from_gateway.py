"""A workload that believes the gateway's identity headers gets them from the gateway alone."""

from __future__ import annotations

import pytest

from tests.support.certificates import Authority
from tests.support.istio_mesh import IstioMesh, wait_for_status
from tests.support.istiod import SYSTEM
from tests.support.replica_process import Replica
from tests.support.shop_mesh import GATEWAY_ACCOUNT, SHOP, mutual_tls_alone
from tests.support.sidecars import running_sidecar

pytestmark = pytest.mark.timeout(240)
BASKET = f"basket.{SHOP}.svc.cluster.local"
FORGED = ("x-auth-principal", "x_auth_principal", "x-auth_principal", "x_auth-roles")


@pytest.mark.parametrize(
    ("caller", "place", "number", "status"),
    [(GATEWAY_ACCOUNT, SYSTEM, 32, 200), ("web", SHOP, 33, 403)],
)
def test_identity_headers_are_taken_from_the_gateway_alone(
    caller: str, place: str, number: int, status: int, mesh: IstioMesh, good: Replica
):
    authority = Authority("cluster.local")
    labels = {"app": "basket", "meshwarden.io/identity": "gateway"}
    with (
        mesh.applied(*mutual_tls_alone("basket")),
        running_sidecar(
            mesh, authority, "basket", SHOP, labels=labels, workload_port=good.port, number=31
        ) as basket,
        running_sidecar(
            mesh,
            authority,
            caller,
            place,
            labels={"app": "caller"},
            workload_port=good.port,
            asks=[(f"{SHOP}/{BASKET}", 8000, "HTTP")],
            number=number,
        ) as own,
        own.asking(BASKET, 8000) as client,
    ):
        mesh.workload("basket-1", SHOP, {"app": "basket"}, {"http": basket.port}, account="basket")
        wait_for_status(client, "/", 200)
        for name in FORGED:
            assert client.get("/", headers={name: "jwt:admin"}).status_code == status, name
        mesh.require_no_rejects(own.envoy, basket.envoy)
