"""Laws of tokens and decisions, over anything that could be sent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ext_authz.core.engine import decide, examine
from ext_authz.core.facts import Facts
from ext_authz.core.hosts import normalized_host
from ext_authz.core.identify import identify
from ext_authz.core.jose import Malformed, parse_token
from ext_authz.core.known import Known
from ext_authz.core.model import Reason, Request, Verdict
from ext_authz.core.paths import normalized, split_target
from tests.support.check_requests import (
    Authorizer,
    access_policy,
    access_role,
    configured,
    token_issuer,
)
from tests.support.tokens import NOW, base64url, claims, ec_signer, jwks

EC = ec_signer()
ISSUER = token_issuer(jwks(EC))
TOKEN = EC.token(claims(sub="rita", roles=["reader"]))
SOURCES = [
    {"header": "authorization", "scheme": "Bearer"},
    {"cookie": "session"},
    {"query": "t"},
]
IDENTIFY = [{"jwt": {"issuers": ["main"], "sources": SOURCES}}, {"apiKey": {}}]

parts = st.binary(max_size=20).map(base64url) | st.sampled_from(["", "e30", "=", "."])
jsonish = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


# --- tokens


@given(st.text() | st.lists(parts, max_size=4).map(".".join))
def test_reading_a_token_raises_nothing_but_malformed(text):
    try:
        token = parse_token(text)
    except Malformed:
        return
    assert token.algorithm
    assert token.signature


@given(
    st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "cty"]), jsonish),
    st.dictionaries(st.sampled_from(["iss", "aud", "sub", "exp", "nbf", "iat", "roles"]), jsonish),
)
def test_a_signed_token_of_any_claims_is_decided(header, payload):
    """Whatever a trusted issuer signs, the answer is a verdict."""
    asked = Authorizer(ISSUER, access_policy({"name": "any"}))
    token = EC.compact({"alg": "ES256", "kid": "ec", **header}, claims(**payload))
    verdict = asked.ask(token=token)
    assert verdict.is_allowed == (verdict.reason is Reason.ALLOWED)


@given(
    place=st.integers(0, len(TOKEN) - 1),
    character=st.sampled_from("ABCxyz019-_.=~é\n") | st.characters(codec="utf-8"),
    is_inserted=st.booleans(),
)
def test_a_changed_token_is_never_accepted(place, character, is_inserted):
    """Neither as another principal nor, in another spelling, as the same."""
    changed = TOKEN[:place] + character + TOKEN[place + (not is_inserted) :]
    if changed.strip() == TOKEN:
        return
    asked = Authorizer(ISSUER, access_policy({"name": "any"}))
    assert asked.ask(token=TOKEN).is_allowed
    assert not asked.ask(token=changed).is_allowed


# --- decisions

RULES = [
    {"name": "public", "callers": "anyone", "paths": ["/public/**"]},
    {"name": "readers", "methods": ["GET"], "paths": ["/orders/{id}"], "roles": ["reader"]},
    {"name": "conditional", "callers": "anyone", "when": 'request.headers["x-a"] == request.path'},
    {"name": "broken", "when": 'principal.claims["none"] == 1'},
    {"name": "no-deletes", "effect": "deny", "methods": ["DELETE"]},
    {"name": "no-x", "effect": "deny", "when": '"x" in request.query'},
]
POLICY = access_policy(*RULES, identify=IDENTIFY)
RESOURCES = (ISSUER, access_role("reader"))
MADE = Authorizer(*RESOURCES, POLICY)

anything = st.text(st.characters(), max_size=12)
targets = anything | st.sampled_from(
    ["/public/x", "/orders/1", "/orders/1?x", f"/orders/1?t={TOKEN}", "/a", "/public/../orders/1"]
)
header_values = anything | st.sampled_from(
    ["/a", TOKEN, f"Bearer {TOKEN}", f"session={TOKEN}", "Basic x", "mwk_x"]
)
header_names = anything | st.sampled_from(["authorization", "cookie", "x-api-key", "x-a", "x_a"])
requests = st.builds(
    Request,
    method=st.sampled_from(["GET", "DELETE", "delete", "POST"]) | anything,
    host=anything | st.sampled_from(["api.example.com", "[::1]:80", "*", ".", ":"]),
    target=targets,
    headers=st.dictionaries(header_names, header_values, max_size=4),
    header_count=st.integers(0, 100),
    source_address=anything,
)


@given(requests)
def test_a_decision_never_raises_and_allows_only_by_a_rule_that_matches(request_):
    """The rule that it names matches, no deny rule does, and identity is sent only of the known."""
    verdict = MADE.decide(request_)
    if not verdict.is_allowed:
        assert verdict.status >= 400
        return
    policy = MADE.policies.policies.find(normalized_host(request_.host))
    path, query = split_target(request_.target)
    identity = identify(request_, query, Known(policy, MADE.keys, NOW))
    facts = Facts(
        request_,
        normalized(path),
        query,
        identity=identity,
        policy=policy,
        now=NOW,
    )
    assert next(r.name for r in policy.allow_rules if examine(r, facts).matches) == verdict.rule
    assert not any(
        examine(r, facts).matches or examine(r, facts).has_failed for r in policy.deny_rules
    )
    assert facts.is_identified or verdict.headers == () or verdict.headers[0].name == "cookie"


@given(st.permutations(RULES), requests)
def test_the_order_of_rules_never_changes_the_verdict(rules, request_):
    """It may change which rule is named."""
    permuted = configured(*RESOURCES, access_policy(*rules, identify=IDENTIFY)).policies
    verdicts: list[Verdict] = [
        decide(request_, policies, MADE.keys, NOW) for policies in (MADE.policies, permuted)
    ]
    assert verdicts[0].is_allowed == verdicts[1].is_allowed
    assert verdicts[0].status == verdicts[1].status
