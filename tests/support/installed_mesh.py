"""The whole installation in a mesh without a cluster: `istio/crds` and `istio/base` on a real API
server, the services with the accounts, rights and variables of their Deployments, and in front of
each the sidecar of its Pod, which takes nothing but mutual TLS.

    gateway == mTLS ==> sidecar 127.0.1.N:9001 -> ext_authz
            == mTLS ==> sidecar 127.0.1.M:8081 -> ratelimit_service
            ----------> the shop's workload, which has no sidecar
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from meshwarden.adapters.istio.names import EXT_AUTHZ, NAME_LABEL, PORTS, RATELIMIT
from meshwarden.adapters.istio.rights import OWNERSHIP
from tests.support.authz_service import PEPPER, record
from tests.support.certificates import Authority
from tests.support.cluster_objects import config_map, of_kind, secret
from tests.support.istio_mesh import IstioMesh, running_istio
from tests.support.istiod import SYSTEM
from tests.support.replica_process import Replica, running_replica
from tests.support.secret_discovery import serving_secrets, workload_certificate
from tests.support.shop_mesh import (
    GATEWAY_ACCOUNT,
    HOST,
    KEY,
    ORDERS_LABELS,
    OURS,
    SHOP,
    Shop,
    installation,
    installed_mesh_config,
    kustomized,
    shop_behind_a_gateway,
    workload_of_the_shop,
)
from tests.support.sidecars import SidecarOf, running_sidecar
from tests.support.watching_services import Watching, watching_service

OWNED = f"hosts: {{{SHOP}: [{HOST}]}}\ndomains: {{{SHOP}: [quickstart, deep]}}"


@dataclass(frozen=True)
class Installed:
    """What runs, but for the gateway: `shop_behind_a_gateway` is one."""

    mesh: IstioMesh
    authority: Authority
    authorizer: Watching
    limiter: Watching
    workload: Replica
    sidecars: Mapping[str, SidecarOf]
    """Of our services, by their ServiceAccounts."""


@contextmanager
def installed_mesh(*resources: dict[str, Any]) -> Iterator[Installed]:
    """Both services, watching an API server that has `resources` of our kinds from the start, and
    the shop's workload, whose namespace owns its host. Callers show `KEY`; hits are counted in
    memory.
    """
    with running_istio(installed_mesh_config()) as mesh, ExitStack() as stack:
        mesh.apply(*kustomized("istio/crds"))
        mesh.api.kubectl("wait", "crd", "--all", "--for=condition=Established", "--timeout=30s")
        mesh.apply(*installation(), *workload_of_the_shop())
        keys = json.dumps({"keys": [record(KEY)]})
        mesh.apply(secret(OURS, "meshwarden-keys", **{"api-keys_json": keys, "pepper": PEPPER}))
        mesh.apply(config_map(OURS, OWNERSHIP, ownership_yaml=OWNED), *resources)
        replica = stack.enter_context(running_replica("orders"))
        labels = {**ORDERS_LABELS, "security.istio.io/tlsMode": "disabled"}
        mesh.workload("orders", SHOP, labels, {"http": replica.port})
        memory = {"RATELIMIT_STORE__KIND": "memory"}
        services = {
            EXT_AUTHZ: stack.enter_context(_service(mesh, "ext_authz", EXT_AUTHZ, {})),
            RATELIMIT: stack.enter_context(_service(mesh, "ratelimit_service", RATELIMIT, memory)),
        }
        authority = Authority("cluster.local")
        sidecars = {
            name: stack.enter_context(_sidecar(mesh, authority, name, service, number))
            for (name, service), number in zip(services.items(), (60, 61), strict=True)
        }
        yield Installed(
            mesh, authority, services[EXT_AUTHZ], services[RATELIMIT], replica, sidecars
        )


@contextmanager
def shop_of(installed: Installed) -> Iterator[Shop]:
    """The shop behind a gateway that has the certificate of its ServiceAccount."""
    own = workload_certificate(installed.authority, SYSTEM, GATEWAY_ACCOUNT)
    with (
        serving_secrets(own) as secrets,
        shop_behind_a_gateway(installed.mesh, sds_port=secrets) as shop,
    ):
        yield shop


@contextmanager
def _sidecar(
    mesh: IstioMesh, authority: Authority, name: str, service: Watching, number: int
) -> Iterator[SidecarOf]:
    """The sidecar of a service's Pod, as an endpoint of its Service."""
    labels = {NAME_LABEL: name}
    with running_sidecar(
        *(mesh, authority, name, OURS),
        labels=labels,
        workload_port=service.grpc_port,
        number=number,
        grpc_port=PORTS[name].grpc,
    ) as sidecar:
        ports = {"grpc": sidecar.port}
        mesh.workload(name, OURS, labels, ports, account=name, address=sidecar.inbound)
        yield sidecar


def shop_policy(*rules: dict[str, Any]) -> dict[str, Any]:
    """Who may do what in the shop, as its own namespace says it."""
    spec = {"hosts": [HOST], "identify": [{"apiKey": {}}], "rules": list(rules)}
    return of_kind("AccessPolicy", SHOP, "orders", spec)


@contextmanager
def _service(
    mesh: IstioMesh, program: str, deployment: str, own: dict[str, str]
) -> Iterator[Watching]:
    """`program` as that Deployment's Pod would run it."""
    account = mesh.api.account(OURS, deployment)
    with watching_service(
        program,
        f"--configuration.kubernetes.kubeconfig={account}",
        environment=_variables(deployment) | own,
    ) as service:
        yield service


def _variables(deployment: str) -> dict[str, str]:
    """What the Deployment says in so many words; what a Pod or a Secret fills in is ours. Nothing
    has to be drained: the gateway has ended by then.
    """
    for document in installation():
        if document["kind"] == "Deployment" and document["metadata"]["name"] == deployment:
            (container,) = document["spec"]["template"]["spec"]["containers"]
            said = {one["name"]: one["value"] for one in container["env"] if "value" in one}
            drained = {name: "0" for name in said if name.endswith("_DRAIN_SECONDS")}
            return said | drained | {"POD_NAME": f"{deployment}-0", "POD_NAMESPACE": OURS}
    raise AssertionError(f"no Deployment {deployment}")
