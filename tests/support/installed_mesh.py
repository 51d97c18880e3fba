"""The whole installation in a mesh without a cluster: `istio/crds` and `istio/base` on a real API
server, and the services with the accounts, rights and variables of their Deployments.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.authz_service import PEPPER, record
from tests.support.cluster_objects import of_kind, secret
from tests.support.istio_mesh import IstioMesh, running_istio
from tests.support.replica_process import Replica, running_replica
from tests.support.shop_mesh import (
    AUTHZ_LABELS,
    HOST,
    KEY,
    LIMITER_LABELS,
    ORDERS_LABELS,
    OURS,
    SHOP,
    installation,
    kustomized,
    mesh_config,
    workload_of_the_shop,
)
from tests.support.watching_services import Watching, watching_service


@dataclass(frozen=True)
class Installed:
    """What runs, but for the gateway: `shop_behind_a_gateway` is one."""

    mesh: IstioMesh
    authorizer: Watching
    limiter: Watching
    workload: Replica


@contextmanager
def installed_mesh(*resources: dict[str, Any]) -> Iterator[Installed]:
    """Both services, watching an API server that has `resources` of our kinds from the start, and
    the shop's workload. Callers show `KEY`; hits are counted in memory.
    """
    with running_istio(mesh_config()) as mesh, ExitStack() as stack:
        mesh.apply(*kustomized("istio/crds"))
        mesh.api.kubectl("wait", "crd", "--all", "--for=condition=Established", "--timeout=30s")
        mesh.apply(*installation(), *workload_of_the_shop())
        keys = json.dumps({"keys": [record(KEY)]})
        mesh.apply(secret(OURS, "meshwarden-keys", **{"api-keys_json": keys, "pepper": PEPPER}))
        mesh.apply(*resources)
        replica = stack.enter_context(running_replica("orders"))
        mesh.workload("orders", SHOP, ORDERS_LABELS, {"http": replica.port})
        memory = {"RATELIMIT_STORE__KIND": "memory"}
        authorizer = stack.enter_context(_service(mesh, "ext_authz", "ext-authz", {}))
        limiter = stack.enter_context(_service(mesh, "ratelimit_service", "ratelimit", memory))
        mesh.workload("ext-authz", OURS, AUTHZ_LABELS, {"grpc": authorizer.grpc_port})
        mesh.workload("ratelimit", OURS, LIMITER_LABELS, {"grpc": limiter.grpc_port})
        yield Installed(mesh, authorizer, limiter, replica)


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
