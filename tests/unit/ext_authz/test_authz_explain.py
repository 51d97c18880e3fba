"""The decision step by step, for people: the same verdict, and no credential in it."""

from __future__ import annotations

import pytest

from ext_authz.app import Settings, source
from ext_authz.core.explain import explain
from ext_authz.core.model import Request
from meshwarden.core.faults import Misconfigured
from tests.support.check_requests import Authorizer, access_policy, token_issuer
from tests.support.tokens import claims, ec_signer, jwks

EC = ec_signer()
TOKEN = EC.token(claims(roles=["reader"], scope="s", groups=["g"]))
ASKED = Authorizer(
    token_issuer(jwks(EC)),
    access_policy(
        {"name": "posts", "methods": ["POST"]},
        {"name": "failing", "when": 'principal.claims["none"] == 1'},
        {"name": "gets", "methods": ["GET"], "paths": ["/orders/**"]},
        {"name": "private", "effect": "deny", "paths": ["/private"]},
        hosts=["api.example.com"],
    ),
)


def explained(target: str, *, token: str = TOKEN, host: str = "api.example.com"):
    headers = {"authorization": f"Bearer {token}"} if token else {}
    request = Request("GET", host, target, headers)
    found = explain(request, ASKED.policies, ASKED.keys, ASKED.now)
    assert TOKEN not in str(found)
    assert found["verdict"]["allowed"] is ASKED.decide(request).is_allowed
    return found


def test_each_step_says_what_it_saw():
    found = explained("//orders/%31")
    assert found["steps"] == [
        {"step": "host", "host": "api.example.com", "policy": "orders"},
        {"step": "path", "normalised": "/orders/1"},
        {
            "step": "caller",
            "credential": "header authorization",
            "principal": "jwt:rita",
            "roles": ["reader"],
            "scopes": ["s"],
            "groups": ["g"],
        },
        {
            "step": "rule",
            "rule": "private",
            "effect": "deny",
            "matches": False,
            "unmet": "paths",
        },
        {
            "step": "rule",
            "rule": "posts",
            "effect": "allow",
            "matches": False,
            "unmet": "methods",
        },
        {
            "step": "rule",
            "rule": "failing",
            "effect": "allow",
            "matches": False,
            "unmet": "when (failed)",
        },
        {"step": "rule", "rule": "gets", "effect": "allow", "matches": True},
    ]
    assert found["verdict"]["rule"] == "gets"
    assert found["verdict"]["headers"]["x-auth-principal"] == "jwt:rita"


def test_a_refused_step_says_why():
    assert explained("/a;b")["steps"][-1]["refused"] == "has a character that is not allowed"
    assert explained("/", host="other")["steps"][-1]["policy"] is None
    unknown = explained("/orders", token="")["steps"][2]
    assert (unknown["credential"], unknown["reason"]) == (None, "missing_credential")


def test_settings_that_cannot_work_are_refused_before_anything_starts(tmp_path):
    """No folder; keys without their pepper."""
    with pytest.raises(Misconfigured, match=r"--configuration\.folder"):
        source(Settings())
    settings = Settings.model_validate(
        {"configuration": {"folder": tmp_path}, "keys": {"file": tmp_path / "keys.json"}}
    )
    with pytest.raises(Misconfigured, match="go together"):
        source(settings)
