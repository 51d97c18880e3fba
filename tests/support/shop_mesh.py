"""A shop behind an ingress gateway: two replicas of a workload, our services, real istiod.

    client -> Envoy (gateway) -> ext_authz, ratelimit -> Envoy's router -> orders-a, orders-b

Stands for a cluster's: endpoints are WorkloadEntries on loopback, and the gateway listens on a port
of the test's. What is applied besides is what `meshwarden render istio` writes.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import yaml

from ext_authz.core.api_keys import make_key
from meshwarden.adapters.istio import IstioOptions
from meshwarden.adapters.istio.resilience import ResilienceOptions, for_service
from tests.support.check_requests import access_policy
from tests.support.envoy import RunningEnvoy
from tests.support.istio_mesh import (
    GATEWAY_LABELS,
    IstioMesh,
    namespace,
    wait_for_status,
)
from tests.support.istiod import SYSTEM
from tests.support.kubernetes_api import tool
from tests.support.ports import free_port
from tests.support.processes import CHECKOUT

OURS = "meshwarden-system"
GATEWAY_ACCOUNT = IstioOptions().gateway_service_account
SHOP = "shop"
HOST = "shop.example.com"
ORDERS = f"orders.{SHOP}.svc.cluster.local"
STOCK = f"stock.{SHOP}.svc.cluster.local"
ORDERS_LABELS = {"app": "orders"}
KEY, OTHER_KEY = make_key(bytes(32)), make_key(bytes(31) + b"\x01")
OPEN = {"name": "open", "callers": "anyone", "paths": ["/open"]}
"""The rule by which `shop_behind_a_gateway` knows that the way is there."""
RULES: tuple[Any, ...] = (
    OPEN,
    {"name": "mine", "paths": ["/orders"]},
    {"name": "admins", "paths": ["/admin"], "principals": ["key:admin"]},
    {"name": "limited", "paths": ["/limited"]},
)
LIMITS = """
domain: quickstart
descriptors:
- key: rule
  value: limited
  descriptors:
  - key: principal
    rate_limit: {unit: minute, requests_per_unit: 5}
"""


def policies() -> list[dict[str, Any]]:
    """Who may do what in the shop: callers from outside show API keys, those of the mesh are known
    by their sidecars' certificates.
    """
    web = f"spiffe://cluster.local/ns/{SHOP}/sa/web"
    identify = [{"spiffe": {"trustDomains": ["cluster.local"]}}]
    reads = {"name": "web-reads", "methods": ["GET"], "paths": ["/stock"], "principals": [web]}
    return [
        access_policy(*RULES, name="shop", hosts=[HOST], identify=[{"apiKey": {}}]),
        access_policy(reads, name="stock", hosts=[STOCK], identify=identify),
    ]


def service(name: str, place: str, selector: dict[str, str], **ports: int) -> dict[str, Any]:
    named = [{"name": key.replace("_", "-"), "port": port} for key, port in ports.items()]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": place},
        "spec": {"selector": selector, "ports": named},
    }


def mutual_tls_alone(name: str) -> tuple[dict[str, Any], ...]:
    """A Service of the shop that is asked with the mesh's certificates and hears nobody without."""
    host = f"{name}.{SHOP}.svc.cluster.local"
    metadata = {"name": name, "namespace": SHOP}
    return (
        service(name, SHOP, {"app": name}, http=8000),
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "DestinationRule",
            "metadata": metadata,
            "spec": {"host": host, "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}},
        },
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "PeerAuthentication",
            "metadata": metadata,
            "spec": {"selector": {"matchLabels": {"app": name}}, "mtls": {"mode": "STRICT"}},
        },
    )


def ingress(port: int) -> dict[str, Any]:
    """The port of the gateway."""
    server = {
        "port": {"number": port, "name": "http", "protocol": "HTTP"},
        "bind": "127.0.0.1",
        "hosts": ["*"],
    }
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "ingress", "namespace": SYSTEM},
        "spec": {"selector": GATEWAY_LABELS, "servers": [server]},
    }


def workload_of_the_shop(*, version: str = "1") -> list[dict[str, Any]]:
    """Orders, and the way to it from the gateway, which answers with `x-version`; its resilience
    is what `meshwarden render resilience` writes.
    """
    options = ResilienceOptions(
        name="orders", namespace=SHOP, host=ORDERS, port=8000, gateways=(f"{SYSTEM}/ingress",)
    )
    rule, routes = for_service(options)
    routes["spec"]["hosts"] = [HOST]
    for route in routes["spec"]["http"]:
        route["headers"] = {"response": {"set": {"x-version": version}}}
    return [namespace(SHOP), service("orders", SHOP, ORDERS_LABELS, http=8000), rule, routes]


AUTHZ_LABELS = {"app.kubernetes.io/name": "ext-authz"}
LIMITER_LABELS = {"app.kubernetes.io/name": "ratelimit"}


def installed_mesh_config() -> dict[str, Any]:
    """What `istio/install` says."""
    values = yaml.safe_load((CHECKOUT / "istio/install/istiod-values.yaml").read_text())
    found: dict[str, Any] = values["meshConfig"]
    return found


def mesh_config() -> dict[str, Any]:
    """The same without mutual TLS, which needs a certificate for each proxy."""
    return {**installed_mesh_config(), "enableAutoMtls": False}


def kustomized(folder: str) -> list[dict[str, Any]]:
    """What a kustomization of ours makes."""
    words = [str(tool("bin/kubectl")), "kustomize", str(CHECKOUT / folder)]
    text = subprocess.run(words, capture_output=True, check=True, timeout=60).stdout
    return list(yaml.safe_load_all(text))


def installation() -> list[dict[str, Any]]:
    """What `istio/base` applies, without objects of our own kinds: a test has its own."""
    documents = kustomized("istio/base")
    return [one for one in documents if not one["apiVersion"].startswith("meshwarden.io/")]


def installation_without_sidecars() -> list[dict[str, Any]]:
    """The same without mutual TLS to our services, which have no sidecar there."""
    found = []
    for document in installation():
        if document["kind"] == "PeerAuthentication":
            document["spec"]["mtls"]["mode"] = "DISABLE"
        if document["kind"] == "DestinationRule":
            document["spec"]["trafficPolicy"]["tls"]["mode"] = "DISABLE"
        found.append(document)
    return found


@dataclass
class Shop:
    """A gateway in front of the shop, and a client of it who shows a key."""

    mesh: IstioMesh
    port: int
    envoy: RunningEnvoy
    client: httpx2.Client

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def endpoint(self, port: int, figure: str) -> str:
        """What the gateway tells of the endpoint on this port: `health_flags`, `rq_total`, ..."""
        text = httpx2.get(f"{self.envoy.admin}/clusters").text
        found = re.search(rf"::127\.0\.0\.1:{port}::{figure}::(.*)", text)
        return found[1] if found else ""

    def is_ejected(self, port: int) -> bool:
        """Whether outlier detection keeps the gateway from asking the endpoint on this port."""
        return "/failed_outlier_check" in self.endpoint(port, "health_flags")

    def cluster_stat(self, host: str, port: int, name: str) -> int:
        """A counter or gauge of a Service's cluster at the gateway."""
        return self.envoy.stat(f"cluster.outbound|{port}||{host};.{name}")


@contextmanager
def shop_behind_a_gateway(mesh: IstioMesh, *, sds_port: int = 0) -> Iterator[Shop]:
    """The gateway, once it knows the way to `/open`; what it needs must be applied before.
    `sds_port` serves its certificates, where the mesh has some.
    """
    port = free_port()
    mesh.apply(ingress(port))
    with (
        mesh.gateway(sds_port=sds_port) as envoy,
        httpx2.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"host": HOST}, timeout=10
        ) as client,
    ):
        wait_for_status(client, "/open", 200)
        yield Shop(mesh, port, envoy, client)
