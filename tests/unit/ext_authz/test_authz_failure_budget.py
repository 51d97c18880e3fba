"""A flood of wrong credentials buys no unbounded work, and costs nobody else anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.core import failure_budget
from ext_authz.core.api_keys import KeyRecord, digest, make_key
from ext_authz.core.failure_budget import FailureBudget, site_of
from ext_authz.core.key_memory import RememberedApiKeys
from ext_authz.core.lookups import FAILED
from ext_authz.core.model import Reason, Request, Verdict
from tests.support.check_requests import HOST, Authorizer, access_policy, token_issuer
from tests.support.tokens import NOW, claims, ec_signer, ed_signer, jwks

EC = ec_signer()
ANY = {"name": "any"}
AT_ONCE = 3


def authorizer(**spec: object) -> Authorizer:
    made = Authorizer(token_issuer(jwks(EC)), access_policy(ANY, **spec))
    made.keys.budget = FailureBudget(at_once=AT_ONCE, per_second=1)
    return made


def ask(
    made: Authorizer, token: str, *, address: str = "192.0.2.1", forwarded: str = ""
) -> Verdict:
    headers = {"authorization": f"Bearer {token}"}
    if forwarded:
        headers["x-forwarded-for"] = forwarded
    return made.decide(Request("GET", HOST, "/", headers, source_address=address))


def exhaust(made: Authorizer, **options: str) -> None:
    for number in range(AT_ONCE):
        assert ask(made, f"wrong{number}", **options).reason is Reason.MALFORMED_TOKEN
    verdict = ask(made, "wrong", **options)
    assert (verdict.reason, verdict.status) == (Reason.TOO_MANY_FAILURES, 429)


def test_beyond_the_budget_unknown_credentials_are_refused_and_known_ones_served(monkeypatch):
    """Unverified: not even a right signature is looked at."""
    made, known, unknown = authorizer(), EC.token(), EC.token(claims(sub="otto"))
    assert ask(made, known).is_allowed
    exhaust(made)
    monkeypatch.setattr("ext_authz.core.jose.parse_token", None)
    assert ask(made, known).is_allowed
    assert ask(made, unknown).reason is Reason.TOO_MANY_FAILURES
    monkeypatch.undo()
    assert ask(made, unknown, address="192.0.2.2").is_allowed


def test_the_budget_fills_with_time():
    made = authorizer()
    exhaust(made)
    made.now += 1
    assert ask(made, "wrong").reason is Reason.MALFORMED_TOKEN
    assert ask(made, "wrong").reason is Reason.TOO_MANY_FAILURES


def test_valid_credentials_cost_nothing_however_many():
    made = authorizer()
    for number in range(5 * AT_ONCE):
        assert ask(made, EC.token(claims(jti=str(number)))).is_allowed
    assert len(made.keys.budget) == 0


def test_behind_a_trusted_proxy_each_client_has_its_own_budget():
    made = authorizer(trustedProxies=["192.0.2.0/24"])
    exhaust(made, forwarded="198.51.100.1")
    assert ask(made, "wrong", forwarded="198.51.100.2").reason is Reason.MALFORMED_TOKEN
    spoofing = authorizer()
    exhaust(spoofing, forwarded="198.51.100.1")
    assert ask(spoofing, "x", forwarded="198.51.100.2").reason is Reason.TOO_MANY_FAILURES


def test_an_unknown_key_of_an_issuer_costs_one_however_often_it_is_decided():
    made = Authorizer(token_issuer(jwks={"url": "https://i/"}), access_policy(ANY))
    made.keys.budget = FailureBudget(at_once=1, per_second=1)
    token = ed_signer().token()
    headers = {"authorization": f"Bearer {token}"}
    request = Request("GET", HOST, "/", headers)
    lookup = made.decide(request).lookup
    assert lookup is not None
    assert made.decide(request, {lookup: None}).reason is Reason.UNKNOWN_KEY
    assert made.decide(request).reason is Reason.TOO_MANY_FAILURES


@pytest.mark.parametrize(("answer", "is_spent"), [("record", False), (None, True), (FAILED, False)])
def test_a_look_up_costs_one_unless_the_key_is_good_or_the_store_is_away(answer, is_spent):
    """Concurrent ones, too: it is taken when the question is asked."""
    key = make_key(bytes(32))
    made = Authorizer(access_policy(ANY, identify=[{"apiKey": {}}]))
    made.keys.budget = FailureBudget(at_once=1, per_second=0.001)
    memory = RememberedApiKeys(entries_at_most=10, serves_stale=True)
    made.keys.api_keys = memory
    record = KeyRecord(id="1", name="s", digest=digest(key, b""))
    first = made.ask(headers={"x-api-key": key})
    assert made.ask(headers={"x-api-key": key}).reason is Reason.TOO_MANY_FAILURES
    made.ask(headers={"x-api-key": key}, answers={first.lookup: record if answer else answer})
    again = made.ask(headers={"x-api-key": key})
    assert (again.reason is Reason.TOO_MANY_FAILURES) is is_spent


def test_a_key_of_another_namespace_or_a_revoked_one_costs_as_an_unknown_one():
    key = make_key(bytes(32))
    made = Authorizer(access_policy(ANY, identify=[{"apiKey": {}}]))
    made.keys.budget = FailureBudget(at_once=1, per_second=0.001)
    memory = RememberedApiKeys(entries_at_most=10, serves_stale=True)
    memory.remember(
        digest(key, b""), KeyRecord(id="1", name="s", digest=digest(key, b""), revoked_at=1)
    )
    made.keys.api_keys = memory
    assert made.ask(headers={"x-api-key": key}).reason is Reason.INVALID_API_KEY
    assert made.ask(headers={"x-api-key": key}).reason is Reason.TOO_MANY_FAILURES


def test_an_ipv6_site_shares_a_budget_and_a_mapped_address_is_ipv4():
    assert site_of("2001:db8:1:2::1") == site_of("2001:db8:1:2:ffff::")
    assert site_of("2001:db8:1:2::1") != site_of("2001:db8:1:3::1")
    assert site_of("::ffff:192.0.2.1") == site_of("192.0.2.1")
    assert site_of("not:an:address") == "not:an:address"


def test_the_number_of_addresses_is_bounded(monkeypatch):
    monkeypatch.setattr(failure_budget, "ADDRESSES_AT_MOST", 10)
    budget = FailureBudget(at_once=5, per_second=1)
    for number in range(50):
        assert budget.spend(str(number), NOW)
    assert len(budget) == 10


@given(
    st.lists(st.tuples(st.floats(0, 10), st.booleans()), max_size=40),
    st.integers(1, 5),
    st.floats(0.1, 3),
)
def test_no_more_is_spent_than_the_bucket_gave(steps, at_once, per_second):
    """What is given back is not counted; a clock that goes back gives nothing."""
    budget, now, spent = FailureBudget(at_once=at_once, per_second=per_second), 0.0, 0
    for passed, is_good in steps:
        now += passed
        if budget.spend("a", now):
            spent += not is_good
            if is_good:
                budget.give_back("a", now)
    assert spent <= at_once + now * per_second + 1e-6
