"""What `meshwarden check --istio` finds is what `istioctl` takes and a real mesh does: each mistake
is found, validated without a fault, applied, and its silent effect seen at a real Envoy.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from meshwarden.adapters.envoy.typed_patches import typed_faults
from meshwarden.core.documents import parse
from meshwarden.core.istio_lint.check import findings
from tests.support.envoy import RunningEnvoy
from tests.support.istio_mesh import (
    IstioMesh,
    config_dump,
    http_filters,
    mesh_config_map,
    namespace,
)
from tests.support.istio_mesh import wait_for_status as answered
from tests.support.kubernetes_api import tool
from tests.support.ports import free_port
from tests.support.processes import wait_until
from tests.support.replica_process import running_replica
from tests.support.shop_mesh import ORDERS, mesh_config, service
from tests.support.tokens import jwks, rsa_signer

pytestmark = pytest.mark.timeout(180)

PLACE = "mistakes"
HOST = "mistakes.example.com"
LABELS = {"istio": PLACE}
SECURITY, NETWORKING = "security.istio.io/v1", "networking.istio.io/v1"


@dataclass
class Gateway:
    """A gateway of this file's own, and a client of it."""

    mesh: IstioMesh
    envoy: RunningEnvoy
    port: int
    client: httpx2.Client
    folder: Path

    def apply(self, rule: str, *documents: dict[str, Any], is_refused: str = "") -> None:
        """Apply a mistake that our check finds, and `istioctl validate` does not, unless it
        `is_refused`, in these words; the API server takes it all the same.
        """
        text = yaml.safe_dump_all(documents)
        found = findings(parse("mistake.yaml", text.encode()), typed_faults)
        assert f"MW-ISTIO-{rule}" in {one.rule for one in found}, found
        file = self.folder / "mistake.yaml"
        file.write_text(text)
        said = subprocess.run(
            [str(tool("bin/istioctl")), "validate", "-f", str(file)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        told = said.stdout + said.stderr
        assert (is_refused in told) if is_refused else said.returncode == 0, told
        self.mesh.apply(*documents)

    def status(self, path: str, method: str = "GET", host: str = HOST) -> int:
        """Of a request on a connection of its own: a listener that is replaced drains others. 0
        where it was cut.
        """
        headers = {"host": host, "connection": "close"}
        url = f"http://127.0.0.1:{self.port}{path}"
        try:
            return httpx2.request(method, url, headers=headers, timeout=10).status_code
        except httpx2.TransportError:
            return 0


@pytest.fixture(scope="module")
def standing(
    mesh: IstioMesh, authorizer: object, good: object, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """The gateway, open to everyone: what a test applies is all there is."""
    del authorizer, good
    port = free_port()
    listener = {"number": port, "name": "http", "protocol": "HTTP"}
    mesh.apply(
        namespace(PLACE),
        resource(
            NETWORKING,
            "Gateway",
            {
                "selector": LABELS,
                "servers": [{"port": listener, "bind": "127.0.0.1", "hosts": ["*"]}],
            },
        ),
        resource(NETWORKING, "VirtualService", routes(ORDERS, 8000)),
    )
    with (
        mesh.proxy("router", "gateway-of-mistakes", PLACE, LABELS) as envoy,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client,
    ):
        answered(client, "/", 200, headers={"host": HOST})
        folder = tmp_path_factory.mktemp("mistakes")
        yield Gateway(mesh, envoy, port, client, folder)


@pytest.fixture
def gateway(standing: Gateway) -> Iterator[Gateway]:
    yield standing
    for kind in ("authorizationpolicy", "envoyfilter"):
        standing.mesh.api.kubectl("delete", kind, "--all", "-n", PLACE)
    answered(standing.client, "/", 200, headers={"host": HOST})


def resource(
    version: str, kind: str, spec: dict[str, Any], name: str = PLACE, **annotations: str
) -> dict[str, Any]:
    metadata = {"name": name, "namespace": PLACE, "annotations": annotations}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def routes(host: str, port: int, **route: Any) -> dict[str, Any]:
    destination = {"host": host, "port": {"number": port}}
    return {
        "hosts": [HOST],
        "gateways": [PLACE],
        "http": [{"name": "main", **route, "route": [{"destination": destination}]}],
    }


def policy(operation: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """A CUSTOM policy for the gateway; what the authorizer is asked about it denies, as it has no
    policy for the host.
    """
    rules = [{"to": [{"operation": operation}]}] if operation else [{}]
    return resource(
        SECURITY,
        "AuthorizationPolicy",
        {
            "selector": {"matchLabels": LABELS},
            "action": "CUSTOM",
            "provider": {"name": "meshwarden-ext-authz"},
            "rules": rules,
            **spec,
        },
    )


def envoy_filter(patch: dict[str, Any], name: str = PLACE, **spec: Any) -> dict[str, Any]:
    selected = {"workloadSelector": {"labels": LABELS}, "configPatches": [patch], **spec}
    return resource("networking.istio.io/v1alpha3", "EnvoyFilter", selected, name)


def lua(name: str, operation: str = "INSERT_FIRST", sub_filter: str = "") -> dict[str, Any]:
    chain: dict[str, Any] = {"name": "envoy.filters.network.http_connection_manager"}
    if sub_filter:
        chain["subFilter"] = {"name": sub_filter}
    kind = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"
    config = {"@type": kind, "default_source_code": {"inline_string": "-- nothing"}}
    return {
        "applyTo": "HTTP_FILTER",
        "match": {"context": "GATEWAY", "listener": {"filterChain": {"filter": chain}}},
        "patch": {"operation": operation, "value": {"name": name, "typed_config": config}},
    }


def test_a_protected_path_leaves_its_slash_open(gateway: Gateway):
    gateway.apply("022", policy({"paths": ["/admin"]}))
    answered(gateway.client, "/admin", 403, headers={"host": HOST})
    assert gateway.status("/admin/") == 200
    assert gateway.status("/admin/users") == 200


def test_an_exempted_prefix_exempts_its_neighbours(gateway: Gateway):
    gateway.apply("023", policy({"notPaths": ["/open*"]}))
    answered(gateway.client, "/orders", 403, headers={"host": HOST})
    assert gateway.status("/openadmin") == 200


def test_a_protected_host_is_passed_by_naming_a_port(gateway: Gateway):
    gateway.apply("025", policy({"hosts": [HOST]}))
    answered(gateway.client, "/", 403, headers={"host": HOST})
    assert gateway.status("/", host=f"{HOST}:8080") == 200


def test_a_method_in_small_letters_matches_no_request(gateway: Gateway):
    gateway.apply("026", policy({"methods": ["get", "POST"]}))
    wait_until(lambda: gateway.status("/", "POST") == 403, "the policy is in force")
    assert gateway.status("/", "GET") == 200


def test_a_path_with_a_query_matches_no_request(gateway: Gateway):
    gateway.apply("027", policy({"paths": ["/a?x=1", "/b"]}))
    answered(gateway.client, "/b", 403, headers={"host": HOST})
    assert gateway.status("/a?x=1") == 200


def test_a_provider_that_is_not_there_denies_everything(gateway: Gateway):
    """Without a word to whoever applied it; the authorizer is never asked."""
    named = {"provider": {"name": "meshwarden"}}
    mesh_config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "istio-of-the-check", "namespace": PLACE},
        "data": {"mesh": "extensionProviders: [{name: meshwarden-ext-authz}]"},
    }
    gateway.apply("002", policy(**named), mesh_config)
    answered(gateway.client, "/", 403, headers={"host": HOST})
    assert gateway.client.get("/", headers={"host": HOST}).text == "RBAC: access denied"


def test_a_dry_run_of_custom_is_in_force(gateway: Gateway):
    found = policy()
    found["metadata"]["annotations"] = {"istio.io/dry-run": "true"}
    gateway.apply("020", found, is_refused="only supports action ALLOW/DENY")
    answered(gateway.client, "/", 403, headers={"host": HOST})


def test_a_selector_that_is_misspelt_guards_nothing(gateway: Gateway):
    """A second policy, which is in force, shows that istiod has read the first."""
    first = policy(selector={"matchLabels": {"istio": "mistake"}})
    seen = {**policy({"paths": ["/seen", "/seen/*"]})}
    seen["metadata"] = {**seen["metadata"], "name": "seen"}
    own = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": PLACE}}
    own["metadata"]["labels"] = LABELS
    found = findings(parse("x", yaml.safe_dump_all([first, own]).encode()))
    assert "MW-ISTIO-028" in {one.rule for one in found}
    gateway.mesh.apply(first)
    gateway.mesh.apply(seen)
    answered(gateway.client, "/seen", 403, headers={"host": HOST})
    assert gateway.status("/") == 200


def test_the_name_of_a_provider_is_compared_as_a_prefix(gateway: Gateway):
    config = mesh_config()
    config["extensionProviders"].append(
        {**config["extensionProviders"][0], "name": "meshwarden-ext-authz-v2"}
    )
    text = yaml.safe_dump(mesh_config_map(config))
    found = findings(parse("mistake.yaml", text.encode()))
    assert "MW-ISTIO-001" in {one.rule for one in found}
    gateway.mesh.apply(policy())
    answered(gateway.client, "/", 403, headers={"host": HOST})
    dumped = json.dumps(config_dump(gateway.envoy))
    assert '{"prefix": "istio-ext-authz-meshwarden-ext-authz' in dumped


def test_a_patch_beside_a_filter_that_is_not_there_does_nothing(gateway: Gateway):
    gateway.apply("060", envoy_filter(lua("beside", "INSERT_BEFORE", "envoy.router"), priority=1))
    gateway.mesh.apply(envoy_filter(lua("seen"), "seen"))
    wait_until(lambda: "seen" in names(gateway), "the other is there")
    assert "beside" not in names(gateway)


def test_a_patch_on_a_route_of_another_name_does_nothing(gateway: Gateway):
    limits = [{"actions": [{"generic_key": {"descriptor_value": "mine"}}]}]
    patch = {
        "applyTo": "HTTP_ROUTE",
        "match": {
            "context": "GATEWAY",
            "routeConfiguration": {"vhost": {"route": {"name": "mian"}}},
        },
        "patch": {"operation": "MERGE", "value": {"route": {"rate_limits": limits}}},
    }
    gateway.apply("062", envoy_filter(patch))
    gateway.mesh.apply(envoy_filter(lua("seen"), "seen"))
    wait_until(lambda: "seen" in names(gateway), "the other is there")
    assert "rate_limits" not in json.dumps(config_dump(gateway.envoy))


def test_a_later_first_stands_in_front_of_the_stripping(gateway: Gateway):
    kind = "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
    mutations = {"request_mutations": [{"remove": "x-user"}]}
    stripping = lua("strip")
    stripping["patch"]["value"]["typed_config"] = {"@type": kind, "mutations": mutations}
    gateway.apply("043", envoy_filter(stripping, "strip"), envoy_filter(lua("reads"), "z-reads"))
    wait_until(lambda: "reads" in names(gateway), "both are there")
    order = names(gateway)
    assert order.index("reads") < order.index("strip")


def test_a_field_that_does_not_exist_is_left_out_without_a_word(gateway: Gateway):
    patch = lua("unknown")
    patch["patch"]["value"]["typed_config"]["inline_sauce"] = "x"
    gateway.apply("048", envoy_filter(patch, priority=1))
    gateway.mesh.apply(envoy_filter(lua("seen"), "seen"))
    wait_until(lambda: "seen" in names(gateway), "the other is there")
    assert "unknown" in names(gateway)
    assert "inline_sauce" not in json.dumps(config_dump(gateway.envoy))


def test_the_authorizer_is_asked_before_a_token_is_validated(gateway: Gateway):
    selector = {"matchLabels": LABELS}
    keys = json.dumps(jwks(rsa_signer()))
    rule = {"issuer": "https://issuer.example.com", "jwks": keys}
    tokens = {"selector": selector, "jwtRules": [rule]}
    gateway.apply("021", policy(), resource(SECURITY, "RequestAuthentication", tokens))
    wait_until(lambda: "envoy.filters.http.jwt_authn" in names(gateway), "both are in force")
    order = names(gateway)
    asked = order.index("envoy.filters.http.ext_authz")
    assert asked < order.index("envoy.filters.http.jwt_authn")
    gateway.mesh.api.kubectl("delete", "requestauthentication", "--all", "-n", PLACE)


def names(gateway: Gateway) -> list[str]:
    return http_filters(gateway.envoy, gateway.port)


def test_a_write_is_executed_three_times(gateway: Gateway):
    with running_replica("writes") as replica:
        gateway.mesh.apply(service("writes", PLACE, {"app": "writes"}, http=8000))
        gateway.mesh.workload("writes", PLACE, {"app": "writes"}, {"http": replica.port})
        replica.mode("unavailable")
        host = f"writes.{PLACE}.svc.cluster.local"
        retries = {"attempts": 2, "perTryTimeout": "1s", "retryOn": "5xx"}
        spec = routes(host, 8000, timeout="5s", retries=retries)
        before = routes(ORDERS, 8000)
        gateway.apply("070", resource(NETWORKING, "VirtualService", spec))
        try:
            wait_until(lambda: gateway.status("/seen") == 503, "the replica is asked")
            assert gateway.status("/once", "POST") == 503
            assert replica.executed()["POST /once"] == 3
        finally:
            gateway.mesh.apply(resource(NETWORKING, "VirtualService", before))
