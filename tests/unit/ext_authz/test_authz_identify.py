"""Finding the one credential, and remembering what was verified no longer than it stands."""

from __future__ import annotations

import dataclasses

import pytest

from ext_authz.core.lookups import IssuerKeysLookup
from ext_authz.core.model import ANONYMOUS, Principal, Reason, Request
from ext_authz.core.policies import Issuer
from ext_authz.core.token_memory import SECONDS_AT_MOST, RememberedToken, TokenMemory
from tests.support.check_requests import Authorizer, access_policy, token_issuer
from tests.support.tokens import ISSUER, NOW, claims, ec_signer, ed_signer, jwks

EC, ED = ec_signer(), ed_signer()
SOURCES = [
    {"header": "authorization", "scheme": "Bearer"},
    {"cookie": "session"},
    {"query": "access_token"},
]
PLACES = [{"jwt": {"issuers": ["main"], "sources": SOURCES}}, {"apiKey": {}}]
ANY_CALLER = access_policy({"name": "any"}, identify=PLACES)
TOKEN = EC.token()


def authorizer(*keys, **spec) -> Authorizer:
    return Authorizer(token_issuer(jwks(*keys or (EC,)), **spec), ANY_CALLER)


# --- exactly one credential


@pytest.mark.parametrize(
    ("target", "headers", "reason"),
    [
        ("/", {"authorization": f"Bearer {TOKEN}"}, "allowed"),
        ("/", {"cookie": f"session={TOKEN}"}, "allowed"),
        (f"/?access_token={TOKEN}", {}, "allowed"),
        ("/", {}, "missing_credential"),
        ("/", {"cookie": "other=1"}, "missing_credential"),
        ("/?other=access_token", {}, "missing_credential"),
        ("/", {"authorization": f"Bearer {TOKEN},Bearer {TOKEN}"}, "multiple_credentials"),
        ("/", {"authorization": f"Bearer {TOKEN}, Basic eDp5"}, "multiple_credentials"),
        ("/", {"authorization": f"Bearer {TOKEN}", "x-api-key": ""}, "multiple_credentials"),
        ("/", {"authorization": "Basic eDp5", "x-api-key": "k"}, "multiple_credentials"),
        ("/", {"cookie": f"session={TOKEN}; session={TOKEN}"}, "multiple_credentials"),
        (f"/?access_token={TOKEN}&access_token={TOKEN}", {}, "multiple_credentials"),
        (f"/?access_token={TOKEN}&access%5Ftoken=x", {}, "multiple_credentials"),
        ("/", {"authorization": "Basic eDp5"}, "unsupported_scheme"),
        ("/", {"authorization": f"Basic eDp5,Bearer {TOKEN}"}, "unsupported_scheme"),
        ("/", {"authorization": f"Bearer\t{TOKEN}"}, "unsupported_scheme"),
        ("/?" + "a&" * 1001 + f"access_token={TOKEN}", {}, "unsupported_scheme"),
        ("/", {"authorization": "Bearer"}, "malformed_token"),
        ("/", {"authorization": ""}, "unsupported_scheme"),
        ("/", {"x-api-key": "mwk_wrong"}, "invalid_api_key"),
    ],
)
def test_a_request_has_exactly_one_credential_or_is_401(target, headers, reason):
    """None is picked among several: the upstream may pick another."""
    verdict = authorizer().decide(Request("GET", "h", target, headers))
    assert verdict.reason == reason
    assert verdict.is_allowed or verdict.status == 401


def test_a_token_is_trusted_by_the_policies_that_name_its_issuer_only():
    """Also when it is remembered from another host's policy."""
    other = token_issuer(jwks(ED), name="other", issuer="https://other", subjectPrefix="o/")
    asked = Authorizer(
        token_issuer(jwks(EC)),
        other,
        access_policy({"name": "a"}, hosts=["a"], identify=PLACES),
        access_policy(
            {"name": "b"}, name="b", hosts=["b"], identify=[{"jwt": {"issuers": ["other"]}}]
        ),
    )
    for _ in range(2):
        assert asked.ask(token=TOKEN, host="a").is_allowed
        assert asked.ask(token=TOKEN, host="b").reason is Reason.UNKNOWN_ISSUER
    token = ED.token(claims(iss="https://other", sub="rita"))
    assert asked.ask(token=token, host="b").principal.name == "jwt:o/rita"


def test_a_token_cannot_speak_as_a_key():
    """The principal begins with its kind, whatever the subject says."""
    asked = Authorizer(
        token_issuer(jwks(EC)), access_policy({"name": "a", "principals": ["key:service"]})
    )
    for subject in ("service", "key:service"):
        verdict = asked.ask(token=EC.token(claims(sub=subject)))
        assert (verdict.is_allowed, verdict.principal.name) == (False, f"jwt:{subject}")


def test_roles_scopes_and_groups_stand_where_the_issuer_says():
    """Dots lead into objects, unless a claim has the whole name; a string is split at spaces."""
    names = {"roles": "realm.access.roles", "scopes": "https://x.example/s", "groups": "g"}
    asked = authorizer(claims=names)
    token = EC.token(
        claims(
            realm={"access": {"roles": ["a", "b"]}}, g="one two", **{"https://x.example/s": ["s"]}
        )
    )
    principal = asked.ask(token=token).principal
    assert (principal.roles, principal.scopes, principal.groups) == (
        {"a", "b"},
        {"s"},
        {"one", "two"},
    )
    for realm in ("text", {"access": []}, {}):
        assert asked.ask(token=EC.token(claims(realm=realm))).principal.roles == frozenset()


@pytest.mark.parametrize("roles", [["", "reader"], ["a,b"], ["a\n"], [7], {"a": "b"}, 7])
def test_a_role_that_no_header_can_carry_refuses_the_token(roles: object):
    verdict = authorizer().ask(token=EC.token(claims(roles=roles)))
    assert verdict.reason is Reason.INVALID_CLAIMS


# --- unknown keys


def test_an_unknown_key_asks_for_a_refresh_only_where_keys_are_fetched():
    assert authorizer().ask(token=ED.token()).lookup is None
    asked = authorizer(jwks={"url": "https://issuer.example.com/jwks.json"})
    verdict = asked.ask(token=TOKEN)
    assert (verdict.reason, verdict.lookup) == (Reason.UNKNOWN_KEY, IssuerKeysLookup("main"))


# --- a remembered token dies with its reason


def remembering() -> Authorizer:
    asked = authorizer(EC, ED)
    assert asked.ask(token=TOKEN).is_allowed
    assert asked.ask(token=TOKEN).is_allowed
    assert asked.keys.remembered.hits == 1
    return asked


def test_a_remembered_token_costs_no_second_verification(monkeypatch):
    asked = remembering()
    monkeypatch.setattr("ext_authz.core.jose.parse_token", None)
    assert asked.ask(token=TOKEN).is_allowed


def test_a_remembered_token_dies_when_it_expires():
    asked = remembering()
    short = EC.token(claims(exp=NOW + 2))
    assert asked.ask(token=short).is_allowed
    asked.now = NOW + 1.999
    assert asked.ask(token=short).is_allowed
    asked.now = NOW + 2
    assert asked.ask(token=short).reason is Reason.EXPIRED


def test_a_remembered_token_dies_with_its_key():
    asked = remembering()
    asked.keys.issuer_keys = Authorizer(token_issuer(jwks(ED)), ANY_CALLER).keys.issuer_keys
    assert asked.ask(token=TOKEN).reason is Reason.UNKNOWN_KEY
    assert len(asked.keys.remembered) == 0


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"audiences": ["another"]}, Reason.WRONG_AUDIENCE),
        ({"algorithms": ["EdDSA"]}, Reason.ALGORITHM_NOT_ALLOWED),
        ({"issuer": ISSUER + "/2"}, Reason.UNKNOWN_ISSUER),
        ({"tokenType": "at+jwt"}, Reason.INVALID_CLAIMS),
    ],
)
def test_a_remembered_token_dies_with_its_issuers_settings(spec, reason):
    """Even where the keys are the very same."""
    asked = remembering()
    keys = asked.keys.issuer_keys
    asked.configure(token_issuer(jwks(EC, ED), **spec), ANY_CALLER)
    asked.keys.issuer_keys = keys
    assert asked.ask(token=TOKEN).reason is reason


def test_a_changed_subject_prefix_changes_remembered_principals():
    asked = remembering()
    asked.configure(token_issuer(jwks(EC, ED), subjectPrefix="new/"), ANY_CALLER)
    assert asked.ask(token=TOKEN).principal.name == "jwt:new/rita"


def test_a_remembered_token_is_verified_again_after_five_minutes(monkeypatch):
    asked = remembering()
    monkeypatch.setattr("ext_authz.core.jose.parse_token", _fail)
    asked.now = NOW + SECONDS_AT_MOST - 0.001
    assert asked.ask(token=TOKEN).is_allowed
    asked.now = NOW + SECONDS_AT_MOST
    with pytest.raises(_VerifiedAgain):
        asked.ask(token=TOKEN)


class _VerifiedAgain(Exception):
    pass


def _fail(_text: str) -> None:
    raise _VerifiedAgain


def test_the_memory_is_bounded_and_forgets_the_oldest():
    memory, token = TokenMemory(entries_at_most=2), _remembered()
    for name in "abc":
        memory.remember(name, token)
    assert [memory.find(name, NOW) is not None for name in "abc"] == [False, True, True]
    assert (len(memory), memory.hits, memory.misses) == (2, 2, 1)
    none = TokenMemory(entries_at_most=0)
    none.remember("a", token)
    assert len(none) == 0


def test_the_memory_keeps_no_token():
    memory = TokenMemory()
    memory.remember(TOKEN, _remembered())
    assert TOKEN not in repr(vars(memory))


def _remembered() -> RememberedToken:
    issuer = next(iter(authorizer().policies.issuers.values()))
    assert isinstance(issuer, Issuer)
    principal: Principal = dataclasses.replace(ANONYMOUS)
    return RememberedToken(principal, NOW + 1, issuer, issuer.keys)
