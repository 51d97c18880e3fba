"""What the upstream sees: identity headers that only we set, and no credential."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.core.answers import is_grpc
from ext_authz.core.model import Append, Request
from tests.support.check_requests import Authorizer, access_policy, token_issuer
from tests.support.tokens import claims, ec_signer, jwks

SIGNER = ec_signer()
ISSUER = token_issuer(jwks(SIGNER))
RITA = SIGNER.token(claims(roles=["b", "a"], scope="s"))
RULES = (
    {"name": "open", "callers": "anyone", "paths": ["/open"]},
    {"name": "closed", "paths": ["/orders"]},
)
SOURCES = [
    {"header": "authorization", "scheme": "Bearer"},
    {"header": "x-token"},
    {"cookie": "session"},
    {"query": "access_token"},
]
PLACES = {"identify": [{"jwt": {"issuers": ["main"], "sources": SOURCES}}]}


def test_identity_headers_say_who_is_calling_and_overwrite():
    """Each attribute has its header; lists are sorted and joined; empty ones are not set."""
    attributes = ("principal", "subject", "kind", "issuer", "roles", "scopes", "groups")
    asked = Authorizer(
        ISSUER, access_policy(*RULES, identityHeaders={f"x-{name}": name for name in attributes})
    )
    verdict = asked.ask(token=RITA)
    assert {header.name: header.value for header in verdict.headers} == {
        "x-principal": "jwt:rita",
        "x-subject": "rita",
        "x-kind": "jwt",
        "x-issuer": "https://issuer.example.com",
        "x-roles": "a,b",
        "x-scopes": "s",
    }
    assert {header.append for header in verdict.headers} == {Append.OVERWRITE_IF_EXISTS_OR_ADD}
    assert "x-groups" in verdict.headers_to_remove


def test_spoofed_identity_never_passes():
    """Each policy's identity headers are removed where we don't set them; their twins, too."""
    asked = Authorizer(
        ISSUER,
        access_policy(*RULES),
        access_policy(name="other", hosts=["other"], identityHeaders={"x-other-user": "subject"}),
    )
    spoofed = {"x-auth-subject": "root", "x_auth_subject": "root", "x-auth_roles": "admin"}
    spoofed |= {"x-other-user": "root", "x_other-user": "root", "x_harmless": "1"}
    spoofed |= {"x.auth.subject": "root", "x-auth~roles": "admin"}
    verdict = asked.ask("/open", headers=spoofed)
    assert verdict.headers == ()
    assert set(spoofed) - {"x_harmless"} <= set(verdict.headers_to_remove)
    assert "x_harmless" not in verdict.headers_to_remove
    identified = asked.ask(token=RITA, headers=spoofed)
    assert {"x_auth_subject", "x-auth_roles", "x-other-user"} <= set(identified.headers_to_remove)


@given(
    target=st.sampled_from(["/open", "/orders", "/orders?access_token=x"]),
    token=st.sampled_from(["", RITA, "wrong"]),
    names=st.sets(
        st.sampled_from(["x-auth-subject", "x_auth_roles", "cookie", "x-token", "x-a"]), max_size=4
    ),
    is_forwarded=st.booleans(),
)
def test_no_header_is_both_set_and_removed(target, token, names, is_forwarded):
    """Removal wins in Envoy, so the identity would vanish."""
    asked = Authorizer(ISSUER, access_policy(*RULES, forwardCredential=is_forwarded, **PLACES))
    verdict = asked.ask(target, token=token, headers=dict.fromkeys(names, "session=1; a=b"))
    assert not {header.name for header in verdict.headers} & set(verdict.headers_to_remove)


# --- the credential goes no further


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/orders", {"authorization": f"Bearer {RITA}"}),
        ("/orders", {"authorization": f"bEARER   {RITA} "}),
        ("/orders", {"x-token": RITA}),
        ("/orders", {"cookie": f"a=b; session={RITA}; c=d"}),
        ("/orders", {"cookie": f'session="{RITA}"'}),
        (f"/orders?a=b&access_token={RITA}", {}),
        (f"/orders?access%5Ftoken={RITA}", {}),
    ],
)
@pytest.mark.parametrize("is_forwarded", [False, True])
def test_the_credential_is_taken_out_unless_a_policy_forwards_it(target, headers, is_forwarded):
    """A header, a cookie (the others stay), a query parameter, however its name is escaped."""
    asked = Authorizer(ISSUER, access_policy(*RULES, forwardCredential=is_forwarded, **PLACES))
    verdict = asked.ask(target, headers=headers)
    assert verdict.is_allowed, verdict
    left = seen_by_upstream(verdict, target, headers)
    assert (RITA in left) is is_forwarded
    if "a=b" in f"{target}{headers}":
        assert "a=b" in left


def seen_by_upstream(verdict, target: str, headers: dict[str, str]) -> str:
    """The request after Envoy did what the verdict says; it compares undecoded query names."""
    kept = {**headers, **{header.name: header.value for header in verdict.headers}}
    for name in verdict.headers_to_remove:
        kept.pop(name, None)
    path, _, query = target.partition("?")
    pairs = [pair for pair in query.split("&") if pair]
    removed = verdict.query_parameters_to_remove
    return f"{path}?{'&'.join(p for p in pairs if p.partition('=')[0] not in removed)} {kept}"


def test_wrong_credentials_are_taken_out_of_anonymous_requests_too():
    asked = Authorizer(ISSUER, access_policy(*RULES, **PLACES))
    headers = {"authorization": "Basic secret", "cookie": "session=secret", "x-token": "secret"}
    verdict = asked.ask("/open?access_token=secret&access%5ftoken=secret", headers=headers)
    assert verdict.is_allowed
    assert "secret" not in seen_by_upstream(
        verdict, "/open?access_token=secret&access%5ftoken=secret", headers
    )


# --- a header that a policy sets is not taken out again


@pytest.mark.parametrize("action", ["overwrite", "append", "addIfAbsent"])
def test_a_credential_may_be_exchanged_for_another_value(action):
    """Whatever the action: the credential itself is not there for it."""
    exchange = {"headers": [{"name": "authorization", "value": "Basic ours", "action": action}]}
    asked = Authorizer(ISSUER, access_policy(*RULES, upstream=exchange))
    verdict = asked.ask(token=RITA)
    assert {h.name: h.value for h in verdict.headers}["authorization"] == "Basic ours"
    assert all(h.append is Append.OVERWRITE_IF_EXISTS_OR_ADD for h in verdict.headers)
    assert "authorization" not in verdict.headers_to_remove


def test_another_policys_identity_header_may_be_set_and_else_is_taken_out():
    others = access_policy(
        name="others", hosts=["other.example.com"], identify=[], identityHeaders={"x-tier": "kind"}
    )
    sets = {"headers": [{"name": "x-tier", "value": "gold"}]}
    asked = Authorizer(ISSUER, access_policy(*RULES, upstream=sets), others)
    verdict = asked.ask(token=RITA, headers={"x-tier": "theirs"})
    assert {h.name: h.value for h in verdict.headers}["x-tier"] == "gold"
    assert "x-tier" not in verdict.headers_to_remove
    assert (
        "x-tier"
        in Authorizer(ISSUER, access_policy(*RULES), others).ask(token=RITA).headers_to_remove
    )


def test_grpc_web_is_no_grpc():
    for content_type, is_it in (
        ("application/grpc", True),
        ("application/grpc+proto", True),
        ("application/grpc-web", False),
        ("application/grpcfoo", False),
    ):
        request = Request("POST", "h", "/a.B/C", {"content-type": content_type})
        assert is_grpc(request) is is_it
