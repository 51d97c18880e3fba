"""What a rule may ask of the request, and what it does where that can be read in two ways."""

from __future__ import annotations

import datetime
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.core.addresses import client_address, covers, parse_networks
from ext_authz.core.bodies import Body, NoBody
from ext_authz.core.model import Reason, Request, Verdict
from ext_authz.core.paths import normalized, parse_pattern
from meshwarden.core.faults import InvalidInput
from tests.support.check_requests import HOST, Authorizer, access_policy, configured

ANYONE = {"callers": "anyone"}
OPEN = {"name": "open", **ANYONE}


def made(*rules: Any, **spec: Any) -> Authorizer:
    return Authorizer(access_policy(*rules, identify=[], **spec))


def verdict_of(asked: Authorizer, target: str = "/", **request: Any) -> Verdict:
    values = {"method": "GET", "host": HOST, "target": target, "headers": {}, **request}
    return asked.decide(Request(**values))


def is_allowed(rule: Any, target: str = "/", **request: Any) -> bool:
    """Whether a rule, alone, allows a request."""
    return verdict_of(made({"name": "r", **ANYONE, **rule}), target, **request).is_allowed


def is_denied(rule: Any, target: str = "/", **request: Any) -> bool:
    """Whether a rule denies a request that another rule allows."""
    deny = {"name": "d", "effect": "deny", **rule}
    return not verdict_of(made(OPEN, deny), target, **request).is_allowed


# --- headers and query

TENANT = {"headers": {"x-tenant": ["acme", "duke"]}}


@pytest.mark.parametrize(
    ("value", "allowed", "denied"),
    [
        ("acme", True, True),
        ("other", False, False),
        ("acme,duke", True, True),
        ("acme, other", False, True),
        ("other,acme", False, True),
        ("ACME", False, False),
        ("", False, False),
    ],
)
def test_of_several_header_values_all_must_be_named_to_allow_and_one_to_deny(
    value, allowed, denied
):
    headers = {"x-tenant": value}
    assert is_allowed(TENANT, headers=headers) is allowed
    assert is_denied(TENANT, headers=headers) is denied


def test_a_header_that_is_not_there_matches_nothing():
    assert not is_allowed(TENANT)
    assert not is_denied(TENANT)


DEBUG = {"query": {"debug": ["1"]}}


@pytest.mark.parametrize(
    ("query", "allowed", "denied"),
    [
        ("debug=1", True, True),
        ("d%65bug=%31", True, True),
        ("debug=1&debug=1", True, True),
        ("debug=1&debug=2", False, True),
        ("debug=2", False, False),
        ("", False, False),
        ("a=b;debug=1", False, True),
        ("&".join(["a=1"] * 1001), False, True),
    ],
)
def test_a_query_that_can_be_read_in_two_ways_is_allowed_by_nothing_and_denied(
    query, allowed, denied
):
    assert is_allowed(DEBUG, f"/?{query}") is allowed
    assert is_denied(DEBUG, f"/?{query}") is denied


# --- path variables


def test_a_condition_reads_the_named_segments_of_the_path_that_matches():
    rule = {
        "paths": ["/orders/{id}", "/users/{id}/orders/*"],
        "when": "request.path_variables.id == 'a b'",
    }
    assert is_allowed(rule, "/orders/a%20b")
    assert is_allowed(rule, "/users/a%20b/orders/7/")
    assert not is_allowed(rule, "/orders/7")


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"paths": ["/{a}"], "when": "request.path_variables.b == ''"}, "a segment '{b}'"),
        ({"when": "request.path_variables['b'] == ''"}, "a segment '{b}'"),
        ({"paths": ["/{a}", "/b"], "when": "request.path_variables.a == ''"}, "a segment '{a}'"),
        ({"paths": ["/{a}/{a}"]}, "'{a}' stands twice"),
        ({"grpc": ["orders.v1.Orders"]}, "spec.rules.0.grpc.0"),
        ({"clientAddresses": ["10.0.0.1/8"]}, "is no address and no network"),
        ({"times": [{"begins": "8:00"}]}, "spec.rules.0.times.0.begins"),
        ({"times": [{"timeZone": "Mars/Olympus"}]}, "there is no time zone 'Mars/Olympus'"),
        ({"times": [{"days": []}]}, "spec.rules.0.times.0.days"),
        ({"headers": {"X-Tenant": ["a"]}}, "spec.rules.0.headers"),
        ({"headers": {"x-tenant": []}}, "spec.rules.0.headers"),
    ],
)
def test_a_rule_that_can_never_hold_is_refused(rule, told):
    with pytest.raises(InvalidInput) as refused:
        configured(access_policy({"name": "r", **ANYONE, **rule}, identify=[]))
    assert told in str(refused.value)


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=5), max_size=3))
def test_what_a_variable_holds_is_what_was_sent(values):
    """Escaped as a client does, through the one form of the path."""
    pattern = parse_pattern("/" + "/".join(f"{{v{n}}}" for n in range(len(values))))
    path = normalized("/" + "/".join(quote(value, safe="") for value in values))
    if isinstance(path, str) and pattern.matches(path):
        assert list(pattern.variables(path).values()) == values


# --- gRPC

GRPC = {"content-type": "application/grpc+proto"}
GET = {"grpc": ["orders.v1.Orders/Get"]}


@pytest.mark.parametrize(
    ("target", "headers", "allowed"),
    [
        ("/orders.v1.Orders/Get", GRPC, True),
        ("/orders.v1.Orders/Put", GRPC, False),
        ("/orders.v1.Orders/Get", {"content-type": "application/json"}, False),
        ("/orders.v1.Orders/Get/x", GRPC, False),
        ("/orders.v1.Orders", GRPC, False),
        ("/", GRPC, False),
    ],
)
def test_a_rule_names_a_grpc_method(target, headers, allowed):
    assert is_allowed(GET, target, headers=headers) is allowed


def test_a_star_stands_for_every_method_of_a_service():
    rule = {"grpc": ["orders.v1.Orders/*"]}
    assert is_allowed(rule, "/orders.v1.Orders/Put", headers=GRPC)
    assert not is_allowed(rule, "/orders.v1.OrdersX/Put", headers=GRPC)
    when = {"when": "request.grpc_service == 'a.B' && request.grpc_method == 'C'"}
    assert is_allowed(when, "/a.B/C", headers=GRPC)


# --- where the client is

INSIDE = {"clientAddresses": ["10.0.0.0/8", "2001:db8::/32"]}
PROXIES = ["192.0.2.0/24"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("198.51.100.1", "10.0.0.1", "198.51.100.1"),
        ("192.0.2.1", "10.0.0.1", "10.0.0.1"),
        ("192.0.2.1", "203.0.113.1, 10.0.0.1", "10.0.0.1"),
        ("192.0.2.1", "10.0.0.1, 192.0.2.7, 192.0.2.1", "10.0.0.1"),
        ("192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.1", "192.0.2.9", "192.0.2.9"),
        ("192.0.2.1", "10.0.0.1, nonsense", ""),
        ("192.0.2.1", "unknown", ""),
        ("", "10.0.0.1", ""),
    ],
)
def test_the_client_is_the_first_address_from_our_end_that_no_trusted_proxy_has(
    peer, forwarded, client
):
    """What stands before an untrusted one, anybody may have written."""
    assert client_address(peer, forwarded, parse_networks(PROXIES)) == client


def test_a_rule_and_a_condition_read_the_same_client_address():
    headers = {"x-forwarded-for": "10.0.0.1"}
    for rule in (INSIDE, {"when": "client.address == '10.0.0.1'"}):
        asked = made({"name": "r", **ANYONE, **rule}, trustedProxies=PROXIES)
        assert verdict_of(asked, headers=headers, source_address="192.0.2.1").is_allowed
        assert not verdict_of(asked, headers=headers, source_address="198.51.100.1").is_allowed


@given(st.text(max_size=20), st.text(max_size=40))
def test_no_address_breaks_its_reading(peer, forwarded):
    client_address(peer, forwarded, parse_networks(["0.0.0.0/0", "::/0"]))
    covers(parse_networks(["0.0.0.0/0"]), peer)


# --- when

OFFICE = {"days": ["mon", "fri"], "begins": "09:00", "ends": "17:00", "timeZone": "Europe/Berlin"}
NIGHT = {"days": ["sun"], "begins": "22:00", "ends": "02:00"}


@pytest.mark.parametrize(
    ("window", "at", "holds"),
    [
        (OFFICE, "2026-01-05T08:00Z", True),
        (OFFICE, "2026-01-05T07:59Z", False),
        (OFFICE, "2026-01-05T16:00Z", False),
        (OFFICE, "2026-07-06T07:00Z", True),
        (OFFICE, "2026-01-06T09:00Z", False),
        (NIGHT, "2026-01-04T22:00Z", True),
        (NIGHT, "2026-01-05T01:59Z", True),
        (NIGHT, "2026-01-05T02:00Z", False),
        (NIGHT, "2026-01-05T22:00Z", False),
        ({"days": ["wed"]}, "2026-01-07T00:00Z", True),
        ({"days": ["wed"]}, "2026-01-07T23:59Z", True),
        ({"days": ["wed"]}, "2026-01-08T00:00Z", False),
    ],
)
def test_a_rule_holds_at_its_times(window, at, holds):
    """In its own time zone, summer time included; past midnight it belongs to the day before."""
    asked = made({"name": "r", **ANYONE, "times": [window]})
    asked.now = datetime.datetime.fromisoformat(at).timestamp()
    assert verdict_of(asked).is_allowed is holds


# --- bodies

WHOLE = {"x-envoy-auth-partial-body": "false"}
JSON = {**WHOLE, "content-type": "application/json; charset=utf-8"}
AMOUNT = {"when": "request.json.amount <= 100"}
CRLF = "\r\n"


def multipart(*parts: str) -> bytes:
    return "".join(f"--b{CRLF}{part}{CRLF}" for part in parts).encode() + b"--b--" + CRLF.encode()


def named(name: str, value: str, more: str = "") -> str:
    return f'Content-Disposition: form-data; name="{name}"{more}{CRLF}{CRLF}{value}'


def test_a_condition_reads_a_json_body():
    assert is_allowed(AMOUNT, headers=JSON, body=b'{"amount": 100}')
    assert not is_allowed(AMOUNT, headers=JSON, body=b'{"amount": 101}')


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (JSON, b'{"amount": 1, "amount": 1000}'),
        (JSON, b'{"amount": 1'),
        (JSON, b""),
        (JSON, b"\xff"),
        (JSON, b"[" * 100_000),
        (JSON, b'{"a":' * 50 + b"1" + b"}" * 50),
        (JSON, b'{"amount": "1"}'),
        ({**JSON, "x-envoy-auth-partial-body": "true"}, b'{"amount": 1}'),
        ({"content-type": "application/json"}, b'{"amount": 1}'),
        ({**WHOLE, "content-type": "text/plain"}, b'{"amount": 1}'),
    ],
)
def test_a_body_that_can_not_be_read_in_one_way_fails_the_condition(headers, body):
    """Nothing is allowed by it, and a deny rule over it denies."""
    verdict = verdict_of(made({"name": "r", **ANYONE, **AMOUNT}), headers=headers, body=body)
    assert (verdict.is_allowed, verdict.failed_conditions) == (False, ("r",))
    deny = {"name": "d", "effect": "deny", "when": "request.json.amount > 100"}
    assert verdict_of(made(OPEN, deny), headers=headers, body=body).reason is (
        Reason.CONDITION_FAILED
    )


def test_a_condition_that_need_not_read_the_body_does_not_miss_it():
    rule = {"when": "request.method == 'GET' || request.json.amount == 1"}
    assert is_allowed(rule)
    assert is_allowed({"when": "request.headers['content-type'] == 'application/json'"}, headers={
        "content-type": "application/json"})  # fmt: skip


FORM = {**WHOLE, "content-type": "application/x-www-form-urlencoded"}
PARTS = {**WHOLE, "content-type": 'multipart/form-data; boundary="b"'}


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (FORM, b"role=user&role=guest&x=%C3%A4"),
        (PARTS, multipart(named("role", "user"), named("role", "guest"), named("x", "ä"))),
    ],
)
def test_a_condition_reads_the_fields_of_a_form_in_either_form(headers, body):
    rule = {"when": "request.form.role == ['user', 'guest'] && request.form.x[0] == 'ä'"}
    assert is_allowed(rule, headers=headers, body=body)


def test_of_a_file_in_a_form_its_name_is_read():
    body = multipart(named("doc", "content", '; filename="a.pdf"'), named("role", "user"))
    rule = {"when": "request.files.doc == ['a.pdf'] && !('doc' in request.form)"}
    assert is_allowed(rule, headers=PARTS, body=body)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (FORM, b"role"),
        (FORM, b"role=%ff"),
        (FORM, b"&".join([b"a=1"] * 1001)),
        (PARTS, multipart(named("role", "user"))[:-4]),
        (PARTS, multipart(f"X: y{CRLF}{CRLF}value")),
        (
            PARTS,
            multipart(
                named("role", "a").replace(
                    CRLF, f'{CRLF}Content-Disposition: form-data; name="x"{CRLF}', 1
                )
            ),
        ),
        (PARTS, multipart(*[named("a", "1")] * 1001)),
        ({**WHOLE, "content-type": "multipart/form-data"}, multipart(named("role", "user"))),
        ({**PARTS, "content-type": "text/html"}, b"role=user"),
    ],
)
def test_a_form_that_can_not_be_read_in_one_way_fails_the_condition(headers, body):
    rule = {"name": "r", **ANYONE, "when": "size(request.form) < 5000"}
    assert verdict_of(made(rule), headers=headers, body=body).failed_conditions == ("r",)


@given(st.binary(max_size=80), st.sampled_from([JSON, FORM, PARTS]))
def test_no_body_breaks_its_reading(content, headers):
    body = Body(content, headers["content-type"])
    for read in (body.json, body.form, body.text):
        try:
            read()
        except NoBody:
            continue


def test_a_condition_reads_cookies_context_and_what_the_peer_shows():
    rule = {
        "when": "request.cookies.theme == 'dark' && request.context.zone == 'a' && "
        "source.principal == 'spiffe://a/b' && request.scheme == 'https'"
    }
    assert is_allowed(
        rule,
        headers={"cookie": "theme=light; theme=dark"},
        context={"zone": "a"},
        source_principal="spiffe://a/b",
        scheme="https",
    )
