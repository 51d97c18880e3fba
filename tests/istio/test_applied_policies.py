"""The whole installation: `istio/crds` and `istio/base` on a real API server, the services with the
accounts, rights and variables of their Deployments, and `kubectl apply` felt at the gateway.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.authz_service import PEPPER, record
from tests.support.cluster_objects import of_kind, secret
from tests.support.istio_mesh import IstioMesh, running_istio
from tests.support.measured import measured
from tests.support.processes import wait_until
from tests.support.replica_process import running_replica
from tests.support.shop_mesh import (
    AUTHZ_LABELS,
    HOST,
    KEY,
    LIMITER_LABELS,
    ORDERS_LABELS,
    OURS,
    SHOP,
    Shop,
    installation,
    kustomized,
    mesh_config,
    shop_behind_a_gateway,
    workload_of_the_shop,
)
from tests.support.watching_services import watching_service

pytestmark = pytest.mark.timeout(240)
MINE = {"x-api-key": KEY}
EFFECT_SECONDS = 2.0


def policy(*rules: dict[str, Any]) -> dict[str, Any]:
    """The shop's, with `/open` for everybody besides."""
    opened = {"name": "open", "callers": "anyone", "paths": ["/open"]}
    spec = {"hosts": [HOST], "identify": [{"apiKey": {}}], "rules": [opened, *rules]}
    return of_kind("AccessPolicy", SHOP, "orders", spec)


def variables(deployment: str) -> dict[str, str]:
    """What the Deployment says in so many words; what a Pod or a Secret fills in is the test's."""
    for document in installation():
        if document["kind"] == "Deployment" and document["metadata"]["name"] == deployment:
            (container,) = document["spec"]["template"]["spec"]["containers"]
            said = {one["name"]: one["value"] for one in container["env"] if "value" in one}
            return said | {"POD_NAME": f"{deployment}-0", "POD_NAMESPACE": OURS}
    raise AssertionError(f"no Deployment {deployment}")


@pytest.fixture(scope="module")
def installed() -> Iterator[IstioMesh]:
    """Both services, watching the API server, in a mesh of their own."""
    with running_istio(mesh_config()) as mesh, ExitStack() as stack:
        mesh.apply(*kustomized("istio/crds"))
        mesh.api.kubectl("wait", "crd", "--all", "--for=condition=Established", "--timeout=30s")
        mesh.apply(*installation(), *workload_of_the_shop())
        keys = json.dumps({"keys": [record(KEY)]})
        mesh.apply(secret(OURS, "meshwarden-keys", **{"api-keys_json": keys, "pepper": PEPPER}))
        mesh.apply(policy())
        replica = stack.enter_context(running_replica("orders"))
        mesh.workload("orders", SHOP, ORDERS_LABELS, {"http": replica.port})
        memory = {"RATELIMIT_STORE__KIND": "memory"}
        for program, name, labels, own in (
            ("ext_authz", "ext-authz", AUTHZ_LABELS, {}),
            ("ratelimit_service", "ratelimit", LIMITER_LABELS, memory),
        ):
            account = mesh.api.account(OURS, name)
            service = stack.enter_context(
                watching_service(
                    program,
                    f"--configuration.kubernetes.kubeconfig={account}",
                    environment=variables(name) | own,
                )
            )
            mesh.workload(name, OURS, labels, {"grpc": service.grpc_port})
        yield mesh


@pytest.fixture(scope="module")
def shop(installed: IstioMesh) -> Iterator[Shop]:
    with shop_behind_a_gateway(installed) as running:
        yield running


def accepted(mesh: IstioMesh, kind: str, name: str) -> dict[str, Any]:
    """The object's condition `Accepted`, once it speaks of its newest generation."""
    found: dict[str, Any] = {}

    def is_told() -> bool:
        whole = mesh.api.get(kind, name, "-n", SHOP)
        conditions = whole.get("status", {}).get("conditions", [])
        found.update(next((one for one in conditions if one["type"] == "Accepted"), {}))
        generation = whole["metadata"]["generation"]
        return found.get("observedGeneration") == generation and found["status"] != "Unknown"

    wait_until(is_told, f"{kind} {name} has its status", limit_seconds=20)
    return found


def answer(shop: Shop, path: str) -> int:
    return shop.client.get(path, headers=MINE).status_code


def test_a_policy_that_is_applied_is_felt_at_the_gateway_and_has_its_status(shop: Shop):
    assert answer(shop, "/orders") == 403
    shop.mesh.apply(policy({"name": "orders", "paths": ["/orders"]}))
    applied_at = time.monotonic()
    wait_until(lambda: answer(shop, "/orders") == 200, "it is allowed")
    felt = time.monotonic() - applied_at
    told = accepted(shop.mesh, "accesspolicy", "orders")
    told_after = time.monotonic() - applied_at
    measured(
        f"a policy by kubectl apply: in force after {felt:.2f} s, told after {told_after:.2f} s"
    )
    assert (told["status"], told["reason"]) == ("True", "Accepted")
    assert felt < EFFECT_SECONDS
    shown = shop.mesh.api.kubectl("get", "accesspolicies", "-n", SHOP)
    assert "True" in shown


def test_a_bad_one_is_refused_with_its_reason_and_changes_nothing(shop: Shop):
    shop.mesh.apply(policy({"name": "orders", "paths": ["/orders"]}))
    wait_until(lambda: answer(shop, "/orders") == 200, "it is allowed")
    shop.mesh.apply(policy({"name": "orders", "paths": ["/orders"], "when": "request.nonsense"}))
    told = accepted(shop.mesh, "accesspolicy", "orders")
    assert (told["status"], told["reason"]) == ("False", "Refused")
    assert "nonsense" in told["message"]
    assert answer(shop, "/orders") == 200
    assert answer(shop, "/admin") == 403


def test_what_the_schema_refuses_is_never_stored(shop: Shop):
    wrong = policy({"name": "orders", "pathes": ["/orders"]})
    done = shop.mesh.api.try_kubectl(
        "apply", "--server-side", "--validate=strict", "-f", "-", stdin=json.dumps(wrong)
    )
    assert done.returncode != 0
    assert "pathes" in done.stderr


def test_a_limit_that_is_applied_is_felt_at_the_gateway(shop: Shop):
    shop.mesh.apply(policy({"name": "limited", "paths": ["/limited"]}))
    wait_until(lambda: answer(shop, "/limited") == 200, "it is allowed")
    limit = {"unit": "hour", "requests_per_unit": 1}
    descriptors = [
        {
            "key": "rule",
            "value": "limited",
            "descriptors": [{"key": "principal", "rate_limit": limit}],
        }
    ]
    spec = {"domain": "quickstart", "descriptors": descriptors}
    shop.mesh.apply(of_kind("RateLimit", SHOP, "limits", spec))
    applied_at = time.monotonic()
    wait_until(lambda: answer(shop, "/limited") == 429, "it is limited")
    assert time.monotonic() - applied_at < EFFECT_SECONDS
    assert accepted(shop.mesh, "ratelimit", "limits")["status"] == "True"
    shop.mesh.require_no_rejects(shop.envoy)
