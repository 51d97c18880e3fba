"""Mistakes in `meshConfig` and about providers that `meshwarden check --istio` finds and istiod
takes, and filters that a proxy lacks, with their effect at a real Envoy; in a mesh of their own, as
one of them makes a proxy refuse what it is sent.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
import yaml

from meshwarden.core.documents import parse
from meshwarden.core.istio_lint.check import findings
from tests.support.authz_service import serving
from tests.support.check_requests import access_policy
from tests.support.envoy import RunningEnvoy
from tests.support.istio_mesh import (
    GATEWAY_LABELS,
    IstioMesh,
    config_dump,
    http_filters,
    mesh_config_map,
    namespace,
    rejected,
    running_istio,
    wait_for_status,
)
from tests.support.istiod import SYSTEM
from tests.support.processes import wait_until
from tests.support.replica_process import running_replica
from tests.support.shop_mesh import (
    HOST,
    ORDERS_LABELS,
    SHOP,
    Shop,
    mesh_config,
    service,
    shop_behind_a_gateway,
    workload_of_the_shop,
)

pytestmark = pytest.mark.timeout(180)
PLACE = "mistakes"
PATIENCE_SECONDS = 1.5
"""Of a client; many times what a decision takes."""
SERVICES = [
    service("good", PLACE, {"app": "good"}, grpc=9001),
    service("hanging", PLACE, {"app": "hanging"}, grpc=9001),
    # Istio reads what a port speaks from its name.
    service("untyped", PLACE, {"app": "good"}, authz=9001),
]


def provider(name: str, host: str, **options: Any) -> dict[str, Any]:
    full = f"{host}.{PLACE}.svc.cluster.local"
    usual = {"service": full, "port": 9001, "failOpen": False, "statusOnError": "503"}
    return {"name": name, "envoyExtAuthzGrpc": {**usual, **options}}


CONFIG = {
    **mesh_config(),
    "extensionProviders": [
        provider("one", "good", timeout="1s"),
        provider("two", "good", timeout="1s"),
        provider("patient", "hanging"),
        provider("untyped", "untyped", timeout="1s"),
        provider("gone", "gone", timeout="1s"),
    ],
}


@dataclass
class Mistaken:
    """A gateway that lets everyone through until a mistake is applied."""

    shop: Shop

    @property
    def envoy(self) -> RunningEnvoy:
        return self.shop.envoy

    def makes(self, rule: str, *documents: dict[str, Any]) -> None:
        """Apply a mistake that our check finds beside the mesh's configuration."""
        gateway = {"apiVersion": "v1", "kind": "Pod"}
        gateway["metadata"] = {"name": "g", "namespace": SYSTEM, "labels": GATEWAY_LABELS}
        whole = [mesh_config_map(CONFIG), gateway, *SERVICES, *documents]
        found = findings(parse("mistake.yaml", yaml.safe_dump_all(whole).encode()))
        assert f"MW-ISTIO-{rule}" in {one.rule for one in found}, found
        self.shop.mesh.apply(*documents)

    def answers(self, status: int) -> httpx2.Response:
        """What `/open` is answered, once it has this status."""
        wait_for_status(self.shop.client, "/open", status)
        return self.shop.client.get("/open")


def custom(name: str) -> dict[str, Any]:
    """A policy by which the gateway asks a provider about everything."""
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": f"asks-{name}", "namespace": SYSTEM},
        "spec": {
            "selector": {"matchLabels": GATEWAY_LABELS},
            "action": "CUSTOM",
            "provider": {"name": name},
            "rules": [{}],
        },
    }


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IstioMesh]:
    """With an authorizer that lets everyone through, and one that never answers."""
    anyone = {"name": "open", "callers": "anyone"}
    open_to_all = access_policy(anyone, hosts=[HOST], identify=[{"apiKey": {}}])
    with (
        running_istio(CONFIG) as running,
        serving(tmp_path_factory.mktemp("authz"), open_to_all, is_measured=False) as good,
        socket.create_server(("127.0.0.1", 0)) as hanging,
        running_replica("orders") as orders,
    ):
        running.apply(namespace(PLACE), *SERVICES, *workload_of_the_shop())
        spoken = dict.fromkeys(("grpc", "authz"), good.grpc_port)
        running.workload("good", PLACE, {"app": "good"}, spoken)
        ports = {"grpc": hanging.getsockname()[1]}
        running.workload("hanging", PLACE, {"app": "hanging"}, ports)
        running.workload("orders", SHOP, ORDERS_LABELS, {"http": orders.port})
        yield running


@pytest.fixture(scope="module")
def standing(mesh: IstioMesh) -> Iterator[Mistaken]:
    with shop_behind_a_gateway(mesh) as shop:
        yield Mistaken(shop)


@pytest.fixture
def gateway(standing: Mistaken) -> Iterator[Mistaken]:
    yield standing
    for kind in ("authorizationpolicy", "envoyfilter"):
        standing.shop.mesh.api.kubectl("delete", kind, "--all", "-n", SYSTEM)
    standing.answers(200)


def test_without_a_time_limit_a_request_waits_for_ten_minutes(gateway: Mistaken):
    gateway.makes("004", custom("patient"))

    def hangs() -> bool:
        try:
            gateway.shop.client.get("/open", timeout=PATIENCE_SECONDS)
        except httpx2.ReadTimeout:
            return True
        return False

    wait_until(hangs, "a request hangs", limit_seconds=20)
    assert '"timeout": "600s"' in json.dumps(config_dump(gateway.envoy))


def test_a_port_that_says_nothing_is_spoken_to_in_another_tongue(gateway: Mistaken):
    gateway.makes("009", custom("untyped"))
    gateway.answers(503)


def test_a_provider_whose_service_is_not_there_denies_everything(gateway: Mistaken):
    gateway.makes("010", custom("gone"))
    assert gateway.answers(403).text == "RBAC: access denied"


def test_two_providers_on_one_workload_deny_everything(gateway: Mistaken):
    gateway.shop.mesh.apply(custom("one"))
    gateway.answers(200)
    gateway.makes("012", custom("one"), custom("two"))
    assert gateway.answers(403).text == "RBAC: access denied"


def first_filter(kind: str) -> dict[str, Any]:
    """An EnvoyFilter by which the gateway has, before all others, a filter of this type."""
    chain = {"filter": {"name": "envoy.filters.network.http_connection_manager"}}
    config = {"@type": f"type.googleapis.com/{kind}"}
    patch = {
        "applyTo": "HTTP_FILTER",
        "match": {"context": "GATEWAY", "listener": {"filterChain": chain}},
        "patch": {
            "operation": "INSERT_FIRST",
            "value": {"name": "lacking", "typed_config": config},
        },
    }
    return {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": "lacking", "namespace": SYSTEM},
        "spec": {"workloadSelector": {"labels": GATEWAY_LABELS}, "configPatches": [patch]},
    }


def test_a_type_that_nobody_knows_is_left_out_without_a_word(gateway: Mistaken):
    gateway.shop.mesh.apply(first_filter("envoy.extensions.filters.http.nothing.v3.Nothing"))
    gateway.shop.mesh.apply(custom("gone"))
    gateway.answers(403)
    assert "lacking" not in http_filters(gateway.envoy, gateway.shop.port)
    gateway.shop.mesh.require_no_rejects(gateway.envoy)


def test_a_filter_that_the_proxy_lacks_makes_it_refuse_the_whole_update(gateway: Mistaken):
    """And go on with what it had. Stock Envoy lacks Istio's own filters, as istio-proxy does some
    of Envoy's.
    """
    gateway.shop.mesh.apply(first_filter("io.istio.http.peer_metadata.Config"))
    wait_until(lambda: rejected(gateway.envoy), "the update is refused")
    before = rejected(gateway.envoy)
    gateway.shop.mesh.apply(custom("gone"))
    wait_until(lambda: rejected(gateway.envoy) != before, "so is the next")
    assert gateway.shop.mesh.istiod.rejects()
    assert gateway.shop.client.get("/open").status_code == 200
