"""ext_authz's kinds as objects of a cluster: what they claim and refer to, and what is taken."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from ext_authz.app import Settings, source
from ext_authz.core.compile import Configured, Options, compile_policies
from ext_authz.core.compile_keys import CALLED, PEPPER, SIGNING_KEYS
from ext_authz.core.object_rules import RULES, localized
from meshwarden.core.faults import Misconfigured, Problem
from meshwarden.core.object_verdicts import ACCEPTED, CONFLICT, REFUSED
from meshwarden.core.offered_objects import object_bundle, offered_object
from meshwarden.core.partial_acceptance import PartialAcceptance
from tests.support.tokens import ec_signer, jwks

PLATFORM = "meshwarden-system"


def one(kind: str, space: str, name: str, spec: Any, *, created: str = "2026-01-01") -> Any:
    metadata = {"name": name, "namespace": space, "creationTimestamp": created}
    api = {"apiVersion": "meshwarden.io/v1alpha1", "kind": kind}
    return api | {"metadata": metadata, "spec": spec}


def policy(space: str, name: str, host: str, *roles: str, **more: Any) -> Any:
    rules = [{"name": "all", **({"roles": list(roles)} if roles else {})}]
    spec = {"hosts": [host], "identify": [{"apiKey": {}}], "rules": rules}
    return one("AccessPolicy", space, name, spec | more)


def issuer(space: str, name: str, url: str, **more: Any) -> Any:
    keys = {"inline": jwks(ec_signer())}
    created = more.pop("created", "2026-01-01")
    spec = {"issuer": url, "audiences": ["a"], "jwks": keys} | more
    return one("TokenIssuer", space, name, spec, created=created)


class Taking:
    def __init__(self) -> None:
        self.acceptance = PartialAcceptance(
            partial(compile_policies, options=Options()), RULES, aliases=CALLED
        )

    def offer(self, *values: Any, required: bool = False, **further: bytes) -> Configured:
        objects = [
            offered_object(value["kind"], value, rules=RULES, shared_namespace=PLATFORM)
            for value in values
        ]
        named = {PEPPER: Problem("pepper", 0, "is missing")} if required else {}
        files = {name.replace("__", "/"): content for name, content in further.items()}
        return self.acceptance.compiled(object_bundle(objects, files, named))

    def reasons(self) -> dict[str, str]:
        return {v.object.name: v.reason for v in self.acceptance.verdicts}

    def told(self, name: str) -> str:
        found = [v for v in self.acceptance.verdicts if v.object.name == name]
        return "; ".join(map(str, found[0].problems))


def hosts(configured: Configured, *names: str) -> list[str]:
    """The name of the policy that decides at each host."""
    found = [configured.policies.policies.find(name) for name in names]
    return ["" if policy is None else policy.name for policy in found]


def test_the_platforms_objects_are_shared_and_a_tenants_are_its_own():
    role = one("AccessRole", PLATFORM, "member", {})
    taking = Taking()
    taken = taking.offer(role, policy("shop", "p", "shop.io", "member"))
    assert hosts(taken, "shop.io") == ["shop/p"]
    assert set(taking.reasons().values()) == {ACCEPTED}


def test_a_shared_role_of_a_tenants_roles_name_is_not_taken_and_the_tenants_stays():
    """The compiler blames the tenant's; what changed is the platform's."""
    taking = Taking()
    role, using = one("AccessRole", "shop", "member", {}), policy("shop", "p", "shop.io", "member")
    taking.offer(role, using)
    shared = one("AccessRole", PLATFORM, "member", {"permissions": ["a:b"]})
    taken = taking.offer(role, using, shared)
    assert hosts(taken, "shop.io") == ["shop/p"]
    assert [v.reason for v in taking.acceptance.verdicts if v.object.namespace == PLATFORM] == [
        REFUSED
    ]


def test_a_role_that_a_deny_rule_needs_is_not_emptied():
    taking = Taking()
    deny = {"name": "d", "effect": "deny", "permissions": ["orders:write"]}
    using = policy("shop", "p", "shop.io", rules=[deny])
    taking.offer(one("AccessRole", "shop", "r", {"permissions": ["orders:write"]}), using)
    assert set(taking.reasons().values()) == {ACCEPTED}
    taken = taking.offer(one("AccessRole", "shop", "r", {}), using)
    assert hosts(taken, "shop.io") == ["shop/p"]
    assert taking.reasons() == {"r": REFUSED, "p": ACCEPTED}
    assert "no AccessRole grants 'orders:write'" in taking.told("r")


def test_of_two_issuers_with_one_prefix_the_older_holds():
    """In one namespace; another namespace's may have the same."""
    taking = Taking()
    taking.offer(
        issuer("shop", "new", "https://new.io", created="2026-02-02"),
        issuer("shop", "old", "https://old.io"),
        issuer("bank", "other", "https://other.io"),
    )
    assert taking.reasons() == {"new": CONFLICT, "old": ACCEPTED, "other": ACCEPTED}
    assert "TokenIssuer shop/old" in taking.told("new")


def test_a_policy_that_was_never_good_closes_its_hosts():
    taken = Taking().offer(
        policy(PLATFORM, "all", "*"), policy("shop", "p", "shop.io", "nobody", hosts=["shop.io"])
    )
    assert hosts(taken, "x.io", "shop.io") == ["all", "shop/p"]
    closed = taken.policies.policies.find("shop.io")
    assert closed is not None
    assert (closed.methods, closed.allow_rules) == ((), ())


@pytest.mark.parametrize(
    "text",
    [
        "secret/../bank/idp/keys.json",
        "secret/bank/idp/keys.json",
        "secret/idp/..",
        "secret/idp/../x",
        "keys.json",
        "/etc/passwd",
        "secret//keys.json",
        "configmap/idp",
        "secret/IDP/keys.json",
    ],
)
def test_a_file_is_a_key_of_the_own_namespace_and_nothing_else(text):
    found = localized("TokenIssuer", "shop", {"jwks": {"file": text}})
    assert found.files == ()
    assert "secret/NAME/KEY" in found.problems[0]


def test_references_to_files_become_the_namespaces_own():
    spec = {"jwks": {"file": "secret/idp/keys.json"}, "introspection": {"clientSecretFile": ""}}
    found = localized("TokenIssuer", "shop", spec)
    assert found.spec["jwks"]["file"] == "secret/shop/idp/keys.json"
    assert spec["jwks"]["file"] == "secret/idp/keys.json"
    assert found.files == ("secret/shop/idp/keys.json",)
    several = {"identify": [{"spiffe": {"authoritiesFile": "configmap/ca/ca.pem"}}, {}, 7]}
    assert localized("AccessPolicy", "shop", several).files == ("configmap/shop/ca/ca.pem",)


def test_a_broken_key_set_is_told_to_the_object_that_names_it_and_the_last_one_serves():
    taking = Taking()
    mine = issuer("shop", "own", "https://own.io", jwks={"file": "secret/idp/k"})
    good = str(jwks(ec_signer())).replace("'", '"').encode()
    taking.offer(mine, secret__shop__idp__k=good)
    assert taking.reasons() == {"own": ACCEPTED}
    taken = taking.offer(mine, secret__shop__idp__k=b"{")
    assert taken.policies.issuers["shop/own"].keys
    assert taking.reasons() == {"own": REFUSED}
    assert "secret/shop/idp/k" in taking.told("own")
    taken = taking.offer(mine)
    assert taken.policies.issuers["shop/own"].keys


def test_a_broken_file_of_keys_stays_as_it_was():
    taking = Taking()
    taking.offer(**{PEPPER: b"p" * 32}, required=True)
    using = policy("shop", "p", "shop.io")
    taken = taking.offer(using, **{PEPPER: b"short"}, required=True)
    assert taken.pepper == b"p" * 32
    assert hosts(taken, "shop.io") == ["shop/p"]
    assert taking.acceptance.problems
    assert SIGNING_KEYS in CALLED.values()


def test_a_folder_and_files_of_keys_are_refused_beside_a_cluster_by_name():
    settings = Settings.model_validate(
        {
            "configuration": {"folder": "/x", "kubernetes": {"enabled": True}},
            "keys": {"file": "/k", "pepper_secret": "keys/pepper"},
        }
    )
    with pytest.raises(Misconfigured) as caught:
        source(settings)
    assert [problem.what for problem in caught.value.problems] == [
        "configuration.kubernetes.enabled is in place of configuration.folder",
        "keys.file is for a folder's configuration; where it comes from Kubernetes a Secret is "
        "named",
    ]
    with pytest.raises(Misconfigured, match=r"keys\.pepper-secret needs configuration\.kubernetes"):
        source(Settings.model_validate({"keys": {"pepper_secret": "keys/pepper"}}))
