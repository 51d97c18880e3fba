"""What `meshwarden render istio` writes: that it agrees with the policies, with the edge proxy, and
with what is committed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from meshwarden.adapters.envoy import EnvoyOptions
from meshwarden.adapters.envoy.filters import ext_authz_filter
from meshwarden.adapters.istio import (
    IstioOptions,
    LimitEntry,
    PolicyFacts,
    documents_by_file,
    files,
    mesh_config,
)
from meshwarden.adapters.istio.descriptors import rate_limits
from meshwarden.adapters.istio.gateways import gateway_api, ingress
from meshwarden.cli.mesh_facts import policy_facts
from meshwarden.core.faults import Misconfigured
from tests.support.command_line import command_line
from tests.support.processes import CHECKOUT

EXAMPLES = CHECKOUT / "examples"
ISTIO = CHECKOUT / "istio"
HEADERS = ("x-auth-principal", "x-user")
FACTS = PolicyFacts(
    hosts=("shop.example.com",),
    identity_headers=HEADERS,
    domain="shop",
    descriptors=((LimitEntry("rule", "limited"), LimitEntry("principal")),),
)


def rendered(options: IstioOptions | None = None, facts: PolicyFacts = FACTS) -> list[Any]:
    """Every document of the base."""
    if options is None and facts is FACTS:
        return usual()
    documents = documents_by_file(options or IstioOptions(), facts).values()
    return [one for several in documents for one in several]


@cache
def usual() -> list[Any]:
    return rendered(IstioOptions())


def of_kind(kind: str, documents: list[Any], *, named: str = "") -> list[Any]:
    return [d for d in documents if d["kind"] == kind and named in d["metadata"]["name"]]


def patches(documents: list[Any], *, named: str = "") -> Iterator[tuple[int, Any]]:
    """The priority of each patch, and the patch."""
    for document in of_kind("EnvoyFilter", documents, named=named):
        for patch in document["spec"]["configPatches"]:
            yield document["spec"]["priority"], patch


def config(documents: list[Any], kind: str) -> list[Any]:
    """The `typed_config` of every filter of that type that is patched in."""
    values = [patch["patch"]["value"] for _, patch in patches(documents)]
    found = [value.get("typed_config", {}) for value in values]
    return [one for one in found if str(one.get("@type")).endswith(f".{kind}")]


def test_what_is_committed_is_what_is_rendered_for_the_quickstart():
    wanted = files(IstioOptions(), policy_facts(EXAMPLES / "quickstart"))
    committed = {
        path.relative_to(ISTIO).as_posix(): path.read_text()
        for place in ("base", "components", "install")
        for path in (ISTIO / place).rglob("*.yaml")
    }
    assert committed == wanted, "run `meshwarden render istio --out istio`"


@pytest.mark.parametrize("folder", sorted(EXAMPLES.glob("*/")), ids=lambda path: path.name)
def test_every_example_renders_with_its_own_hosts_headers_and_resources(folder: Path):
    facts = policy_facts(folder)
    documents = rendered(facts=facts)
    removed = str(config(documents, "HeaderMutation"))
    for name in facts.identity_headers:
        assert name.replace("-", "[^a-z0-9]") in removed
    assert len(facts.resources) == sum(
        d["apiVersion"] == "meshwarden.io/v1alpha1" for d in documents
    )
    everywhere = ("Namespace", "ClusterRole", "ClusterRoleBinding")
    assert all(d["metadata"].get("namespace") for d in documents if d["kind"] not in everywhere)


def test_a_gateway_serves_the_policies_hosts_and_no_service_of_the_cluster():
    facts = policy_facts(EXAMPLES / "public_website")
    (gateway,) = ingress(IstioOptions(), facts)
    assert gateway["spec"]["servers"][0]["hosts"] == list(facts.hosts)
    assert "orders.shop.svc.cluster.local" in policy_facts(EXAMPLES / "microservices").hosts
    inside = PolicyFacts(hosts=("orders", "orders.shop.svc", "orders.shop.svc.cluster.local"))
    assert ingress(IstioOptions(), inside) == gateway_api(IstioOptions(), inside) == []


def test_with_a_certificate_the_gateway_redirects_to_https():
    options = IstioOptions(gateway_tls_secret="shop-tls")
    (gateway,) = ingress(options, FACTS)
    plain, secure = gateway["spec"]["servers"]
    assert plain["tls"] == {"httpsRedirect": True}
    assert secure["tls"]["credentialName"] == "shop-tls"
    listener = gateway_api(options, FACTS)[0]["spec"]["listeners"][0]
    assert (listener["port"], listener["hostname"]) == (443, "shop.example.com")


def test_the_gateway_api_form_enforces_the_same_by_name():
    _, policy, *filters = gateway_api(IstioOptions(), FACTS)
    target = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "meshwarden"}
    assert policy["spec"]["targetRefs"] == [target]
    assert all(one["spec"]["targetRefs"] == [target] for one in filters)
    by_label = of_kind("EnvoyFilter", rendered(), named="meshwarden-gateway")
    assert [one["spec"]["configPatches"] for one in filters] == [
        one["spec"]["configPatches"] for one in by_label
    ]


def test_a_request_is_checked_whatever_its_host_but_for_hosts_that_are_named():
    (policy,) = of_kind("AuthorizationPolicy", rendered(), named="meshwarden-gateway")
    assert policy["spec"]["rules"] == [{}]
    options = IstioOptions.model_validate({"unguarded_hosts": "status.example.com"})
    (policy,) = of_kind("AuthorizationPolicy", rendered(options), named="meshwarden-gateway")
    (rule,) = policy["spec"]["rules"]
    assert rule["to"][0]["operation"]["notHosts"] == ["status.example.com", "status.example.com:*"]


def test_times_and_failure_modes_are_those_of_the_edge_proxy():
    edge, mesh = EnvoyOptions(), IstioOptions()
    assert mesh.ext_authz_timeout_seconds == edge.ext_authz_timeout_seconds
    assert mesh.ratelimit_timeout_seconds == edge.ratelimit_timeout_seconds
    provider = mesh_config(mesh, FACTS)["extensionProviders"][0]["envoyExtAuthzGrpc"]
    assert (provider["timeout"], provider["failOpen"], provider["statusOnError"]) == (
        "0.2s",
        False,
        str(int(ext_authz_filter(edge).status_on_error.code)),  # type: ignore[union-attr]
    )
    for limiter in config(rendered(), "RateLimit"):
        assert limiter["timeout"] == "0.150s"
        assert limiter["failure_mode_deny"] is False
    denying = IstioOptions(ratelimit_failure_mode="deny")
    assert all(c["failure_mode_deny"] for c in config(rendered(denying), "RateLimit"))


def test_what_istiod_makes_from_the_provider_is_not_said_a_second_time():
    for patched in config(rendered(), "ExtAuthz"):
        assert patched["encode_raw_headers"] is patched["validate_mutations"] is True
        assert set(patched["grpc_service"]) == {"retry_policy"}
        assert not {"status_on_error", "failure_mode_allow", "with_request_body"} & set(patched)


def test_bodies_and_certificates_are_sent_where_a_policy_reads_them():
    reading = PolicyFacts(identity_headers=HEADERS, reads_body=True, reads_certificate=True)
    authorizer = mesh_config(IstioOptions(), reading)["extensionProviders"][0]["envoyExtAuthzGrpc"]
    assert authorizer["includeRequestBodyInCheck"]["maxRequestBytes"] == 8192
    assert all(c["include_peer_certificate"] for c in config(rendered(facts=reading), "ExtAuthz"))
    authorizer = mesh_config(IstioOptions(), FACTS)["extensionProviders"][0]["envoyExtAuthzGrpc"]
    assert "includeRequestBodyInCheck" not in authorizer
    assert not any("include_peer_certificate" in c for c in config(rendered(), "ExtAuthz"))


@given(st.sampled_from(HEADERS), st.data())
def test_no_spelling_of_an_identity_header_stays(name: str, data: st.DataObject):
    unusual = st.sampled_from("-_.!#$%&'*+^`|~")
    spelling = "".join(data.draw(unusual) if letter == "-" else letter for letter in name)
    (removal, *_) = config(rendered(), "HeaderMutation")
    found = [
        one["remove_on_match"]["key_matcher"]["safe_regex"]["regex"]
        for one in removal["mutations"]["request_mutations"]
    ]
    # Envoy matches the whole name.
    assert any(re.fullmatch(pattern, spelling) for pattern in found)
    assert not any(re.fullmatch(pattern, f"{spelling}-2") for pattern in found)


def test_client_sent_headers_are_removed_before_any_other_filter():
    first = [p for p, one in patches(rendered()) if one["patch"]["operation"] == "INSERT_FIRST"]
    others = [p for p, one in patches(rendered()) if one["patch"]["operation"] != "INSERT_FIRST"]
    assert min(first) > max(others)


@pytest.mark.parametrize("version", ["1.31.0", "1.31", "1.31-alpha.0", "1.30.4"])
def test_filters_are_for_the_versions_that_are_named(version: str):
    options = IstioOptions.model_validate({"istio_versions": "1.30,1.31"})
    (pattern,) = {one["match"]["proxy"]["proxyVersion"] for _, one in patches(rendered(options))}
    assert re.search(pattern, version)
    for other in ("1.3.1", "1.3", "1.310.0", "1.29.1", "11.31.0"):
        assert not re.search(pattern, other)


def test_labels_choose_what_sidecars_ask_and_namespaces_need_none():
    options = IstioOptions(guarded_namespaces=("shop",))
    documents = [d for d in rendered(options) if d["metadata"].get("namespace") == "shop"]
    by_label = of_kind("EnvoyFilter", rendered(), named="meshwarden-sidecar")
    assert len(of_kind("AuthorizationPolicy", documents)) == 1
    assert {d["metadata"]["name"] for d in of_kind("EnvoyFilter", documents)} == {
        one["metadata"]["name"] for one in by_label
    }
    assert not any("workloadSelector" in d["spec"] or "selector" in d["spec"] for d in documents)
    for one in by_label:
        limits = "ratelimit" in one["metadata"]["name"]
        label = "meshwarden.io/limit" if limits else "meshwarden.io/authorize"
        assert one["spec"]["workloadSelector"]["labels"] == {label: "sidecar"}


def test_an_authorizer_that_would_ask_itself_is_refused():
    with pytest.raises(ValueError, match="where the authorizer itself runs"):
        IstioOptions(guarded_namespaces=("meshwarden-system",))


def test_identity_headers_from_anybody_but_the_gateway_are_denied():
    (policy,) = of_kind("AuthorizationPolicy", rendered(), named="identity-from-gateway")
    keys = [rule["when"][0]["key"] for rule in policy["spec"]["rules"]]
    mixed = ("x-auth-principal", "x-auth_principal", "x_auth-principal", "x_auth_principal")
    assert keys == [f"request.headers[{name}]" for name in (*mixed, "x-user", "x_user")]
    principals = policy["spec"]["rules"][0]["from"][0]["source"]["notPrincipals"]
    assert "cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account" in principals


def test_more_spellings_than_a_policy_takes_are_refused_with_the_header_to_shorten():
    long = "x-" * 12 + "user"
    with pytest.raises(Misconfigured, match=f"fewer dashes than '{long}'"):
        rendered(facts=PolicyFacts(identity_headers=("x-user", long)))


def test_namespaces_that_may_ask_us_are_named_to_istio_and_to_the_network():
    options = IstioOptions(guarded_namespaces=("shop",), caller_namespaces=("web",))
    documents = rendered(options)
    (policy,) = [
        d for d in of_kind("AuthorizationPolicy", documents) if d["metadata"]["name"] == "ratelimit"
    ]
    wanted = ["istio-system", "shop", "web"]
    assert policy["spec"]["rules"][0]["from"] == [{"source": {"namespaces": wanted}}]
    (network, *_) = of_kind("NetworkPolicy", documents, named="ratelimit")
    asked = network["spec"]["ingress"][0]["from"][0]["namespaceSelector"]
    assert asked["matchExpressions"][0]["values"] == wanted


def test_descriptors_are_filled_in_from_decision_request_connection_and_configuration():
    keys = ("rule", "tenant", "method", "x", "remote_address")
    entries = (*map(LimitEntry, keys), LimitEntry("generic_key", "all"))
    facts = PolicyFacts(descriptors=(entries,), metadata_names=frozenset({"tenant"}))
    (limit,) = rate_limits(facts, {"x": "x-plan"})
    kinds = [next(iter(action)) for action in limit["actions"]]
    assert kinds == [
        *("metadata", "metadata", "request_headers", "request_headers"),
        *("remote_address", "generic_key"),
    ]
    assert limit["actions"][3]["request_headers"]["header_name"] == "x-plan"
    assert limit["actions"][5]["generic_key"]["descriptor_value"] == "all"


def test_descriptors_that_differ_in_their_limits_alone_are_asked_for_once():
    facts = policy_facts(EXAMPLES / "partner_api")
    assert len(facts.descriptors) == 4
    assert len(rate_limits(facts, {})) == 1


def test_keys_that_nobody_could_fill_in_are_refused_each_with_what_to_write():
    facts = PolicyFacts(
        domain="d",
        descriptors=((LimitEntry("plan"),), (LimitEntry("rule"), LimitEntry("generic_key"))),
    )
    with pytest.raises(Misconfigured) as caught:
        rate_limits(facts, {})
    first, second = map(str, caught.value.problems)
    assert "domain 'd', descriptor plan: nothing tells" in first
    assert "--set descriptor_headers=plan=HEADER" in first
    assert "what 'generic_key' is" in second


def test_one_domain_is_asked_for_and_chosen_where_there_are_more(tmp_path: Path):
    limit = "{{unit: day, requests_per_unit: 1}}"
    text = f"domain: {{}}\ndescriptors: [{{{{key: rule, rate_limit: {limit}}}}}]\n"
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(text.format(name))
    with pytest.raises(Misconfigured, match=r"there are one, two .*--set ratelimit_domain"):
        policy_facts(tmp_path)
    with pytest.raises(Misconfigured, match="no such domain"):
        policy_facts(tmp_path, "three")
    facts = policy_facts(tmp_path, "two")
    assert {c["domain"] for c in config(rendered(facts=facts), "RateLimit")} == {"two"}
    # Files of envoyproxy/ratelimit are resources in a cluster.
    assert [one["metadata"]["name"] for one in facts.resources] == ["one", "two"]


def test_without_limits_nothing_asks_the_rate_limit_service():
    assert config(rendered(facts=PolicyFacts(identity_headers=HEADERS)), "RateLimit") == []


def test_pods_have_no_privileges_and_their_times_fit_together():
    documents = rendered()
    (space,) = of_kind("Namespace", documents)
    assert space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for deployment in of_kind("Deployment", documents):
        template = deployment["spec"]["template"]
        pod = template["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        values = {one["name"]: one.get("value", "") for one in container["env"]}
        ends = sum(
            float(v) for k, v in values.items() if k.endswith(("DRAIN_SECONDS", "STOP_SECONDS"))
        )
        sidecar = yaml.safe_load(template["metadata"]["annotations"]["proxy.istio.io/config"])
        lives = float(sidecar["terminationDrainDuration"].removesuffix("s"))
        assert ends < lives < pod["terminationGracePeriodSeconds"]


def test_signing_and_api_keys_are_read_from_a_secret_where_a_policy_needs_them():
    def variables(facts: PolicyFacts) -> set[str]:
        (deployment,) = of_kind("Deployment", rendered(facts=facts), named="ext-authz")
        return {
            one["name"] for one in deployment["spec"]["template"]["spec"]["containers"][0]["env"]
        }

    plain, both = variables(FACTS), variables(PolicyFacts(reads_api_keys=True, signs_tokens=True))
    assert both - plain == {
        "EXT_AUTHZ_KEYS__FILE_SECRET",
        "EXT_AUTHZ_KEYS__PEPPER_SECRET",
        "EXT_AUTHZ_IDENTITY_TOKENS__KEYS_SECRET",
        "EXT_AUTHZ_IDENTITY_TOKENS__ISSUER",
    }
    assert policy_facts(EXAMPLES / "microservices").signs_tokens
    assert policy_facts(EXAMPLES / "quickstart").reads_api_keys


def test_our_services_tell_their_part_of_a_trace_that_the_proxy_keeps():
    for deployment in of_kind("Deployment", rendered(IstioOptions(otlp_service="traces.example"))):
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        told = {
            one["name"].partition("_TRACING__")[2]: one["value"]
            for one in container["env"]
            if "_TRACING__" in one["name"]
        }
        assert told == {
            "OTLP_ENDPOINT": "http://traces.example:4318/v1/traces",
            "SAMPLE_RATIO": "0",
        }
    without = IstioOptions(otlp_service="")
    assert "TRACING" not in str(rendered(without))
    assert of_kind("Telemetry", rendered(without)) == []
    assert len(mesh_config(without, FACTS)["extensionProviders"]) == 1


def test_ports_say_what_they_speak():
    for service in of_kind("Service", rendered()):
        for port in service["spec"]["ports"]:
            assert port["name"].partition("-")[0] == port["appProtocol"]


def test_the_command_writes_below_a_folder_prints_without_one_and_lists_its_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    run = command_line(monkeypatch, capsys)
    folder = EXAMPLES / "public_website"
    asked = ("render", "istio", "--config", folder, "--set", "replicas=4")
    written = run(*asked, "--out", tmp_path)
    assert written.status == 0, written.errors
    assert "replicas: 4" in (tmp_path / "base/ext-authz.yaml").read_text()
    assert str(tmp_path / "install/istiod-values.yaml") in written.output
    printed = run(*asked)
    assert "# base/ext-authz.yaml" in printed.output
    assert list(yaml.load_all(printed.output, yaml.CSafeLoader))
    listed = run("render", "istio", "--options").output
    assert "gateway_labels=istio=ingressgateway  #" in listed
    assert "istio_versions=1.31  #" in listed


def test_every_wrong_option_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run = command_line(monkeypatch, capsys)
    wrong = ("replica=4", "descriptor_headers=tenant", "istio_versions=1.x")
    done = run("render", "istio", *(word for one in wrong for word in ("--set", one)))
    assert done.status == 2
    for told in ("did you mean 'replicas'?", "write KEY=VALUE", "istio_versions=1.x: String"):
        assert told in done.errors
