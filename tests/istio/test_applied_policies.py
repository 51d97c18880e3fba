"""The whole installation: `istio/crds` and `istio/base` on a real API server, the services with the
accounts, rights and variables of their Deployments behind sidecars that take mutual TLS alone, and
`kubectl apply` felt at the gateway.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import grpc
import httpx2
import pytest

from ext_authz.adapters.envoy_check import CHECK
from meshwarden.adapters.istio import IstioOptions
from meshwarden.adapters.istio.names import EXT_AUTHZ
from meshwarden.adapters.istio.own_traffic import own_traffic
from tests.support.check_requests import check_request
from tests.support.cluster_objects import of_kind
from tests.support.cluster_resources import nested_limits
from tests.support.installed_mesh import Installed, installed_mesh, shop_of, shop_policy
from tests.support.istio_mesh import IstioMesh, namespace, wait_for_status
from tests.support.measured import measured
from tests.support.otlp_collector import collecting
from tests.support.processes import wait_until
from tests.support.shop_mesh import HOST, KEY, OPEN, SHOP, Shop, installation, service
from tests.support.sidecars import running_sidecar

pytestmark = pytest.mark.timeout(240)
MINE = {"x-api-key": KEY}
EFFECT_SECONDS = 2.0


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    """A mesh of this module's own: its policies are changed."""
    with installed_mesh(shop_policy(OPEN)) as running:
        yield running


@pytest.fixture(scope="module")
def shop(installed: Installed) -> Iterator[Shop]:
    with shop_of(installed) as running:
        yield running


def accepted(mesh: IstioMesh, kind: str, name: str, place: str = SHOP) -> dict[str, Any]:
    """The object's condition `Accepted`, once it speaks of its newest generation."""
    found: dict[str, Any] = {}

    def is_told() -> bool:
        whole = mesh.api.get(kind, name, "-n", place)
        conditions = whole.get("status", {}).get("conditions", [])
        found.update(next((one for one in conditions if one["type"] == "Accepted"), {}))
        generation = whole["metadata"]["generation"]
        return found.get("observedGeneration") == generation and found["status"] != "Unknown"

    wait_until(is_told, f"{kind} {name} has its status", limit_seconds=20)
    return found


def answer(shop: Shop, path: str, **more: str) -> int:
    """Of a request on a connection of its own, since a listener that is replaced ends others; 0
    where it was ended all the same.
    """
    headers = {**MINE, "host": HOST, "connection": "close", **more}
    try:
        return httpx2.get(f"{shop.url}{path}", headers=headers, timeout=10).status_code
    except httpx2.TransportError:
        return 0


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


def test_another_namespaces_word_about_the_shops_host_changes_nothing_and_is_told(shop: Shop):
    """As rendered, a namespace that the platform gave no host speaks for none, held or free."""
    before = answer(shop, "/admin")
    shop.mesh.apply(namespace("bank"))
    rules = [{"name": "theft", "callers": "anyone"}]
    for name, host in (("theft", HOST), ("squatter", "free.example.com")):
        shop.mesh.apply(of_kind("AccessPolicy", "bank", name, {"hosts": [host], "rules": rules}))
        told = accepted(shop.mesh, "accesspolicy", name, "bank")
        assert (told["status"], told["reason"]) == ("False", "NotYours"), told
        assert f"the namespace 'bank' may not speak for '{host}'" in told["message"]
    assert answer(shop, "/admin") == before == 403


def test_a_limit_that_is_deeper_than_its_schema_reads_is_refused_with_a_status(shop: Shop):
    shop.mesh.apply(of_kind("RateLimit", SHOP, "deep", nested_limits(7)["spec"]))
    told = accepted(shop.mesh, "ratelimit", "deep")
    assert (told["status"], told["reason"]) == ("False", "Refused")
    assert "more than 5 levels deep" in told["message"]


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


def test_a_trace_that_the_caller_keeps_is_told_to_the_collector_of_meshconfig(shop: Shop):
    """By the Telemetry and the provider that are applied; nobody's credential is in it."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    kept = f"00-{trace}-b7ad6b7169203331-01"
    labels = {"app": "opentelemetry-collector"}
    place = "observability"
    with collecting() as collector:
        shop.mesh.apply(
            namespace(place), service("opentelemetry-collector", place, labels, grpc_otlp=4317)
        )
        plain = {**labels, "security.istio.io/tlsMode": "disabled"}
        shop.mesh.workload("collector", place, plain, {"grpc-otlp": collector.port})

        def is_told() -> bool:
            answer(shop, "/orders", traceparent=kept)
            return bool(collector.spans(trace))

        wait_until(is_told, "the gateway's span is told", limit_seconds=30)
        shop.mesh.leave("collector", place)
    (span, *_) = collector.spans(trace)
    told = {one.key: one.value.string_value for one in span.attributes}
    assert told["http.method"] == "GET"
    assert KEY not in str(span)


# --- who may ask our services


def answer_behind(installed: Installed, place: str, number: int, status: int) -> httpx2.Response:
    """The answer of a workload in the namespace `place`, whose sidecar asks the authorizer, once
    it has this status.
    """
    labels = {"app": "cart", "meshwarden.io/authorize": "sidecar"}
    with (
        running_sidecar(
            *(installed.mesh, installed.authority, "cart", place),
            labels=labels,
            workload_port=installed.workload.port,
            number=number,
        ) as sidecar,
        sidecar.asked(HOST) as client,
    ):
        wait_for_status(client, "/open", status)
        installed.mesh.require_no_rejects(sidecar.envoy, installed.sidecars[EXT_AUTHZ].envoy)
        return client.get("/open")


def denials(installed: Installed) -> int:
    """How often the authorizer's sidecar refused a caller."""
    guarding = installed.sidecars[EXT_AUTHZ]
    return guarding.envoy.stat(f"http.inbound_{guarding.inbound}_{guarding.port};.rbac.denied")


def test_a_workloads_sidecar_asks_over_mutual_tls(installed: Installed, shop: Shop):
    shop.mesh.apply(shop_policy(OPEN))
    assert answer_behind(installed, SHOP, 62, 200).headers["x-replica"] == "orders"


def test_only_the_namespaces_that_are_named_may_ask(installed: Installed, shop: Shop):
    """Named are `shop` and, by itself, the gateway's."""
    shop.mesh.apply(shop_policy(OPEN), namespace("bank"))
    assert answer_behind(installed, "bank", 63, 200).headers["x-replica"] == "orders"
    assert denials(installed) == 0
    named = [
        one
        for one in own_traffic(IstioOptions(caller_namespaces=(SHOP,)))
        if one["kind"] == "AuthorizationPolicy"
    ]
    before = [one for one in installation() if one["kind"] == "AuthorizationPolicy"]
    shop.mesh.apply(*named)
    try:
        answer_behind(installed, "bank", 64, 503)
        assert denials(installed) > 0
        assert answer_behind(installed, SHOP, 65, 200).headers["x-replica"] == "orders"
        assert answer(shop, "/open") == 200
    finally:
        shop.mesh.apply(*before)


def test_without_a_certificate_of_the_mesh_our_services_hear_nobody(installed: Installed):
    for sidecar in installed.sidecars.values():
        at = f"{sidecar.inbound}:{sidecar.port}"
        with pytest.raises(httpx2.TransportError):
            httpx2.get(f"http://{at}/")
        with grpc.insecure_channel(at) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(CHECK)(check_request("/open", host=HOST), timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
