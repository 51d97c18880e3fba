"""Whose word counts in the cluster, and what our services may read: as rendered for a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshwarden.adapters.istio import IstioOptions, PolicyFacts
from meshwarden.adapters.istio.manifests import documents_by_file
from meshwarden.cli.mesh_facts import policy_facts
from meshwarden.core.faults import Misconfigured
from meshwarden.core.ownership import HOST, parse_ownership
from tests.support.tokens import ec_signer, jwks

SHOP = """\
apiVersion: meshwarden.io/v1alpha1
kind: TokenIssuer
metadata: {{name: idp, namespace: shop}}
spec: {{issuer: "https://idp.example.com", audiences: [shop], jwks: {{file: {file}}}}}
---
apiVersion: meshwarden.io/v1alpha1
kind: AccessPolicy
metadata: {{name: orders, namespace: shop}}
spec:
  hosts: [Shop.example.com]
  identify: [{{jwt: {{issuers: [idp]}}}}]
  rules: [{{name: all, paths: ["/**"]}}]
---
apiVersion: meshwarden.io/v1alpha1
kind: RateLimit
metadata: {{name: limits, namespace: shop}}
spec: {{domain: shop, descriptors: [{{key: rule, rate_limit: {{unit: second}}}}]}}
"""


def folder(path: Path, file: str, text: str = SHOP) -> PolicyFacts:
    (path / "shop.yaml").write_text(text.format(file=file))
    (path / file).parent.mkdir(parents=True, exist_ok=True)
    (path / file).write_text(json.dumps(jwks(ec_signer())))
    return policy_facts(path)


def rendered(facts: PolicyFacts, **options: Any) -> list[Any]:
    documents = documents_by_file(IstioOptions.model_validate(options), facts).values()
    return [one for several in documents for one in several]


def owned(documents: list[Any]) -> Any:
    (stated,) = (one for one in documents if one["kind"] == "ConfigMap")
    return parse_ownership("ownership", stated["data"]["ownership.yaml"].encode())


def variables(documents: list[Any], service: str) -> dict[str, str]:
    """What the Deployment says of Kubernetes, by the last part of its name."""
    (found,) = (
        one
        for one in documents
        if one["kind"] == "Deployment" and one["metadata"]["name"] == service
    )
    (container,) = found["spec"]["template"]["spec"]["containers"]
    return {
        one["name"].rpartition("__")[2]: one["value"]
        for one in container["env"]
        if "__KUBERNETES__" in one["name"]
    }


def readable(documents: list[Any], service: str) -> set[tuple[str, str, str]]:
    """(namespace, resource, name) of each Secret and ConfigMap that it may read."""
    return {
        (one["metadata"]["namespace"], rule["resources"][0], name)
        for one in documents
        if one["kind"] == "Role" and one["metadata"]["name"] == f"meshwarden-{service}"
        for rule in one["rules"]
        if rule["apiGroups"] == [""]
        for name in rule["resourceNames"]
    }


OWNERSHIP = ("meshwarden-system", "configmaps", "meshwarden-ownership")


def test_namespaces_speak_for_what_the_folder_and_the_options_give_them_and_nothing_else(tmp_path):
    facts = folder(tmp_path, "secret/idp/jwks.json")
    documents = rendered(facts, host_owners="*.bank.example.com=bank", domain_owners="bank-*=bank")
    stated = owned(documents)
    assert stated.hosts == {
        "shop": frozenset({"shop.example.com"}),
        "bank": frozenset({"*.bank.example.com"}),
    }
    assert stated.domains == {"shop": frozenset({"shop"}), "bank": frozenset({"bank-*"})}
    assert not owned(rendered(PolicyFacts())).allows(HOST, "free.example.com", "shop")
    for service in ("ext-authz", "ratelimit"):
        assert variables(documents, service)["OWNERSHIP"] == "meshwarden-ownership"
        assert OWNERSHIP in readable(documents, service)


def test_open_claims_are_asked_for_by_name_and_exclude_owners():
    documents = rendered(PolicyFacts(), open_claims="true")
    assert not [one for one in documents if one["kind"] == "ConfigMap"]
    assert "OWNERSHIP" not in variables(documents, "ext-authz")
    assert readable(documents, "ratelimit") == set()
    with pytest.raises(ValueError, match="open_claims"):
        IstioOptions.model_validate({"open_claims": True, "host_owners": "a.example.com=shop"})


def test_the_platforms_own_policies_need_no_leave(tmp_path):
    text = SHOP.replace("namespace: shop", "namespace: meshwarden-system")
    facts = folder(tmp_path, "secret/idp/jwks.json", text.replace("Shop.example.com", '"*"'))
    stated = owned(rendered(facts, host_owners="shop.example.com=shop"))
    assert stated.hosts == {"shop": frozenset({"shop.example.com"})}


def test_what_stands_where_nobody_watches_is_refused_all_at_once(tmp_path):
    facts = folder(tmp_path, "secret/idp/jwks.json")
    with pytest.raises(Misconfigured) as caught:
        rendered(
            facts,
            watched_namespaces="bank",
            host_owners="a.example.com=web",
            readable_files="web/secret/idp",
        )
    assert {one.what.partition(":")[0] for one in caught.value.problems} == {
        "the folder's resources",
        "host_owners",
        "readable_files",
    }
    assert rendered(facts, watched_namespaces="bank,shop")


def test_a_host_that_is_given_twice_is_refused():
    with pytest.raises(ValueError, match=r"'a\.example\.com' stands twice"):
        IstioOptions.model_validate({"host_owners": "a.example.com=a,a.example.com=b"})


@pytest.mark.parametrize(
    ("owners", "said"),
    [
        ("shop.example.com=bank", "'shop.example.com' of 'bank' lies within"),
        ("http://x=bank", "http://x"),
    ],
)
def test_owners_that_contradict_the_folder_or_name_no_host_are_refused(tmp_path, owners, said):
    with pytest.raises(Misconfigured, match=said):
        rendered(folder(tmp_path, "secret/idp/jwks.json"), host_owners=owners)


def test_the_authorizer_reads_what_the_resources_refer_to_and_nothing_else(tmp_path):
    facts = folder(tmp_path, "configmap/idp/jwks.json")
    documents = rendered(facts, readable_files="bank/secret/idp, shop/secret/later")
    assert readable(documents, "ext-authz") == {
        OWNERSHIP,
        ("shop", "configmaps", "idp"),
        ("shop", "secrets", "later"),
        ("bank", "secrets", "idp"),
    }
    assert variables(documents, "ext-authz")["SECRET_NAMESPACES"] == "bank,shop"
    assert readable(documents, "ratelimit") == {OWNERSHIP}
    assert "SECRET_NAMESPACES" not in variables(documents, "ratelimit")


def test_a_file_that_no_cluster_has_is_refused_with_what_to_write(tmp_path):
    with pytest.raises(Misconfigured, match=r"shop.yaml.*spec.jwks.file.*secret/NAME/KEY"):
        folder(tmp_path, "keys/idp.json")


def test_named_namespaces_are_watched_by_roles_there_and_by_no_clusterrole():
    documents = rendered(PolicyFacts(), watched_namespaces="shop,bank")
    assert not [one for one in documents if one["kind"].startswith("ClusterRole")]
    roles = {
        one["metadata"]["namespace"]
        for one in documents
        if one["kind"] == "Role" and "accesspolicies" in yaml.safe_dump(one)
    }
    assert roles == {"shop", "bank", "meshwarden-system"}
    assert variables(documents, "ratelimit")["NAMESPACES"] == "shop,bank"


KUBERNETES_CALLERS = """\
apiVersion: meshwarden.io/v1alpha1
kind: AccessPolicy
metadata: {name: orders}
spec:
  hosts: [orders.example.com]
  identify: [{kubernetesToken: {audiences: [orders.example.com]}}]
  rules: [{name: all, paths: ["/**"]}]
"""


def test_the_authorizer_may_ask_for_reviews_where_a_policy_or_an_option_needs_them(tmp_path: Path):
    def asks(facts: PolicyFacts, **options: Any) -> bool:
        made = rendered(facts, **options)
        roles = [
            (one["roleRef"]["name"], one["subjects"][0]["name"])
            for one in made
            if one["kind"] == "ClusterRoleBinding" and "reviews" in one["metadata"]["name"]
        ]
        is_on = "EXT_AUTHZ_KUBERNETES_REVIEWS__ENABLED" in str(made)
        assert roles == [("system:auth-delegator", "ext-authz")] * is_on
        return is_on

    (tmp_path / "orders.yaml").write_text(KUBERNETES_CALLERS)
    assert asks(policy_facts(tmp_path))
    assert asks(PolicyFacts(), kubernetes_reviews=True)
    assert not asks(PolicyFacts())
