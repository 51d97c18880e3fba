"""Inputs that once broke something, or held it up; each was found by looking or by fuzzing."""

from __future__ import annotations

import base64
import time
from urllib.parse import quote

import pytest

from ext_authz.core.bodies import Body, NoBody
from ext_authz.core.certificates import parse_certificate
from ext_authz.core.conditions import Condition
from ext_authz.core.hosts import normalized_host
from ext_authz.core.model import Reason
from ext_authz.core.revocations import Revocation, Revocations
from ext_authz.core.xfcc import parse_xfcc
from tests.support.certificates import Authority
from tests.support.check_requests import Authorizer, access_policy, token_issuer
from tests.support.tokens import ISSUER, NOW, claims, ec_signer, jwks

SECONDS_AT_MOST = 1.0
"""Each of these took from three seconds to minutes."""
EC = ec_signer()
PART = b"--b\r\nContent-Disposition: form-data; %s\r\n\r\nadmin\r\n--b--\r\n"
FORM = "multipart/form-data; boundary=b"


def form_of(content_type: str, content: bytes = PART % b'name="role"') -> object:
    return Body(content, content_type).form()


@pytest.mark.parametrize("text", ["A=" + " " * 60_000 + '"', " " * 60_000, 'A="' + "\\" * 60_000])
def test_a_long_forwarded_certificate_is_read_in_no_time(text):
    """The header takes up to 60 kB; the one event loop stood still for over a minute."""
    began = time.perf_counter()
    assert parse_xfcc(text) is None
    assert time.perf_counter() - began < SECONDS_AT_MOST


@pytest.mark.parametrize("text", [";" * 60_000, " " * 60_000, 'a="' * 20_000])
def test_a_long_content_type_is_read_in_no_time(text):
    began = time.perf_counter()
    with pytest.raises(NoBody):
        form_of(f'multipart/form-data; boundary="{text}')
    assert time.perf_counter() - began < SECONDS_AT_MOST


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data; boundary=b; boundary=c",
        "multipart/form-data; boundary=b; Boundary=c",
        "multipart/form-data; boundary*=b",
        "multipart/form-data; boundary*=a\0b''x",
        f"multipart/form-data; boundary*{'9' * 5000}=b",
        "multipart/form-data; boundary=b,multipart/form-data; boundary=c",
        'multipart/form-data; boundary="b\\"',
        "multipart/form-data; boundary",
        f"multipart/form-data; boundary={'b' * 71}",
    ],
)
def test_a_content_type_that_names_two_boundaries_to_two_readers_is_no_form(content_type):
    with pytest.raises(NoBody):
        form_of(content_type)


@pytest.mark.parametrize(
    "parameters",
    [
        b'name="note"; name="role"',
        b'name="note"; NAME="role"',
        b"name=\"note\"; name*=UTF-8''role",
        b'name="no\\te"',
        b'name="note" name="role"',
        b'name="note"; filename="a"; filename="b"',
    ],
)
def test_a_part_that_has_two_names_for_two_readers_is_no_form(parameters):
    """A rule over `request.form.role` would read one, the upstream the other."""
    with pytest.raises(NoBody):
        form_of(FORM, PART % parameters)


def test_a_part_of_an_ordinary_client_is_read():
    assert form_of(FORM) == ({"role": ["admin"]}, {})
    sent = 'form-data; name="doc"; filename="Größe 1;2.pdf"'.removeprefix("form-data; ").encode()
    assert form_of(f"{FORM}; charset=utf-8", PART % sent) == ({}, {"doc": ["Größe 1;2.pdf"]})


@pytest.mark.parametrize("subject", [["eve"], {"name": "eve"}, 7, None])
def test_a_sub_that_is_no_string_is_decided_where_revocations_are(subject):
    """The subject may be another claim; such a token once ended in an exception, and so in a gRPC
    error, which Envoy's failure mode may allow.
    """
    asked = Authorizer(
        token_issuer(jwks(EC), claims={"subject": "email"}), access_policy({"name": "any"})
    )
    token = EC.token(claims(sub=subject, email="eve@example.com"))
    covers_another = Revocation(
        id="1", issuer=ISSUER, subject="rita", issued_before=NOW, expires_at=NOW
    )
    asked.keys.revocations = Revocations([covers_another])
    assert asked.ask(token=token).is_allowed
    covers_all = Revocation(id="2", issuer=ISSUER, issued_before=NOW, expires_at=NOW)
    asked.keys.revocations = Revocations([covers_another, covers_all])
    assert asked.ask(token=token).reason is Reason.REVOKED


@pytest.mark.parametrize("host", ["\u212aube.example.com", "api.example.com\u0130", "bücher.de"])
def test_a_host_outside_ascii_is_no_host(host):
    """The Kelvin sign in lower case is a plain k."""
    assert normalized_host(host) == ""


def test_a_certificate_that_is_too_long_is_neither_read_nor_remembered():
    assert parse_certificate("A" * 100_000) is None


def test_a_certificate_of_an_unknown_version_is_none():
    """Found by fuzzing: `cryptography` raises what is no ValueError."""
    lines = Authority().issue().certificate.decode().splitlines()
    der = base64.b64decode("".join(lines[1:-1]))
    version_3, version_67 = bytes.fromhex("a003020102"), bytes.fromhex("a003020142")
    assert version_3 in der
    changed = base64.encodebytes(der.replace(version_3, version_67, 1)).decode()
    assert parse_certificate(quote(f"{lines[0]}\n{changed}{lines[-1]}\n")) is None


def test_a_condition_with_half_a_character_is_a_value_error():
    with pytest.raises(ValueError, match="not a condition"):
        Condition("'\ud800' == ''")
