"""The whole installation: `istio/crds` and `istio/base` on a real API server, the services with the
accounts, rights and variables of their Deployments, and `kubectl apply` felt at the gateway.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.cluster_objects import of_kind
from tests.support.installed_mesh import installed_mesh, shop_policy
from tests.support.istio_mesh import IstioMesh
from tests.support.measured import measured
from tests.support.processes import wait_until
from tests.support.shop_mesh import KEY, OPEN, SHOP, Shop, shop_behind_a_gateway

pytestmark = pytest.mark.timeout(240)
MINE = {"x-api-key": KEY}
EFFECT_SECONDS = 2.0


@pytest.fixture(scope="module")
def installed() -> Iterator[IstioMesh]:
    """A mesh of this module's own: its policies are changed."""
    with installed_mesh(shop_policy(OPEN)) as running:
        yield running.mesh


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
    shop.mesh.apply(shop_policy(OPEN, {"name": "orders", "paths": ["/orders"]}))
    applied_at = time.monotonic()
    wait_until(lambda: answer(shop, "/orders") == 200, "it is allowed")
    felt = time.monotonic() - applied_at
    told = accepted(shop.mesh, "accesspolicy", "orders")
    told_after = time.monotonic() - applied_at
    measured(
        f"a policy by kubectl apply: in force after {felt:.2f} s, told after {told_after:.2f} s"
    )
    assert (told["status"], told["reason"]) == ("True", "Accepted")
    assert max(felt, told_after) < EFFECT_SECONDS
    shown = shop.mesh.api.kubectl("get", "accesspolicies", "-n", SHOP)
    assert "True" in shown


def test_a_bad_one_is_refused_with_its_reason_and_changes_nothing(shop: Shop):
    shop.mesh.apply(shop_policy(OPEN, {"name": "orders", "paths": ["/orders"]}))
    wait_until(lambda: answer(shop, "/orders") == 200, "it is allowed")
    shop.mesh.apply(
        shop_policy(OPEN, {"name": "orders", "paths": ["/orders"], "when": "request.nonsense"})
    )
    told = accepted(shop.mesh, "accesspolicy", "orders")
    assert (told["status"], told["reason"]) == ("False", "Refused")
    assert "nonsense" in told["message"]
    assert answer(shop, "/orders") == 200
    assert answer(shop, "/admin") == 403


def test_what_the_schema_refuses_is_never_stored(shop: Shop):
    wrong = shop_policy(OPEN, {"name": "orders", "pathes": ["/orders"]})
    done = shop.mesh.api.try_kubectl(
        "apply", "--server-side", "--validate=strict", "-f", "-", stdin=json.dumps(wrong)
    )
    assert done.returncode != 0
    assert "pathes" in done.stderr


def test_a_limit_that_is_applied_is_felt_at_the_gateway(shop: Shop):
    shop.mesh.apply(shop_policy(OPEN, {"name": "limited", "paths": ["/limited"]}))
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
