"""Opaque tokens: what an issuer says of them, what is remembered, and what is believed."""

from __future__ import annotations

from typing import Any

import pytest

from ext_authz.core.discovery import document_url, endpoint
from ext_authz.core.lookups import FAILED, IntrospectionLookup
from ext_authz.core.model import Reason, Verdict
from ext_authz.core.revocations import Revocation, Revocations
from meshwarden.core.faults import InvalidInput
from tests.support.check_requests import Authorizer, access_policy, configured, token_issuer
from tests.support.tokens import AUDIENCE, ISSUER, NOW, ec_signer, jwks

ASKS = {"url": "https://issuer.example.com/introspect", "clientId": "us", "clientSecretFile": "s"}
FILES = {"s": b" secret\n"}
READ = {"name": "read", "methods": ["GET"], "scopes": ["orders:read"]}
WRITE = {"name": "write", "methods": ["POST"], "scopes": ["orders:write"]}
WAYS = [{"introspection": {"issuer": "main"}}]
ACTIVE = {
    **{"active": True, "sub": "rita", "aud": AUDIENCE, "scope": "orders:read", "iat": NOW - 9},
    **{"exp": NOW + 600, "jti": "x"},
}


def authorizer(**asked: Any) -> Authorizer:
    issuer = token_issuer(introspection={**ASKS, **asked})
    return Authorizer(issuer, access_policy(READ, WRITE, identify=WAYS), files=FILES)


def ask(made: Authorizer, answer: Any = None, *, token: str = "opaque", **options: Any) -> Verdict:
    """The verdict; `answer` is what the issuer says when it is asked."""
    verdict = made.ask(token=token, **options)
    if verdict.lookup is None or answer is None:
        return verdict
    return made.ask(token=token, answers={verdict.lookup: answer}, **options)


def test_a_token_is_asked_about_once_and_its_scopes_are_held_against_each_request():
    """What is remembered is who it is, never that a request was allowed."""
    made = authorizer()
    assert ask(made).lookup == IntrospectionLookup("main", "opaque")
    first = ask(made, ACTIVE)
    assert (first.principal.name, first.rule) == ("opaque:rita", "read")
    assert ask(made).rule == "read"
    assert ask(made, method="POST").reason is Reason.NO_RULE_ALLOWS


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"active": False}, Reason.INACTIVE_TOKEN),
        ({"active": "true"}, Reason.INACTIVE_TOKEN),
        ({"iss": "https://other.example.com"}, Reason.UNKNOWN_ISSUER),
        ({"iss": ISSUER}, Reason.ALLOWED),
        ({"aud": "other"}, Reason.WRONG_AUDIENCE),
        ({"aud": None}, Reason.INVALID_CLAIMS),
        ({"aud": ["other", AUDIENCE]}, Reason.ALLOWED),
        ({"exp": NOW}, Reason.EXPIRED),
        ({"exp": "soon"}, Reason.INVALID_CLAIMS),
        ({"nbf": NOW + 60}, Reason.NOT_YET_VALID),
        ({"sub": None}, Reason.INVALID_SUBJECT),
        ({"sub": "ri\nta"}, Reason.INVALID_SUBJECT),
        ({"scope": 7}, Reason.INVALID_CLAIMS),
    ],
)
def test_what_an_issuer_says_is_judged_as_strictly_as_a_token(changes, reason):
    answer = {name: v for name, v in {**ACTIVE, **changes}.items() if v is not None}
    assert ask(authorizer(), answer).reason is reason


def test_an_answer_without_an_audience_is_taken_where_the_issuer_gives_none():
    answer = {name: value for name, value in ACTIVE.items() if name != "aud"}
    assert ask(authorizer(requiresAudience=False), answer).is_allowed
    wrong = {**answer, "aud": "other"}
    assert ask(authorizer(requiresAudience=False), wrong).reason is Reason.WRONG_AUDIENCE


def test_an_active_token_is_asked_about_again_after_its_time_or_its_end():
    made = authorizer(cacheSeconds=30)
    ask(made, ACTIVE)
    made.now = NOW + 29
    assert ask(made).is_allowed
    made.now = NOW + 30
    assert ask(made).lookup is not None
    made = authorizer(cacheSeconds=300)
    ask(made, {**ACTIVE, "exp": NOW + 20})
    made.now = NOW + 20
    assert ask(made).lookup is not None


def test_an_inactive_token_is_remembered_for_less():
    made = authorizer(inactiveCacheSeconds=5)
    ask(made, {"active": False})
    made.now = NOW + 4.9
    assert (ask(made).reason, ask(made).lookup) == (Reason.INACTIVE_TOKEN, None)
    made.now = NOW + 5
    assert ask(made).lookup is not None


def test_a_failed_question_is_remembered_by_nobody():
    made = authorizer()
    verdict = ask(made, FAILED)
    assert (verdict.reason, verdict.status) == (Reason.ISSUER_UNAVAILABLE, 503)
    assert ask(made, ACTIVE).is_allowed


def test_other_settings_of_the_issuer_ask_anew():
    made = authorizer()
    ask(made, ACTIVE)
    made.configure(
        token_issuer(introspection={**ASKS, "clientId": "others"}),
        access_policy(READ, identify=WAYS),
        files=FILES,
    )
    assert ask(made).lookup is not None


def test_a_revoked_token_is_refused_though_it_is_remembered():
    made = authorizer()
    assert ask(made, ACTIVE).is_allowed
    record = Revocation(id="a", issuer=ISSUER, jti="x", expires_at=NOW)
    made.keys.revocations = Revocations([record])
    assert ask(made).reason is Reason.REVOKED


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("a b", Reason.MALFORMED_TOKEN),
        ("ä", Reason.MALFORMED_TOKEN),
        ("=a", Reason.MALFORMED_TOKEN),
        ("x" * 9000, Reason.TOKEN_TOO_LARGE),
    ],
)
def test_what_can_be_no_token_is_never_asked_about(token, reason):
    verdict = ask(authorizer(), token=token)
    assert (verdict.reason, verdict.lookup) == (reason, None)


def test_a_token_is_a_jwt_first_and_opaque_else():
    issuer = token_issuer(jwks(ec_signer()), introspection=ASKS)
    ways = [{"jwt": {"issuers": ["main"]}, "onInvalid": "skip"}, *WAYS]
    made = Authorizer(issuer, access_policy({"name": "any"}, identify=ways), files=FILES)
    assert ask(made, token=ec_signer().token()).principal.name == "jwt:rita"
    assert ask(made, ACTIVE).principal.name == "opaque:rita"


@pytest.mark.parametrize(
    ("issuer", "files", "told"),
    [
        (token_issuer(introspection=ASKS), {}, "the file 's' is missing, empty or can't be read"),
        (token_issuer(introspection=ASKS), {"s": b"\xff"}, "the file 's' is not UTF-8 text"),
        (token_issuer(jwks(ec_signer())), {}, "TokenIssuer 'main' has no introspection"),
        (token_issuer(), {}, "at least one of jwks, introspection is needed"),
        (
            token_issuer(introspection={**ASKS, "discovery": "oidc"}),
            FILES,
            "exactly one of url, discovery is needed",
        ),
        (
            token_issuer(jwks={"discovery": "oidc"}, issuer="not-a-url"),
            {},
            "an issuer whose document is to be discovered must be a URL",
        ),
    ],
)
def test_a_configuration_that_can_not_work_is_refused(issuer, files, told):
    with pytest.raises(InvalidInput, match=told):
        configured(issuer, access_policy(READ, identify=WAYS), files=files)


RFC_7662_EXAMPLE = {
    "active": True,
    "client_id": "l238j323ds-23ij4",
    "username": "jdoe",
    "scope": "read write dolphin",
    "sub": "Z5O3upPC88QrAjx00dis",
    "aud": "https://protected.example.net/resource",
    "iss": "https://server.example.com/",
    "exp": 1419356238,
    "iat": 1419350238,
    "extension_field": "twenty-seven",
}


def test_the_standards_own_example_is_read():
    """RFC 7662 section 2.2: an active token, and the answer to one that is not."""
    issuer = token_issuer(
        issuer="https://server.example.com/",
        audiences=["https://protected.example.net/resource"],
        introspection=ASKS,
    )
    rule = {
        "name": "dolphins",
        "scopes": ["dolphin"],
        "when": "principal.claims.username == 'jdoe'",
    }
    made = Authorizer(issuer, access_policy(rule, identify=WAYS), files=FILES)
    made.now = 1419350239.0
    verdict = ask(made, RFC_7662_EXAMPLE)
    assert (verdict.rule, verdict.principal.name) == ("dolphins", "opaque:Z5O3upPC88QrAjx00dis")
    assert ask(made, {"active": False}, token="other").reason is Reason.INACTIVE_TOKEN


# --- discovery


@pytest.mark.parametrize(
    ("issuer", "flavour", "url"),
    [
        ("https://a.example", "oidc", "https://a.example/.well-known/openid-configuration"),
        ("https://a.example/t/", "oidc", "https://a.example/t/.well-known/openid-configuration"),
        ("https://a.example", "oauth", "https://a.example/.well-known/oauth-authorization-server"),
        (
            "https://a.example/issuer1",
            "oauth",
            "https://a.example/.well-known/oauth-authorization-server/issuer1",
        ),
    ],
)
def test_the_document_lies_where_the_standards_say(issuer, flavour, url):
    """OpenID Connect Discovery 1.0 section 4.1, and RFC 8414 section 3.1's example."""
    assert document_url(issuer, flavour) == url


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"issuer": "https://b.example", "jwks_uri": "https://a/"}', "names another issuer"),
        (b'{"issuer": "https://a.example/", "jwks_uri": "https://a/"}', "names another issuer"),
        (b"[]", "names another issuer, or none"),
        (b'{"issuer": "https://a.example"}', "has no jwks_uri"),
        (b'{"issuer": "https://a.example", "jwks_uri": "file:///k"}', "has no jwks_uri"),
        (b'{"issuer": "https://a.example", "jwks_uri": "http://a/"}', "gives a jwks_uri without"),
        (b"<html>", "not JSON"),
    ],
)
def test_a_document_that_is_another_issuers_or_less_secure_is_refused(content, told):
    with pytest.raises(InvalidInput, match=told):
        endpoint("https://a.example", content, "jwks_uri")
