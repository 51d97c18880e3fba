"""Namespaces: what a tenant's resources mean to its own policies, and to no other's."""

from __future__ import annotations

from typing import Any

import pytest

from ext_authz.adapters.envoy_check import encode
from ext_authz.core.api_keys import ApiKeys, KeyRecord, digest, make_key
from ext_authz.core.model import Reason
from meshwarden.core.faults import InvalidInput
from tests.support.check_requests import (
    Authorizer,
    access_policy,
    access_role,
    configured,
    response_of,
    role_binding,
    token_issuer,
)
from tests.support.tokens import claims, ec_signer, jwks

ACME, DUKE = ec_signer("acme"), ec_signer("duke")
READER = {"name": "read", "roles": ["reader"]}
ANY = {"name": "any"}


def of(namespace: str, resource: dict[str, Any]) -> dict[str, Any]:
    return {**resource, "metadata": {**resource["metadata"], "namespace": namespace}}


def tenant(namespace: str, signer: Any, *rules: Any) -> list[dict[str, Any]]:
    """An issuer and a policy, both named as another tenant's are, for the same company's tokens."""
    host = f"{namespace}.example.com"
    return [
        of(namespace, token_issuer(jwks(signer))),
        of(namespace, access_policy(*rules or (ANY,), hosts=[host])),
    ]


BOTH = (*tenant("acme", ACME), *tenant("duke", DUKE))


def test_a_tenants_issuer_signs_for_its_own_hosts_alone():
    """Though both name the same issuer: each has its own keys for it."""
    asked = Authorizer(*BOTH)
    for signer, host, reason in (
        (ACME, "acme.example.com", Reason.ALLOWED),
        (DUKE, "acme.example.com", Reason.UNKNOWN_KEY),
        (DUKE, "duke.example.com", Reason.ALLOWED),
        (ACME, "duke.example.com", Reason.UNKNOWN_KEY),
    ):
        for _ in range(2):  # The second time it is remembered.
            assert asked.ask(token=signer.token(claims()), host=host).reason is reason


def test_a_policy_and_a_principal_are_told_with_their_namespace():
    """In the metadata that limits and logs are made from; the upstream knows whose it is."""
    verdict = Authorizer(*BOTH).ask(token=ACME.token(), host="acme.example.com")
    fields = response_of(encode(verdict)).dynamic_metadata.fields
    assert fields["policy"].string_value == "acme/orders"
    assert fields["principal"].string_value == "acme/jwt:rita"
    assert {h.name: h.value for h in verdict.headers}["x-auth-principal"] == "jwt:rita"


@pytest.mark.parametrize(
    ("binding_namespace", "is_allowed"), [("acme", True), ("duke", False), ("", True)]
)
def test_a_role_is_held_in_the_namespace_that_binds_it_or_everywhere(binding_namespace, is_allowed):
    asked = Authorizer(
        *tenant("acme", ACME, READER),
        access_role("reader"),
        of(binding_namespace, role_binding("reader", {"principal": "jwt:rita"})),
    )
    assert asked.ask(token=ACME.token(), host="acme.example.com").is_allowed is is_allowed


def test_a_tenants_role_of_the_same_name_is_its_own():
    """What it inherits in one namespace it does not in another."""
    asked = Authorizer(
        *tenant("acme", ACME, READER),
        *tenant("duke", DUKE, READER),
        of("acme", access_role("reader")),
        of("acme", access_role("boss", inherits=["reader"])),
        of("duke", access_role("reader")),
        of("duke", access_role("boss")),
    )
    boss = claims(roles=["boss"])
    assert asked.ask(token=ACME.token(boss), host="acme.example.com").is_allowed
    assert not asked.ask(token=DUKE.token(boss), host="duke.example.com").is_allowed


@pytest.mark.parametrize(("namespace", "host", "is_allowed"), [
    ("acme", "acme.example.com", True),
    ("acme", "duke.example.com", False),
    ("", "acme.example.com", True),
    ("", "duke.example.com", True),
])  # fmt: skip
def test_an_api_key_is_taken_by_its_namespaces_policies_or_by_all(namespace, host, is_allowed):
    asked, key = Authorizer(*BOTH), make_key(bytes(32))
    record = KeyRecord(id="1", name="s", digest=digest(key, b"p"), namespace=namespace)
    asked.keys.api_keys = ApiKeys([record], b"p")
    assert asked.ask(headers={"x-api-key": key}, host=host).is_allowed is is_allowed


@pytest.mark.parametrize(
    ("resources", "told"),
    [
        (
            [*tenant("acme", ACME), of("duke", access_policy(ANY, hosts=["duke.example.com"]))],
            "there is no TokenIssuer 'main'",
        ),
        (
            [
                of("acme", access_policy(identify=[], hosts=["*.example.com"])),
                of("duke", access_policy(identify=[], hosts=["shop.example.com"])),
            ],
            r"'shop.example.com' lies below '\*.example.com' of AccessPolicy 'acme/orders' "
            r"\(a namespace can't take hosts from another",
        ),
        (
            [
                of("acme", access_policy(identify=[], hosts=["a.example.com"])),
                of("duke", access_policy(identify=[], hosts=["a.example.com"])),
            ],
            "the host 'a.example.com' is already covered by AccessPolicy 'acme/orders'",
        ),
        (
            [of("acme", access_role("a")), of("duke", access_role("b", inherits=["a"]))],
            "there is no AccessRole 'a'",
        ),
        ([access_role("a"), of("acme", access_role("a"))], "'a' has the name of a shared one"),
        ([of("a/b", access_role("a"))], "metadata.namespace"),
        (
            [
                token_issuer(jwks(ACME)),
                of("acme", token_issuer(jwks(ACME), issuer="https://other")),
            ],
            "TokenIssuer 'main' has the same subjectPrefix",
        ),
    ],
)
def test_what_reaches_into_another_namespace_is_refused(resources, told):
    with pytest.raises(InvalidInput, match=told):
        configured(*resources)


def test_the_platforms_policies_lie_above_and_below_any_tenants():
    """Those without a namespace are whoever's who runs the mesh."""
    made = configured(
        access_policy(identify=[], hosts=["*"], name="all"),
        of("acme", access_policy(identify=[], hosts=["*.acme.example"])),
        access_policy(identify=[], hosts=["status.acme.example"], name="status"),
    )
    found = {h: made.policies.policies.find(h).name for h in ("x", "a.acme.example")}
    assert found == {"x": "all", "a.acme.example": "acme/orders"}
    assert made.policies.policies.find("status.acme.example").name == "status"
