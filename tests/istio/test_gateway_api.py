"""The Gateway API form: what the label form attaches to Pods is attached to a Gateway by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import yaml

from tests.support.authz_service import Service
from tests.support.istio_mesh import (
    IstioMesh,
    namespace,
    running_istio,
    wait_for_status,
)
from tests.support.istiod import SYSTEM
from tests.support.limit_service import Served
from tests.support.ports import free_port
from tests.support.processes import CHECKOUT
from tests.support.replica_process import running_replica
from tests.support.shop_mesh import (
    HOST,
    KEY,
    OURS,
    SHOP,
    mesh_config,
    service,
)

pytestmark = pytest.mark.timeout(240)
GATEWAY_LABELS = {"gateway.networking.k8s.io/gateway-name": "meshwarden"}


@pytest.fixture(scope="module")
def mesh() -> Iterator[IstioMesh]:
    """With the Gateway API's CRDs, and without what the label form applies; the folder's services
    join this one.
    """
    with running_istio(mesh_config(), gateway_api=True) as running:
        running.apply(namespace(OURS), namespace(SHOP, **{"meshwarden.io/routes": "allowed"}))
        for name in ("ext-authz", "ratelimit"):
            base = yaml.safe_load_all((CHECKOUT / f"istio/base/{name}.yaml").read_text())
            running.apply(*(one for one in base if one["kind"] == "Service"))
        yield running


def component(port: int) -> list[dict[str, Any]]:
    """What is rendered, but on a free port, and at a Service that is there: nobody deploys here."""
    text = (CHECKOUT / "istio/components/gateway-api/gateway.yaml").read_text()
    gateway, *others = yaml.safe_load_all(text)
    (listener,) = gateway["spec"]["listeners"]
    listener["port"] = port
    address = {"type": "Hostname", "value": f"meshwarden.{SYSTEM}.svc.cluster.local"}
    gateway["spec"]["addresses"] = [address]
    return [service("meshwarden", SYSTEM, GATEWAY_LABELS, http=port), gateway, *others]


def route() -> list[dict[str, Any]]:
    return [
        service("orders", SHOP, {"app": "orders"}, http=8000),
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": "orders", "namespace": SHOP},
            "spec": {
                "parentRefs": [{"name": "meshwarden", "namespace": SYSTEM}],
                "hostnames": [HOST],
                "rules": [{"backendRefs": [{"name": "orders", "port": 8000}]}],
            },
        },
    ]


def test_a_gateway_by_name_enforces_what_one_by_label_does(
    mesh: IstioMesh, authorizer: Service, limiter: Served
):
    del authorizer, limiter
    port = free_port()
    mesh.apply(*component(port), *route())
    with (
        running_replica("orders") as replica,
        mesh.proxy("router", "meshwarden-istio", SYSTEM, GATEWAY_LABELS) as envoy,
        httpx2.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"host": HOST}, timeout=10
        ) as client,
    ):
        mesh.workload("orders-a", SHOP, {"app": "orders"}, {"http": replica.port})
        wait_for_status(client, "/open", 200)
        assert client.get("/orders").json()["reason"] == "missing_credential"
        forged = {"x-api-key": KEY, "x.auth.principal": "key:admin"}
        received = client.get("/orders", headers=forged).json()["headers"]
        assert received["x-auth-principal"] == "key:service"
        assert "x.auth.principal" not in received
        assert client.get("/open", headers={"x_auth_principal": "key:admin"}).status_code == 400
        statuses = [client.get("/limited", headers=forged).status_code for _ in range(11)]
        # Twice five at most, where a minute ends between them.
        assert statuses[:5] == [200] * 5
        assert 429 in statuses
        assert {200, 429} == set(statuses)
        mesh.require_no_rejects(envoy)
