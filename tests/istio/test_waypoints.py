"""Ambient: what istiod sends to a waypoint of what is asked of it. No waypoint runs: a stock Envoy
lacks filters of Istio's own that a waypoint's listeners have, so a stream stands for one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from betterproto2 import Casing
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.extensions.filters.http.ext_authz.v3 import ExtAuthz
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from google.protobuf.json_format import ParseDict

from meshwarden.adapters.ads_source import METHOD
from meshwarden.adapters.envoy.access_log import EXT_AUTHZ, RATELIMIT
from meshwarden.adapters.istio import IstioOptions, LimitEntry, PolicyFacts, envoy_filters, names
from meshwarden.adapters.istio.descriptors import rate_limits
from meshwarden.adapters.istio.enforcement import at_gateway, at_sidecars, authorization_policy
from meshwarden.adapters.istio.gateways import GATEWAY_API
from meshwarden.adapters.istio.resilience import for_service
from meshwarden.adapters.istio.resilience_options import ResilienceOptions
from meshwarden.adapters.protobuf import message_class
from tests.support.istio_mesh import IstioMesh, namespace, running_istio
from tests.support.istiod import SYSTEM, proxy_bootstrap
from tests.support.processes import wait_until
from tests.support.shop_mesh import ORDERS, OURS, SHOP, STOCK, installation, mesh_config, service

pytestmark = [
    pytest.mark.timeout(240),
    # What istiod sends has fields that Envoy calls deprecated.
    pytest.mark.filterwarnings(r"ignore:\S+ is deprecated:DeprecationWarning"),
]
Document = dict[str, Any]
Request = message_class("envoy.service.discovery.v3.DiscoveryRequest")
Response = message_class("envoy.service.discovery.v3.DiscoveryResponse")
OPTIONS = IstioOptions(guarded_namespaces=(SHOP,))
FACTS = PolicyFacts(
    identity_headers=("x-user",), domain="shop", descriptors=((LimitEntry("rule", "limited"),),)
)
LABELS = {f"{GATEWAY_API}/gateway-name": "waypoint"}
OUR_LABELS = dict.fromkeys((names.AUTHORIZE_LABEL, names.LIMIT_LABEL), names.AT_SIDECAR)
WAYPOINT = {"group": GATEWAY_API, "kind": "Gateway", "name": "waypoint"}
EVERY_WAYPOINT = {"group": GATEWAY_API, "kind": "GatewayClass", "name": "istio-waypoint"}
ORDERS_SERVICE = {"group": "", "kind": "Service", "name": "orders"}
REQUESTS = "inbound-vip|8000|http|"
AUTHORIZER, LIMITER = OPTIONS.host("ext-authz"), OPTIONS.host("ratelimit")
SIGN = "sign-of-the-test"
INBOUND = names.SIDECAR_INBOUND


@pytest.fixture(scope="module")
def mesh() -> Iterator[IstioMesh]:
    """The shop's two Services, and a waypoint that both use."""
    ambient = {"PILOT_ENABLE_AMBIENT": "true"}
    services = [service(name, SHOP, {"app": name}, http=8000) for name in ("orders", "stock")]
    for one in services:
        one["metadata"]["labels"] = {"istio.io/use-waypoint": "waypoint"}
    spec = {
        "gatewayClassName": "istio-waypoint",
        # A Service that is there: nobody deploys here.
        "addresses": [{"type": "Hostname", "value": f"waypoint.{SHOP}.svc.cluster.local"}],
        "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
    }
    with running_istio(mesh_config(), gateway_api=True, environment=ambient) as running:
        running.apply(namespace(OURS), namespace(SHOP))
        running.apply(*(one for one in installation() if one["kind"] == "Service"), *services)
        running.apply(
            service("waypoint", SHOP, LABELS, mesh=15008),
            names.document(f"{GATEWAY_API}/v1", "Gateway", "waypoint", namespace=SHOP, spec=spec),
        )
        running.workload("waypoint-a", SHOP, LABELS, {"mesh": 15008})
        wait_until(lambda: {*managers(running)} == {ORDERS, STOCK}, "both use it", limit_seconds=20)
        yield running


def sent(mesh: IstioMesh, kind: str) -> list[bytes]:
    """What istiod sends of a kind to the waypoint, which has the labels of our sidecars, too."""
    port = mesh.istiod.xds_port
    labels = {**LABELS, **OUR_LABELS}
    bootstrap = proxy_bootstrap(
        port, role="waypoint", address="10.0.0.1", name="waypoint", namespace=SHOP, labels=labels
    )
    asked = Request(type_url=f"type.googleapis.com/{kind}")
    ParseDict(bootstrap["node"], asked.node)
    requests: SimpleQueue[bytes | None] = SimpleQueue()
    requests.put(asked.SerializeToString())
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_stream(METHOD)(iter(requests.get, None), timeout=10)
        try:
            answer = Response.FromString(next(call))
        finally:
            requests.put(None)
            call.cancel()
    return [one.value for one in answer.resources]


def managers(mesh: IstioMesh) -> dict[str, Any]:
    """What handles requests at the waypoint, by the Service's host."""
    found = {}
    for content in sent(mesh, "envoy.config.listener.v3.Listener"):
        for chain in Listener.parse(content).filter_chains:
            config = chain.filters[-1].typed_config
            if chain.name.startswith(REQUESTS) and config:
                found[chain.name.rpartition("|")[2]] = hcm.HttpConnectionManager.parse(config.value)
    return found


def filters(mesh: IstioMesh, host: str = ORDERS) -> list[str]:
    """The names of a Service's HTTP filters, in order."""
    return [one.name for one in managers(mesh)[host].http_filters]


def virtual_host(mesh: IstioMesh, host: str = ORDERS) -> Any:
    return managers(mesh)[host].route_config.virtual_hosts[0]


def clusters(mesh: IstioMesh) -> dict[str, Any]:
    found = map(Cluster.parse, sent(mesh, "envoy.config.cluster.v3.Cluster"))
    return {cluster.name: cluster for cluster in found}


@contextmanager
def in_force(mesh: IstioMesh, *these: Document, sign: str, host: str = ORDERS) -> Iterator[None]:
    """For the block. The last one puts the filter `sign` at `host`: once that is there, istiod
    knows those of its kind that came before.
    """
    with ExitStack() as stack:
        stack.callback(wait_until, lambda: sign not in filters(mesh, host), f"{sign} is gone")
        stack.enter_context(mesh.applied(*these))
        wait_until(lambda: sign in filters(mesh, host), f"{sign} is there")
        yield


def policy(place: str = SHOP, **where: Any) -> Document:
    return authorization_policy("all", place, rules=[{}], **where)


def limits(context: str, place: str = SHOP, **where: Any) -> Document:
    """Our rate-limit filter, and what it is to count. `WAYPOINT` is a context of Istio 1.31."""
    patches = [
        envoy_filters.ratelimit_patch(OPTIONS, FACTS, context),
        envoy_filters.limits_patch(OPTIONS, rate_limits(FACTS, {}), context),
    ]
    if context == "WAYPOINT":
        for patch in patches:
            patch["match"].pop("listener", None)
            patch["match"]["waypoint"] = {}
    return envoy_filters.envoy_filter("limits", patches, namespace=place, priority=10, **where)


def route() -> Document:
    rule = {
        "backendRefs": [{"name": "orders", "port": 8000}],
        "retry": {"attempts": 1, "codes": [503]},
        "timeouts": {"request": "3s"},
    }
    spec = {"parentRefs": [ORDERS_SERVICE], "rules": [rule]}
    return names.document(f"{GATEWAY_API}/v1", "HTTPRoute", "orders", namespace=SHOP, spec=spec)


def test_a_policy_that_names_the_waypoint_asks_our_provider_for_its_services(mesh: IstioMesh):
    with in_force(mesh, policy(targets=[WAYPOINT]), sign=EXT_AUTHZ):
        assert EXT_AUTHZ in filters(mesh, STOCK)
        (found,) = (one for one in managers(mesh)[ORDERS].http_filters if one.name == EXT_AUTHZ)
        assert f"outbound|9001||{AUTHORIZER}" in clusters(mesh)
    config = ExtAuthz.parse(found.typed_config.value).to_dict(casing=Casing.SNAKE)
    asked = {"cluster_name": f"outbound|9001||{AUTHORIZER}", "authority": AUTHORIZER}
    assert config["grpc_service"] == {"envoy_grpc": asked, "timeout": "0.200s"}, "no retry"
    assert config["status_on_error"] == {"code": "ServiceUnavailable"}
    assert "failure_mode_allow" not in config


def test_a_policy_that_names_a_service_asks_for_that_one_alone(mesh: IstioMesh):
    with in_force(mesh, policy(targets=[ORDERS_SERVICE]), sign=EXT_AUTHZ):
        assert EXT_AUTHZ not in filters(mesh, STOCK)


@pytest.mark.parametrize(
    "ignored",
    [policy(selected=LABELS), policy(SYSTEM, selected=OUR_LABELS), policy()],
    ids=["by its label", "by ours", "for the namespace"],
)
def test_a_policy_without_targets_does_nothing_there(mesh: IstioMesh, ignored: Document):
    stock = {**ORDERS_SERVICE, "name": "stock"}
    sign = authorization_policy("stock", SHOP, rules=[{}], targets=[stock])
    with in_force(mesh, ignored, sign, sign=EXT_AUTHZ, host=STOCK):
        assert EXT_AUTHZ not in filters(mesh, ORDERS)


@pytest.mark.parametrize(
    "ignored",
    [
        [*at_gateway(OPTIONS, FACTS), *at_sidecars(OPTIONS, FACTS)],
        [limits(INBOUND, SYSTEM)],
        [limits(INBOUND, selected=LABELS)],
        [limits(INBOUND, target=ORDERS_SERVICE)],
        [limits(names.GATEWAY, target=WAYPOINT)],
        [limits("WAYPOINT", target=WAYPOINT)],
    ],
    ids=["rendered", "in the root", "by its label", "a Service's", "a gateway's", "a waypoint's"],
)
def test_of_our_filters_a_waypoint_gets_none(mesh: IstioMesh, ignored: list[Document]):
    before = filters(mesh)
    reaching = envoy_filters.removal_patch(OPTIONS, FACTS, INBOUND)
    reaching["patch"]["value"]["name"] = SIGN
    sign = envoy_filters.envoy_filter(
        "sign", [reaching], namespace=SHOP, priority=envoy_filters.FIRST, target=WAYPOINT
    )
    with in_force(mesh, *ignored, sign, sign=SIGN):
        assert filters(mesh) == [SIGN, *before]
        assert not virtual_host(mesh).rate_limits
        assert not virtual_host(mesh).request_headers_to_remove


@pytest.mark.parametrize(
    "targeted",
    [limits(INBOUND, target=WAYPOINT), limits(INBOUND, SYSTEM, target=EVERY_WAYPOINT)],
    ids=["the Gateway", "the class"],
)
def test_a_sidecars_filter_that_names_it_gets_there_alone(mesh: IstioMesh, targeted: Document):
    """Istio promises nothing of the kind: the limiter's cluster is not sent along, and a Service
    with a route has no limits.
    """
    with in_force(mesh, targeted, sign=RATELIMIT):
        assert virtual_host(mesh).rate_limits
        assert not any(name.endswith(LIMITER) for name in clusters(mesh))
        with mesh.applied(route()):
            wait_until(lambda: not virtual_host(mesh).rate_limits, "the route has no limits")
            assert virtual_host(mesh, STOCK).rate_limits
        wait_until(lambda: virtual_host(mesh).rate_limits, "the route is gone")


def test_outlier_detection_pools_and_the_retries_of_a_route_hold_there(mesh: IstioMesh):
    options = ResilienceOptions(name="orders", namespace=SHOP, host=ORDERS, port=8000)
    rule, _ = for_service(options)
    with mesh.applied(rule, route()):
        wait_until(lambda: clusters(mesh)[REQUESTS + ORDERS].outlier_detection, "it ejects")
        wait_until(lambda: "orders" in virtual_host(mesh).routes[0].name, "the route is there")
        pools = clusters(mesh)[REQUESTS + ORDERS].circuit_breakers.thresholds[0]
        action = virtual_host(mesh).routes[0].route
    assert pools.max_connections == options.connections_at_most
    assert (action.timeout, action.retry_policy.num_retries) == (timedelta(seconds=3), 1)
