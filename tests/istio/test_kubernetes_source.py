"""Configuration from a real Kubernetes API server, under a ServiceAccount that may do no more than
`access` grants.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from ext_authz.core.api_keys import make_key
from meshwarden.adapters.istio.access import Access, NamedFiles
from tests.support.authz_service import PEPPER, record
from tests.support.cluster_objects import (
    PLATFORM,
    config_map,
    grant,
    install_kinds,
    namespace,
    of_kind,
    secret,
    watching,
)
from tests.support.kubernetes_api import KubernetesApi, running_kubernetes
from tests.support.processes import wait_until
from tests.support.quickstart import meshwarden
from tests.support.tokens import ec_signer, jwks
from tests.support.watching_services import Watching, watching_service

pytestmark = pytest.mark.timeout(180)

EFFECT_SECONDS = 2.0
ALLOWED = "allowed"
NO_POLICY = "no_policy_for_host"
KEYS = (
    "--keys.file-secret=api-keys/keys.json",
    "--keys.pepper-secret=api-keys/pepper",
    "--configuration.kubernetes.ownership=ownership",
)
KEY_OF = {name: make_key(name.encode() * 32) for name in "ab"}
FILES = {PLATFORM: NamedFiles(["api-keys"], ["ownership"])}
OWNERSHIP = "hosts: {shop: ['shop.example.com', '*.shop.example.com'], bank: [bank.example.com]}"


@pytest.fixture(scope="module")
def api() -> Iterator[KubernetesApi]:
    with running_kubernetes() as server:
        install_kinds(server)
        server.apply(*(namespace(name) for name in (PLATFORM, "shop", "bank", "other")))
        yield server


@pytest.fixture
def cluster(api: KubernetesApi) -> KubernetesApi:
    """Without what other tests left."""
    for kind in ("tokenissuers", "accessroles", "accessrolebindings", "accesspolicies"):
        api.kubectl("delete", kind, "--all", "--all-namespaces", "--wait=false")
    api.kubectl("delete", "ratelimits", "--all", "--all-namespaces", "--wait=false")
    api.apply(keys("a"), config_map(PLATFORM, "ownership", ownership_yaml=OWNERSHIP))
    return api


@pytest.fixture
def account(cluster: KubernetesApi) -> Path:
    return grant(cluster, Access("ext-authz", files=FILES))


def keys(*names: str, **more: str) -> dict[str, Any]:
    """The Secret with an API key of each name, and `more` files."""
    records = json.dumps({"keys": [record(KEY_OF[name], id=name, name=name) for name in names]})
    return secret(PLATFORM, "api-keys", keys_json=records, pepper=PEPPER, **more)


def policy(space: str, name: str, *hosts: str, **spec: Any) -> dict[str, Any]:
    """A policy that allows everybody who has an API key."""
    rules = [{"name": "all"}]
    identify = [{"apiKey": {}}]
    whole = {"hosts": list(hosts), "identify": identify, "rules": rules} | spec
    return of_kind("AccessPolicy", space, name, whole)


def issuer(file: str) -> dict[str, Any]:
    return {"issuer": f"https://{len(file)}.example", "audiences": ["a"], "jwks": {"file": file}}


def seconds_until(condition: Callable[[], object], what: str) -> float:
    started = time.monotonic()
    wait_until(condition, what, limit_seconds=20)
    return time.monotonic() - started


def refusal(service: Watching, name: str) -> str:
    """Why an object is not taken, `Kind namespace/name`; empty where it is."""
    refused = service.readyz().get("kubernetes", {}).get("refused", {})
    return str(refused.get(name, ""))


def test_a_policy_that_is_applied_is_in_effect_within_two_seconds(
    cluster: KubernetesApi, account: Path
) -> None:
    """Added, changed and deleted."""
    with watching_service("ext_authz", *watching(account, *KEYS)) as service:
        assert service.reason("shop.example.com", key=KEY_OF["a"]) == NO_POLICY
        cluster.apply(policy("shop", "orders", "shop.example.com"))
        took = seconds_until(
            lambda: service.reason("shop.example.com", key=KEY_OF["a"]) == ALLOWED, "it is allowed"
        )
        cluster.apply(policy("shop", "orders", "shop.example.com", rules=[]))
        took_change = seconds_until(
            lambda: service.reason("shop.example.com", key=KEY_OF["a"]) != ALLOWED, "it is denied"
        )
        cluster.kubectl("delete", "accesspolicy", "orders", "-n", "shop")
        took_deletion = seconds_until(
            lambda: service.reason("shop.example.com", key=KEY_OF["a"]) == NO_POLICY, "it is gone"
        )
        assert max(took, took_change, took_deletion) < EFFECT_SECONDS


def test_a_faulty_policy_changes_nothing_and_holds_up_nobody_else(
    cluster: KubernetesApi, account: Path
) -> None:
    """The last good content serves; the fault is told with its field; another tenant's change is
    taken meanwhile; mending it is, too.
    """
    cluster.apply(policy("shop", "orders", "shop.example.com"))
    with watching_service("ext_authz", *watching(account, *KEYS)) as service:
        wait_until(
            lambda: service.reason("shop.example.com", key=KEY_OF["a"]) == ALLOWED, "it is taken"
        )
        wrong = [{"name": "all", "roles": ["nobody-has-it"]}]
        cluster.apply(policy("shop", "orders", "shop.example.com", rules=wrong))
        wait_until(lambda: refusal(service, "AccessPolicy shop/orders"), "the fault is told")
        told = refusal(service, "AccessPolicy shop/orders")
        assert "spec.rules[0].roles[0]: there is no AccessRole 'nobody-has-it'" in told
        assert service.reason("shop.example.com", key=KEY_OF["a"]) == ALLOWED
        cluster.apply(policy("bank", "accounts", "bank.example.com"))
        took = seconds_until(
            lambda: service.reason("bank.example.com", key=KEY_OF["a"]) == ALLOWED,
            "the other's is taken",
        )
        assert took < EFFECT_SECONDS
        assert service.metric("kubernetes_objects_refused") == 1
        cluster.apply(policy("shop", "orders", "shop.example.com", rules=[]))
        wait_until(
            lambda: service.reason("shop.example.com", key=KEY_OF["a"]) == "no_rule_allows",
            "it is mended",
        )
        assert not refusal(service, "AccessPolicy shop/orders")


def test_a_faulty_policy_that_was_never_good_is_closed_not_left_to_a_wildcard(
    cluster: KubernetesApi, account: Path
) -> None:
    cluster.apply(
        policy(PLATFORM, "everything", "*"),
        policy("shop", "admin", "admin.shop.example.com", rules=[{"name": "a", "roles": ["x"]}]),
    )
    with watching_service("ext_authz", *watching(account, *KEYS)) as service:
        assert service.reason("elsewhere.example.com", key=KEY_OF["a"]) == ALLOWED
        # Nothing identifies anybody there.
        assert service.reason("admin.shop.example.com", key=KEY_OF["a"]) not in (ALLOWED, NO_POLICY)


def test_a_namespace_speaks_only_for_hosts_that_the_platform_gave_it(
    cluster: KubernetesApi, account: Path
) -> None:
    """And a change of who owns what is in effect without a restart."""
    cluster.apply(policy("other", "theft", "bank.example.com"))
    with watching_service("ext_authz", *watching(account, *KEYS)) as service:
        told = refusal(service, "AccessPolicy other/theft")
        assert told.startswith("NotYours: ")
        assert "the namespace 'other' may not speak for 'bank.example.com'" in told
        assert service.reason("bank.example.com", key=KEY_OF["a"]) == NO_POLICY
        given = "hosts: {other: [bank.example.com]}"
        cluster.apply(config_map(PLATFORM, "ownership", ownership_yaml=given))
        wait_until(
            lambda: service.reason("bank.example.com", key=KEY_OF["a"]) == ALLOWED,
            "it owns the host",
        )
        cluster.apply(config_map(PLATFORM, "ownership", ownership_yaml="hosts: 7"))
        wait_until(lambda: refusal(service, "ownership"), "the bad setting is told")
        assert service.reason("bank.example.com", key=KEY_OF["a"]) == ALLOWED


def test_of_two_claims_the_older_holds_until_it_goes(cluster: KubernetesApi, account: Path) -> None:
    anybody = watching(account, *KEYS[:2])
    cluster.apply(policy("bank", "first", "x.example.com", rules=[]))
    first = cluster.get("accesspolicy", "first", "-n", "bank")["metadata"]["creationTimestamp"]

    def is_younger() -> bool:
        # Times of creation are whole seconds; the second of the two must not be the same.
        cluster.kubectl("delete", "accesspolicy", "second", "-n", "shop", "--ignore-not-found")
        cluster.apply(policy("shop", "second", "x.example.com"))
        made = cluster.get("accesspolicy", "second", "-n", "shop")
        return bool(made["metadata"]["creationTimestamp"] > first)

    wait_until(is_younger, "the second is younger")
    with watching_service("ext_authz", *anybody) as service:
        told = refusal(service, "AccessPolicy shop/second")
        assert told.startswith("Conflict: ")
        assert "another namespace" in told
        assert "bank" not in told
        assert service.reason("x.example.com", key=KEY_OF["a"]) == "no_rule_allows"
        cluster.kubectl("delete", "accesspolicy", "first", "-n", "bank")
        wait_until(
            lambda: service.reason("x.example.com", key=KEY_OF["a"]) == ALLOWED, "the other has it"
        )


def test_a_role_that_is_still_needed_serves_on_after_its_deletion(
    cluster: KubernetesApi, account: Path
) -> None:
    """Until what needs it is changed; then both are taken."""
    rules = [{"name": "members", "roles": ["member"]}]
    everyone = {"role": "member", "subjects": [{"principal": "key:a"}]}
    cluster.apply(
        of_kind("AccessRole", "shop", "member", {}),
        of_kind("AccessRoleBinding", "shop", "members", everyone),
        policy("shop", "orders", "shop.example.com", rules=rules),
    )
    with watching_service("ext_authz", *watching(account, *KEYS)) as service:
        assert service.reason("shop.example.com", key=KEY_OF["a"]) == ALLOWED
        cluster.kubectl("delete", "accessrole", "member", "-n", "shop")
        wait_until(lambda: refusal(service, "AccessPolicy shop/orders"), "it is told")
        assert "AccessRole shop/member was deleted; it serves on" in refusal(
            service, "AccessPolicy shop/orders"
        )
        assert service.reason("shop.example.com", key=KEY_OF["a"]) == ALLOWED
        cluster.kubectl("delete", "accessrolebinding", "members", "-n", "shop")
        cluster.apply(policy("shop", "orders", "shop.example.com", rules=[]))
        wait_until(
            lambda: service.reason("shop.example.com", key=KEY_OF["a"]) == "no_rule_allows",
            "both are taken",
        )
        wait_until(lambda: not service.readyz()["kubernetes"]["refused"], "nothing is refused")


def test_a_changed_secret_is_in_effect_and_a_broken_one_is_not(
    cluster: KubernetesApi, account: Path
) -> None:
    cluster.apply(policy("shop", "orders", "shop.example.com"))
    with watching_service("ext_authz", *watching(account, *KEYS)) as service:
        assert service.reason("shop.example.com", key=KEY_OF["b"]) == "invalid_api_key"
        cluster.apply(keys("a", "b"))
        took = seconds_until(
            lambda: service.reason("shop.example.com", key=KEY_OF["b"]) == ALLOWED,
            "the new key is known",
        )
        assert took < EFFECT_SECONDS
        cluster.apply(secret(PLATFORM, "api-keys", keys_json="{", pepper=PEPPER))
        wait_until(lambda: "API keys" in str(service.readyz()["kubernetes"]["refused"]), "told")
        assert service.reason("shop.example.com", key=KEY_OF["b"]) == ALLOWED
        cluster.kubectl("delete", "secret", "api-keys", "-n", PLATFORM)
        wait_until(lambda: "there is no secret" in str(service.readyz()["kubernetes"]), "told")
        assert service.reason("shop.example.com", key=KEY_OF["b"]) == ALLOWED


def test_keys_that_sign_for_workloads_come_from_a_secret_and_rotate(
    cluster: KubernetesApi, account: Path, tmp_path: Path
) -> None:
    file = tmp_path / "signing.json"

    def rotated() -> str:
        assert meshwarden("keys", "signing", str(file), "--overlap", "3600").returncode == 0
        return file.read_text()

    issuer = "http://ext-authz.meshwarden-system:8081"
    signing = ("--identity-tokens.keys-secret=api-keys/signing.json",)
    signing += (f"--identity-tokens.issuer={issuer}",)
    cluster.apply(
        keys("a", signing_json=rotated()),
        policy("shop", "orders", "shop.example.com", identityToken={"audience": "orders"}),
    )
    with watching_service("ext_authz", *watching(account, *KEYS, *signing)) as service:

        def published() -> list[str]:
            return [one["kid"] for one in service.get("/.well-known/jwks.json").json()["keys"]]

        (first,) = published()
        sent = service.headers_sent("shop.example.com", key=KEY_OF["a"])
        assert jwt.get_unverified_header(sent["x-identity-token"])["kid"] == first
        cluster.apply(keys("a", signing_json=rotated()))
        wait_until(lambda: len(published()) == 2, "the new key is published, too")
        cluster.apply(keys("a", signing_json="{"))
        wait_until(lambda: "signing" in str(service.readyz()["kubernetes"]["refused"]), "told")
        assert first in published()
        assert len(published()) == 2


def test_a_resource_reads_secrets_of_its_own_namespace_where_that_is_granted(
    cluster: KubernetesApi, account: Path
) -> None:
    """The platform allows the namespace, RBAC the name; another namespace's can't be named."""
    keys_of_issuer = json.dumps(jwks(ec_signer()))
    cluster.apply(
        secret("shop", "idp", jwks_json=keys_of_issuer),
        of_kind("TokenIssuer", "shop", "own", issuer("secret/idp/jwks.json")),
        of_kind("TokenIssuer", "bank", "own", issuer("secret/idp/jwks.json")),
        of_kind("TokenIssuer", "shop", "stolen", issuer("secret/../shop/idp/jwks.json")),
    )
    allowed = "--configuration.kubernetes.secret-namespaces=shop"
    with watching_service("ext_authz", *watching(account, *KEYS, allowed)) as service:
        wait_until(lambda: refusal(service, "TokenIssuer shop/own"), "it is told")
        assert "secret/shop/idp/jwks.json" in refusal(service, "TokenIssuer shop/own")
        assert "may not refer to Secrets" in refusal(service, "TokenIssuer bank/own")
        assert "secret/NAME/KEY" in refusal(service, "TokenIssuer shop/stolen")
        watches = service.readyz()["kubernetes"]["watches"]
        assert "grant get, list and watch" in watches["secrets idp in shop"]["failure"]
        more = FILES | {"shop": NamedFiles(["idp"])}
        grant(cluster, Access("ext-authz", files=more))
        wait_until(
            lambda: not refusal(service, "TokenIssuer shop/own"), "it is read", limit_seconds=30
        )


def test_only_the_named_namespaces_are_watched(cluster: KubernetesApi) -> None:
    """By Roles; nothing is granted for the whole cluster."""
    cluster.kubectl(
        "delete", "clusterrolebinding", "meshwarden-ext-authz", "--ignore-not-found=true"
    )
    cluster.apply(
        policy("shop", "orders", "shop.example.com"), policy("bank", "b", "bank.example.com")
    )
    account = grant(cluster, Access("ext-authz", namespaces=["shop"], files=FILES))
    with watching_service("ext_authz", *watching(account, *KEYS, namespaces=["shop"])) as service:
        assert service.reason("shop.example.com", key=KEY_OF["a"]) == ALLOWED
        assert service.reason("bank.example.com", key=KEY_OF["a"]) == NO_POLICY
    options = watching(account, *KEYS)
    with watching_service("ext_authz", *options, waits_for_ready=False) as service:
        wait_until(lambda: "grant get, list" in str(service.readyz().get("reasons")), "it is told")
        told = service.readyz()["reasons"]["kubernetes"]
        assert 'accesspolicies.meshwarden.io is forbidden: User "system:serviceaccount:' in told
        grant(cluster, Access("ext-authz", files=FILES))
        service.wait_until_ready()


def test_limits_come_from_objects_too(cluster: KubernetesApi) -> None:
    account = grant(cluster, Access("ratelimit"))
    limit = {"unit": "hour", "requests_per_unit": 1}
    spec = {"domain": "shop", "descriptors": [{"key": "user", "rate_limit": limit}]}
    cluster.apply(of_kind("RateLimit", "shop", "limits", spec))
    with watching_service("ratelimit_service", *watching(account)) as service:
        assert not service.over_limit("shop", "user")
        assert service.over_limit("shop", "user")
        wrong = {"domain": "shop", "descriptors": [{"key": "user", "rate_limit": {"unit": "age"}}]}
        other = {"domain": "bank", "descriptors": [{"key": "user", "rate_limit": limit}]}
        cluster.apply(
            of_kind("RateLimit", "shop", "limits", wrong), of_kind("RateLimit", "bank", "b", other)
        )
        wait_until(lambda: service.has_limit("bank", "user"), "the other's limit is taken")
        assert service.over_limit("shop", "user")
        assert "invalid rate limit unit 'age'" in refusal(service, "RateLimit shop/limits")
