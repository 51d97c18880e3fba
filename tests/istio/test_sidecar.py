"""What `istio/base` makes of workloads' own proxies: CUSTOM and limits at a sidecar, and identities
that two sidecars prove to each other with certificates of the mesh.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from tests.support.authz_service import Service
from tests.support.certificates import Authority
from tests.support.istio_mesh import IstioMesh, http_filters, wait_for_status
from tests.support.limit_service import Served
from tests.support.replica_process import Replica
from tests.support.shop_mesh import HOST, KEY, SHOP, STOCK, mutual_tls_alone
from tests.support.sidecars import SidecarOf, running_sidecar

pytestmark = pytest.mark.timeout(240)
MINE = {"x-api-key": KEY}
GUARDED = {"meshwarden.io/authorize": "sidecar", "meshwarden.io/limit": "sidecar"}


@pytest.fixture(scope="module")
def authority() -> Authority:
    """The mesh's."""
    return Authority("cluster.local")


@pytest.fixture(scope="module")
def stock(
    mesh: IstioMesh, authorizer: Service, limiter: Served, good: Replica, authority: Authority
) -> Iterator[SidecarOf]:
    """A workload that is guarded by its own sidecar and takes nothing without mutual TLS."""
    del authorizer, limiter
    labels = {"app": "stock", **GUARDED}
    with (
        mesh.applied(*mutual_tls_alone("stock")),
        running_sidecar(
            mesh, authority, "stock", SHOP, labels=labels, workload_port=good.port, number=20
        ) as sidecar,
    ):
        mesh.workload("stock-1", SHOP, {"app": "stock"}, {"http": sidecar.port}, account="stock")
        yield sidecar


def test_a_workload_is_guarded_by_its_own_sidecar(
    mesh: IstioMesh,
    authorizer: Service,
    limiter: Served,
    good: Replica,
    authority: Authority,
):
    del authorizer, limiter
    labels = {"app": "orders", **GUARDED}
    with (
        running_sidecar(
            mesh, authority, "orders", SHOP, labels=labels, workload_port=good.port, number=21
        ) as sidecar,
        sidecar.asked(HOST) as client,
    ):
        wait_for_status(client, "/open", 200)
        assert client.get("/orders").status_code == 401
        assert client.get("/admin", headers=MINE).status_code == 403
        forged = {**MINE, "x-auth-roles": "admin", "x-auth-principal": "key:admin"}
        received = client.get("/orders", headers=forged).json()["headers"]
        assert received["x-auth-principal"] == "key:service"
        assert "x-auth-roles" not in received
        statuses = [client.get("/limited", headers=MINE).status_code for _ in range(12)]
        assert 429 in statuses
        names = http_filters(sidecar.envoy, sidecar.port)
        places = [
            names.index(f"envoy.filters.http.{name}")
            for name in ("header_mutation", "ext_authz", "ratelimit", "router")
        ]
        assert places == sorted(places)
        mesh.require_no_rejects(sidecar.envoy)


def test_a_sidecar_object_that_hides_the_authorizer_denies_everything(
    mesh: IstioMesh, authorizer: Service, good: Replica, authority: Authority
):
    """By its status for an authorizer that does not answer: MW-ISTIO-011."""
    del authorizer
    good.forget()
    labels = {"app": "hidden", "meshwarden.io/authorize": "sidecar"}
    with (
        running_sidecar(
            mesh,
            authority,
            "hidden",
            SHOP,
            labels=labels,
            workload_port=good.port,
            asks=[(f"./{STOCK}", 8000, "HTTP")],
            number=25,
            asks_us=False,
        ) as sidecar,
        sidecar.asked(HOST) as client,
    ):
        wait_for_status(client, "/open", 503)
        assert "envoy.filters.http.ext_authz" in http_filters(sidecar.envoy, sidecar.port)
        assert good.executed().get("GET /open", 0) == 0, "it is no answer of the workload's"


def test_a_limit_by_the_authorizers_word_limits_nothing_where_nobody_asks_it(
    mesh: IstioMesh, limiter: Served, good: Replica, authority: Authority
):
    """Which is why `meshwarden check --istio` has MW-ISTIO-050."""
    del limiter
    labels = {"app": "cart", "meshwarden.io/limit": "sidecar"}
    with (
        running_sidecar(
            mesh, authority, "cart", SHOP, labels=labels, workload_port=good.port, number=24
        ) as sidecar,
        sidecar.asked(HOST) as client,
    ):
        wait_for_status(client, "/open", 200)
        assert "envoy.filters.http.ratelimit" in http_filters(sidecar.envoy, sidecar.port)
        assert {client.get("/limited", headers=MINE).status_code for _ in range(12)} == {200}
        stats = httpx2.get(f"{sidecar.envoy.admin}/stats", params={"filter": r"\.ratelimit\."})
        assert stats.text.strip() == "", "nobody was asked, not even in vain"


@pytest.mark.parametrize(
    ("caller", "number", "status", "told"),
    [("web", 22, 200, ""), ("batch", 23, 403, "no_rule_allows")],
)
def test_a_rule_asks_for_the_identity_that_the_callers_sidecar_proves(
    caller: str,
    number: int,
    status: int,
    told: str,
    mesh: IstioMesh,
    stock: SidecarOf,
    good: Replica,
    authority: Authority,
):
    with (
        running_sidecar(
            mesh,
            authority,
            caller,
            SHOP,
            labels={"app": caller},
            workload_port=good.port,
            asks=[(f"./{STOCK}", 8000, "HTTP")],
            number=number,
        ) as own,
        own.asking(STOCK, 8000) as client,
    ):
        wait_for_status(client, "/stock", status)
        answer = client.get("/stock", headers={"x-auth-principal": "spiffe://forged"})
        if told:
            assert answer.json()["reason"] == told
        else:
            principal = f"spiffe://cluster.local/ns/{SHOP}/sa/{caller}"
            assert answer.json()["headers"]["x-auth-principal"] == principal
        mesh.require_no_rejects(own.envoy, stock.envoy)


def test_without_a_certificate_of_the_mesh_nobody_is_heard(stock: SidecarOf):
    with pytest.raises(httpx2.TransportError):
        httpx2.get(f"http://127.0.0.1:{stock.port}/stock", headers={"host": STOCK})
