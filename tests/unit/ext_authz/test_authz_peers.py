"""Callers known by their connection: SPIFFE identities, certificates, forwarded or not."""

from __future__ import annotations

import datetime
import time
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.core.certificates import parse_certificate
from ext_authz.core.model import Reason, Request, Verdict
from ext_authz.core.spiffe import parse_spiffe_id
from ext_authz.core.xfcc import parse_xfcc
from meshwarden.core.faults import InvalidInput
from tests.support.certificates import DAY, Authority
from tests.support.check_requests import (
    HOST,
    Authorizer,
    access_policy,
    configured,
    role_binding,
    token_issuer,
)
from tests.support.tokens import claims, ec_signer, jwks

WEB = "spiffe://cluster.local/ns/shop/sa/web"
GATEWAY = "spiffe://cluster.local/ns/istio-system/sa/gateway"
ANY = {"name": "any"}
OURS, THEIRS = Authority("ours"), Authority("theirs")
SPIFFE = {"spiffe": {"trustDomains": ["cluster.local"]}}


def authorizer(*ways: Any, rules: Any = (ANY,), files: Any = None) -> Authorizer:
    made = Authorizer(access_policy(*rules, identify=list(ways)), files=files)
    made.now = time.time()
    return made


def ask(made: Authorizer, *, xfcc: str = "", address: str = "10.1.2.3", **peer: str) -> Verdict:
    headers = {"x-forwarded-client-cert": xfcc} if xfcc else {}
    request = Request("GET", HOST, "/orders", headers, source_address=address, **peer)
    return made.decide(request)


# --- SPIFFE IDs


@pytest.mark.parametrize(
    "text",
    [WEB, "spiffe://a", "spiffe://a.b-c_d/x", "spiffe://a/" + "x" * 2000],
)
def test_a_spiffe_id_of_the_standard_is_read(text):
    assert parse_spiffe_id(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        *("", "spiffe://", "spiffe:///x", "SPIFFE://a/x", "http://a/x", "spiffe://A/x"),
        *("spiffe://a/", "spiffe://a//x", "spiffe://a/../x", "spiffe://a/./x", "spiffe://a/x/"),
        *("spiffe://a:1/x", "spiffe://u@a/x", "spiffe://a/x?q", "spiffe://a/x#f", "spiffe://a/%41"),
        *("spiffe://a/ä", " spiffe://a/x", "spiffe://a/x\n", "spiffe://a/" + "x" * 2048),
    ],
)
def test_what_is_no_spiffe_id_is_refused(text):
    assert parse_spiffe_id(text) is None
    verdict = ask(authorizer(SPIFFE), source_principal=text)
    assert verdict.reason in (Reason.UNTRUSTED_CERTIFICATE, Reason.MISSING_CREDENTIAL)


def test_a_workload_is_known_by_the_principal_that_the_proxy_gives():
    """Its name is its SPIFFE ID, which roles are bound to and rules name."""
    rules = [{"name": "web", "principals": [WEB]}]
    verdict = ask(authorizer(SPIFFE, rules=rules), source_principal=WEB)
    assert (verdict.rule, verdict.principal.name) == ("web", WEB)
    other = WEB.replace("web", "other")
    verdict = ask(authorizer(SPIFFE, rules=rules), source_principal=other)
    assert verdict.reason is Reason.NO_RULE_ALLOWS
    bound = Authorizer(
        access_policy({"name": "r", "roles": ["reader"]}, identify=[SPIFFE]),
        {**role_binding("reader"), "spec": {"role": "reader", "subjects": [{"principal": WEB}]}},
        {"apiVersion": "meshwarden.io/v1alpha1", "kind": "AccessRole",
         "metadata": {"name": "reader"}},
    )  # fmt: skip
    assert ask(bound, source_principal=WEB).rule == "r"


def test_another_trust_domain_is_no_workload_of_ours():
    verdict = ask(authorizer(SPIFFE), source_principal="spiffe://evil.example/ns/shop/sa/web")
    assert verdict.reason is Reason.UNTRUSTED_CERTIFICATE


def test_a_condition_reads_the_trust_domain_and_the_path():
    when = "principal.claims.path.startsWith('/ns/shop/') && principal.kind == 'spiffe'"
    rules = [{"name": "shop", "when": when}]
    assert ask(authorizer(SPIFFE, rules=rules), source_principal=WEB).rule == "shop"


# --- certificates


def sent(certificate: Any) -> dict[str, str]:
    return {"source_certificate": certificate.as_envoy_sends_it}


CERTIFICATE: dict[str, Any] = {"clientCertificate": {}}
WITH_AUTHORITY = {"clientCertificate": {"authoritiesFile": "ca.pem"}}
FILES = {"ca.pem": OURS.certificate}


@pytest.mark.parametrize(
    ("names", "principal"),
    [
        ({"dns": ("billing.example.com", "b")}, "cert:billing.example.com"),
        ({"uris": ("urn:x",)}, "cert:urn:x"),
        ({"subject": "billing"}, "cert:CN=billing"),
    ],
)
def test_a_certificate_names_its_holder(names, principal):
    verdict = ask(authorizer(CERTIFICATE), **sent(OURS.issue(**names)))
    assert verdict.principal.name == principal


def test_only_a_certificate_of_the_policys_authority_is_taken_where_it_names_one():
    made = authorizer(WITH_AUTHORITY, files=FILES)
    assert ask(made, **sent(OURS.issue(dns=("a.example",)))).is_allowed
    verdict = ask(made, **sent(THEIRS.issue(dns=("a.example",))))
    assert (verdict.reason, verdict.status) == (Reason.UNTRUSTED_CERTIFICATE, 401)
    assert ask(made, source_principal="a.example").reason is Reason.UNTRUSTED_CERTIFICATE


def test_a_certificate_is_refused_before_and_after_its_time_however_often_it_was_seen():
    made = authorizer(WITH_AUTHORITY, files=FILES)
    certificate = OURS.issue(dns=("a.example",))
    assert ask(made, **sent(certificate)).is_allowed
    made.now += 2 * DAY.total_seconds()
    assert ask(made, **sent(certificate)).reason is Reason.UNTRUSTED_CERTIFICATE
    plain = authorizer(CERTIFICATE)
    expired = OURS.issue(dns=("a.example",), ends=-datetime.timedelta(hours=1))
    assert ask(plain, **sent(expired)).reason is Reason.UNTRUSTED_CERTIFICATE


def test_a_certificate_with_two_uri_names_has_no_spiffe_id():
    verdict = ask(authorizer(SPIFFE), **sent(OURS.issue(uris=(WEB, GATEWAY))))
    assert verdict.reason is Reason.UNTRUSTED_CERTIFICATE
    assert ask(authorizer(SPIFFE), **sent(OURS.issue(uris=(WEB,)))).principal.name == WEB


@pytest.mark.parametrize(
    "encoded", ["x", "%2D", quote("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----")]
)
def test_what_is_no_certificate_is_refused(encoded):
    verdict = ask(authorizer(CERTIFICATE), source_certificate=encoded)
    assert verdict.reason is Reason.UNTRUSTED_CERTIFICATE


GOOD = OURS.issue(uris=(WEB,)).certificate


@given(st.binary(max_size=60), st.integers(0, len(GOOD)))
def test_no_bytes_break_the_reading_of_certificates(noise, position):
    """Anything, also in the middle of a right one."""
    for content in (noise, GOOD[:position] + noise + GOOD[position:]):
        parse_certificate(quote(content))


# --- forwarded certificates

BEHIND = {"spiffe": {"trustDomains": ["cluster.local"], "forwarded": {"trustedProxies": [GATEWAY]}}}
BEHIND_ADDRESS = {"clientCertificate": {"forwarded": {"trustedProxies": ["10.0.0.0/8", "::1"]}}}


def test_a_forwarded_identity_is_believed_of_a_trusted_proxy_alone():
    xfcc = f"By={GATEWAY};Hash=ab;URI={WEB}"
    assert ask(authorizer(BEHIND), xfcc=xfcc, source_principal=GATEWAY).principal.name == WEB
    other = "spiffe://cluster.local/ns/shop/sa/other"
    assert ask(authorizer(BEHIND), xfcc=xfcc, source_principal=other).principal.name == other
    assert ask(authorizer(SPIFFE), xfcc=xfcc, source_principal=GATEWAY).principal.name == GATEWAY
    assert ask(authorizer(BEHIND), xfcc=xfcc).reason is Reason.MISSING_CREDENTIAL


@pytest.mark.parametrize(
    ("address", "is_believed"),
    [
        ("10.9.9.9", True),
        ("::ffff:10.9.9.9", True),
        ("::1", True),
        ("11.0.0.1", False),
        ("", False),
        ("10.0.0.0/8", False),
    ],
)
def test_a_trusted_proxy_may_be_named_by_its_address(address, is_believed):
    xfcc = 'Subject="CN=billing,O=\\"x\\"";DNS=billing.example.com'
    verdict = ask(authorizer(BEHIND_ADDRESS), xfcc=xfcc, address=address)
    assert verdict.is_allowed is is_believed


def test_the_last_element_counts_and_the_certificate_in_it_is_read():
    certificate = OURS.issue(dns=("right.example",)).as_envoy_sends_it
    xfcc = f'DNS=wrong.example,Hash=1;Cert="{certificate}"'
    verdict = ask(authorizer(BEHIND_ADDRESS), xfcc=xfcc)
    assert verdict.principal.name == "cert:right.example"


@pytest.mark.parametrize(
    "text",
    [
        *("x", "URI", "URI=a;", ",URI=a", "URI=a,", 'URI="a', "=a", "URI=a;;Hash=b", 'URI=a"b"'),
        ",".join(["URI=a"] * 33),
    ],
)
def test_a_forwarded_certificate_that_can_not_be_read_is_refused(text):
    assert parse_xfcc(text) is None
    assert ask(authorizer(BEHIND_ADDRESS), xfcc=text).reason is Reason.UNTRUSTED_CERTIFICATE


@given(st.text(max_size=60))
def test_no_forwarded_header_breaks_its_reading(text):
    parse_xfcc(text)


WORDS = st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=8)


@given(st.lists(st.lists(WORDS, min_size=1, max_size=3), min_size=1, max_size=3))
def test_what_envoy_would_write_is_read_as_it_was(elements):
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    written = ",".join(";".join(f"URI={quoted(v)}" for v in values) for values in elements)
    assert parse_xfcc(written) == [{"uri": values} for values in elements]


# --- the order of ways


@pytest.mark.parametrize("jwt_first", [True, False])
def test_the_first_way_that_identifies_decides(jwt_first):
    """A workload that forwards its user's token is the user, or itself, as the policy says."""
    issuer = token_issuer(jwks(ec_signer()))
    ways = [{"jwt": {"issuers": ["main"]}}, SPIFFE]
    policy = access_policy(ANY, identify=ways if jwt_first else ways[::-1])
    made = Authorizer(issuer, policy)
    headers = {"authorization": f"Bearer {ec_signer().token(claims())}"}
    both = Request("GET", HOST, "/", headers, source_principal=WEB)
    assert made.decide(both).principal.name == ("jwt:rita" if jwt_first else WEB)
    alone = Request("GET", HOST, "/", {}, source_principal=WEB)
    assert made.decide(alone).principal.name == WEB


def test_two_credentials_are_two_whatever_the_connection_shows():
    made = Authorizer(token_issuer(jwks(ec_signer())), access_policy(ANY, identify=[
        {"jwt": {"issuers": ["main"]}}, {"apiKey": {}}, SPIFFE]))  # fmt: skip
    headers = {"authorization": "Bearer x", "x-api-key": "y"}
    verdict = made.decide(Request("GET", HOST, "/", headers, source_principal=WEB))
    assert verdict.reason is Reason.MULTIPLE_CREDENTIALS


@pytest.mark.parametrize(
    ("way", "told"),
    [
        ({"spiffe": {"trustDomains": []}}, "trustDomains"),
        ({"spiffe": {"trustDomains": ["A b"]}}, "trustDomains"),
        (
            {"clientCertificate": {"forwarded": {"trustedProxies": ["10.0.0.1/8"]}}},
            "'10.0.0.1/8' is no network .* and no principal",
        ),
        (WITH_AUTHORITY, "the file 'ca.pem' holds no certificate in PEM"),
    ],
)
def test_a_way_that_can_not_work_is_refused(way, told):
    with pytest.raises(InvalidInput, match=told):
        configured(access_policy(ANY, identify=[way]))
