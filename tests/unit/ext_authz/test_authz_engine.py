"""What `decide` says: which rule, which status, which reason."""

from __future__ import annotations

import inspect
import threading

import pytest

from ext_authz.core.engine import decide
from ext_authz.core.model import Reason, Request
from tests.support.check_requests import (
    Authorizer,
    access_policy,
    access_role,
    role_binding,
    token_issuer,
)
from tests.support.tokens import claims, ec_signer, jwks

SIGNER = ec_signer()
ISSUER = token_issuer(jwks(SIGNER))
RITA = SIGNER.token(claims(sub="rita", roles=["reader"], scope="read write", groups=["staff"]))
ANYTHING = {"name": "anything", "paths": ["/**"]}


def authorizer(*rules, **spec) -> Authorizer:
    return Authorizer(ISSUER, access_policy(*rules, **spec))


# --- allow, deny, nothing


def test_what_no_rule_allows_is_denied():
    """An identified caller gets 403, an unknown one 401 with the reason why it is unknown."""
    asked = authorizer({"name": "orders", "paths": ["/orders"]})
    known, unknown = asked.ask("/other", token=RITA), asked.ask("/other")
    assert (known.is_allowed, known.status, known.reason) == (False, 403, Reason.NO_RULE_ALLOWS)
    assert (unknown.status, unknown.reason) == (401, Reason.MISSING_CREDENTIAL)
    assert (known.principal.name, known.policy) == ("jwt:rita", "orders")


def test_a_deny_rule_wins_wherever_it_stands():
    deny = {"name": "no-deletes", "effect": "deny", "methods": ["DELETE"]}
    for rules in ([ANYTHING, deny], [deny, ANYTHING]):
        verdict = authorizer(*rules).ask(token=RITA, method="DELETE")
        assert (verdict.is_allowed, verdict.status) == (False, 403)
        assert (verdict.reason, verdict.rule) == (Reason.DENIED_BY_RULE, "no-deletes")
        assert authorizer(*rules).ask(token=RITA, method="GET").rule == "anything"


def test_a_method_is_read_without_regard_to_case():
    """Many upstreams read `delete` as DELETE, so a deny rule must, too."""
    deny = {"name": "no-deletes", "effect": "deny", "methods": ["DELETE"]}
    asked = authorizer(ANYTHING, deny, {"name": "conditional", "when": 'request.method == "GET"'})
    assert asked.ask(token=RITA, method="dElEtE").reason is Reason.DENIED_BY_RULE


def test_a_deny_rule_reaches_callers_that_nobody_knows():
    everyone = {"name": "open", "callers": "anyone", "paths": ["/**"]}
    deny = {"name": "closed", "effect": "deny", "paths": ["/private/**"]}
    asked = authorizer(everyone, deny)
    assert asked.ask("/private/x").reason is Reason.DENIED_BY_RULE
    assert asked.ask("/public").is_allowed


def test_a_policy_without_a_way_to_identify_has_no_401():
    """Nothing that the caller could send would help."""
    verdict = authorizer(ANYTHING, identify=[]).ask(token=RITA)
    assert (verdict.status, verdict.reason) == (403, Reason.NO_RULE_ALLOWS)


def test_a_rule_for_anyone_ignores_a_wrong_credential():
    everyone = {"name": "open", "callers": "anyone"}
    verdict = authorizer(everyone).ask(token="no.to.ken")
    assert (verdict.is_allowed, verdict.principal.name) == (True, "anonymous")
    assert "authorization" in verdict.headers_to_remove


def test_a_challenge_names_each_way_to_identify_once():
    """RFC 6750 section 3.1: an error code only where a bearer token was sent."""
    asked = authorizer(ANYTHING, realm="shop")
    assert asked.ask().challenges == ('Bearer realm="shop"', 'ApiKey realm="shop"')
    bearer = asked.ask(token="a.b").challenges[0]
    assert bearer.startswith('Bearer realm="shop", error="invalid_token", error_description="')
    basic = asked.ask(headers={"authorization": "Basic cml0YTpwYXNz"})
    assert basic.reason is Reason.UNSUPPORTED_SCHEME
    assert basic.challenges == asked.ask().challenges


# --- conditions


def test_a_condition_that_fails_does_not_match_in_an_allow_rule():
    """It is named, so that it is counted, and the next rule is asked."""
    failing = {"name": "failing", "when": 'principal.claims["none"] == "x"'}
    verdict = authorizer(failing).ask(token=RITA)
    assert (verdict.reason, verdict.failed_conditions) == (Reason.NO_RULE_ALLOWS, ("failing",))
    verdict = authorizer(failing, ANYTHING).ask(token=RITA)
    assert (verdict.rule, verdict.failed_conditions) == ("anything", ("failing",))


def test_a_condition_that_fails_denies_in_a_deny_rule():
    failing = {"name": "failing", "effect": "deny", "when": 'principal.claims["none"] == "x"'}
    verdict = authorizer(ANYTHING, failing).ask(token=RITA)
    assert (verdict.is_allowed, verdict.status) == (False, 403)
    assert (verdict.reason, verdict.rule) == (Reason.CONDITION_FAILED, "failing")
    assert verdict.failed_conditions == ("failing",)


@pytest.mark.parametrize(
    "condition",
    [
        'request.method == "GET"',
        'request.host == "api.example.com"',
        'request.path == "/orders/1"',
        'request.query["a"] == ["1", "2"]',
        'request.headers["x-tenant"] == "blue"',
        'request.time == timestamp("2027-01-15T08:00:00Z")',
        'source.address == "10.1.2.3"',
        'principal.name == "jwt:rita" && principal.kind == "jwt" && principal.subject == "rita"',
        'principal.issuer == "https://issuer.example.com"',
        '"reader" in principal.roles && "read" in principal.scopes',
        '"staff" in principal.groups && principal.claims.aud == "orders"',
    ],
)
def test_each_variable_has_what_its_name_says(condition):
    """Host and method in the form that rules see: without port, in one case."""
    verdict = authorizer({"name": "only", "when": condition}).ask(
        "//orders/%31?a=1&a=2",
        token=RITA,
        method="get",
        host="API.Example.com.:8443",
        headers={"x-tenant": "blue"},
    )
    assert verdict.is_allowed, verdict


def test_a_condition_can_hold_nobody_up():
    """Nested loops over 10^9 pairs end in an iteration budget: the condition has failed."""
    loop = "request.query.a"
    text = f"{loop}.all(a, {loop}.all(b, {loop}.all(c, a + b + c != 'x')))"
    verdict = authorizer({"name": "loop", "when": text}).ask(
        f"/?{'&'.join('a=1' for _ in range(1000))}", token=RITA
    )
    assert verdict.failed_conditions == ("loop",)


@pytest.mark.parametrize("query", ["&".join("a=1" for _ in range(1001)), "a=1;b=2"])
def test_a_variable_that_the_request_does_not_have_fails_the_conditions_that_read_it(query):
    """More parameters than anybody reads, or a separator that not everybody takes for one: a deny
    rule denies, an allow rule doesn't match, and conditions over other things go on.
    """
    reads = "size(request.query) < 5000"
    asked = authorizer({"name": "true", "when": reads})
    assert asked.ask(f"/?{query}", token=RITA).failed_conditions == ("true",)
    verdict = authorizer(ANYTHING, {"name": "never", "effect": "deny", "when": f"!({reads})"})
    assert verdict.ask(f"/?{query}", token=RITA).reason is Reason.CONDITION_FAILED
    assert authorizer({"name": "other", "when": "true"}).ask(f"/?{query}", token=RITA).is_allowed


# --- what a rule may ask of the caller


@pytest.mark.parametrize(
    ("wanted", "is_allowed"),
    [
        ({"roles": ["reader"]}, True),
        ({"roles": ["admin", "auditor"]}, True),
        ({"roles": ["owner"]}, False),
        ({"permissions": ["orders:read", "logs:read"]}, True),
        ({"permissions": ["orders:read", "orders:own"]}, False),
        ({"scopes": ["read"]}, True),
        ({"scopes": ["read", "admin"]}, False),
        ({"groups": ["staff", "other"]}, True),
        ({"groups": ["other"]}, False),
        ({"principals": ["jwt:rita"]}, True),
        ({"principals": ["key:rita", "jwt:rit"]}, False),
        ({"methods": ["GET", "HEAD"], "paths": ["/orders"], "roles": ["reader"]}, True),
        ({"methods": ["POST"], "roles": ["reader"]}, False),
    ],
)
def test_a_rule_matches_when_everything_that_it_names_holds(wanted, is_allowed):
    """Any of the roles, groups, principals; all permissions and scopes."""
    asked = Authorizer(
        ISSUER,
        access_role("reader", "orders:read"),
        access_role("auditor", "logs:read"),
        access_role("owner", "orders:own"),
        access_role("admin", inherits=["owner"]),
        role_binding("auditor", {"group": "staff"}),
        access_policy({"name": "only", **wanted}),
    )
    assert asked.ask(token=RITA).is_allowed is is_allowed


def test_roles_come_from_token_binding_and_inheritance_together():
    """A binding to a principal names its kind; inheritance goes any number of steps."""
    asked = Authorizer(
        ISSUER,
        access_role("a", inherits=["b"]),
        access_role("b", inherits=["c"]),
        access_role("c", "deep:down"),
        role_binding("a", {"principal": "jwt:rita"}),
        access_policy(
            {"name": "only", "permissions": ["deep:down"]},
            identityHeaders={"x-roles": "roles"},
        ),
    )
    verdict = asked.ask(token=RITA)
    assert verdict.is_allowed
    assert verdict.headers[0].value == "a,b,c,reader"
    assert not asked.ask(token=SIGNER.token(claims(sub="other"))).is_allowed


# --- hosts


@pytest.mark.parametrize(
    ("host", "policy"),
    [
        ("api.example.com", "exact"),
        ("API.example.COM:8443", "exact"),
        ("api.example.com.", "exact"),
        ("x.api.example.com", "near"),
        ("a.b.api.example.com", "near"),
        ("other.example.com", "far"),
        ("example.com", "any"),
        ("evilexample.com", "any"),
        ("[2001:db8::1]:80", "six"),
        ("[2001:DB8::1]", "six"),
    ],
)
def test_the_most_specific_host_pattern_decides(host, policy):
    """The exact name, else the longest wildcard, else `*`; port and case don't count."""
    hosts = {
        "exact": "api.example.com",
        "near": "*.API.example.com",
        "far": "*.example.com",
        "six": "[2001:db8::1]",
        "any": "*",
    }
    asked = Authorizer(
        ISSUER, *(access_policy(ANYTHING, name=n, hosts=[h]) for n, h in hosts.items())
    )
    assert asked.ask(token=RITA, host=host).policy == policy


@pytest.mark.parametrize(
    "host",
    [
        "",
        "*",
        "evil.com,a.example.com",
        "evil.com a.example.com",
        "x@a.example.com",
        "evil.com?a.example.com",
        "a.example.com:evil",
        "a.example.com:80:80",
        "a.example.com..",
        ".a.example.com",
        "[::1",
        "a.example.com\x00",
        "a." * 1_000_000 + "example.com",
    ],
    ids=lambda host: repr(host[:30]),
)
def test_a_host_that_servers_could_read_in_two_ways_is_denied(host: str):
    """Two Host lines arrive joined by a comma; a rule for one must not let the other in."""
    asked = authorizer(ANYTHING, hosts=["*", "*.example.com"])
    verdict = asked.ask(token=RITA, host=host)
    assert (verdict.reason, verdict.status) == (Reason.INVALID_HOST, 403)


def test_a_host_that_no_policy_covers_is_denied():
    verdict = authorizer(ANYTHING, hosts=["api.example.com"]).ask(token=RITA, host="other")
    assert (verdict.status, verdict.reason) == (403, Reason.NO_POLICY_FOR_HOST)


def test_too_many_headers_are_denied_before_envoy_answers_an_empty_500():
    asked = authorizer(ANYTHING)
    many = {f"x-{number}": "" for number in range(80)}
    assert asked.ask(token=RITA, headers=many).reason is Reason.TOO_MANY_HEADERS
    few = Request("GET", "h", "/", {"authorization": f"Bearer {RITA}"}, header_count=81)
    assert asked.decide(few).status == 431


# --- no lock, no await


def test_a_decision_takes_no_lock_and_no_await(monkeypatch):
    """`decide` is a plain function, and works where every lock fails."""
    asked = authorizer({"name": "only", "scopes": ["read"], "when": "principal.name != ''"})
    asked.ask(token=RITA)

    def refuse(*_arguments, **_options):
        raise AssertionError("a lock was taken")

    for name in ("Lock", "RLock", "Condition", "Semaphore", "Event"):
        monkeypatch.setattr(threading, name, refuse)
    monkeypatch.setattr("asyncio.get_running_loop", refuse)
    for token in (RITA, SIGNER.token(claims(sub="new", scope="read"))):
        assert asked.ask(token=token).is_allowed
    assert not inspect.iscoroutinefunction(decide)
