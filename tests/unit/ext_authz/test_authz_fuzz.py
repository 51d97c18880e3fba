"""The law: never a crash, and never an allow of a protected path without a valid credential.

1,680 inputs a run, in ten seconds at most: each of the 12 tests tries 120 or 200. What runs
for minutes, and is led by coverage, is in `tests/soak`.
"""

from __future__ import annotations

import string
import time
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext_authz.adapters.envoy_check import Check
from ext_authz.core.api_keys import ApiKeys, KeyRecord, digest, make_key
from ext_authz.core.conditions import Condition, TextExpression
from ext_authz.core.engine import decide
from ext_authz.core.model import Request
from ext_authz.core.paths import InvalidPath, normalized
from meshwarden.adapters.telemetry import Metrics
from meshwarden.core.faults import InvalidInput
from tests.support.certificates import Authority
from tests.support.check_requests import (
    HOST,
    Authorizer,
    access_policy,
    check_request,
    response_of,
    token_issuer,
)
from tests.support.tokens import claims, ec_signer, ed_signer, jwks

EC, ED = ec_signer(), ed_signer()
TOKENS = (EC.token(), ED.token(claims(roles=["admin"], sub="eve")))
PEPPER = bytes(range(32))
KEY = make_key(bytes(range(32)))
KEYS = ApiKeys([KeyRecord(id="1", name="service", digest=digest(KEY, PEPPER))], PEPPER)
AUTHORITY, STRANGER = Authority(), Authority("stranger")
WEB = "spiffe://cluster.local/ns/shop/sa/web"
TRUSTED, PROXY = "10.0.0.9", "10.1.2.3"
IDENTIFY = [
    {"jwt": {"issuers": ["main"]}},
    {"apiKey": {}},
    {"spiffe": {
        "trustDomains": ["cluster.local"],
        "authoritiesFile": "ca.pem",
        "forwarded": {"trustedProxies": [TRUSTED]},
    }},
]  # fmt: skip
ASKED = Authorizer(
    token_issuer(jwks(EC, ED)),
    access_policy(
        {"name": "open", "callers": "anyone", "paths": ["/open/**"]},
        {"name": "closed", "paths": ["/**"]},
        {"name": "never", "effect": "deny", "paths": ["/admin/**"]},
        identify=IDENTIFY,
    ),
    files={"ca.pem": AUTHORITY.certificate},
)
ASKED.keys.api_keys = KEYS
CERTIFICATE = AUTHORITY.issue(uris=(WEB,)).certificate
FORGED = STRANGER.issue(uris=(WEB,)).certificate
EXAMPLES = settings(max_examples=120)


async def nothing_new(_lookup: object) -> None:
    return None


CHECK = Check(ASKED.keys, nothing_new, metrics=Metrics(), clock=lambda: ASKED.now)
CHECK.policies = ASKED.policies


def is_allowed(message: bytes) -> bool:
    """Whether `Check.handle` allows; raises nothing but `InvalidInput` for bytes that are none."""
    try:
        answer = CHECK.handle(message, ())
    except InvalidInput:
        return False
    assert isinstance(answer, bytes)
    response = response_of(answer)
    assert (response.status.code == 0) == (response.WhichOneof("http_response") == "ok_response")
    return response.status.code == 0


def asked_with(headers: dict[str, str], *, address: str = PROXY, certificate: str = "") -> bool:
    request = Request(
        "GET", HOST, "/orders", headers, source_address=address, source_certificate=certificate
    )
    # The tests' tokens are of a fixed time, their certificates of the machine's.
    is_by_token = "authorization" in headers
    now = ASKED.now if is_by_token else time.time()
    return decide(request, ASKED.policies, ASKED.keys, now).is_allowed


def test_what_is_right_is_allowed():
    """Else the tests below could not fail."""
    for token in TOKENS:
        assert is_allowed(check_request("/orders", headers={"authorization": f"Bearer {token}"}))
    assert is_allowed(check_request("/orders", headers={"x-api-key": KEY}))
    assert is_allowed(check_request("/open/x"))
    assert asked_with({}, certificate=quote(CERTIFICATE))
    assert asked_with({"x-forwarded-client-cert": f"Cert={quote(CERTIFICATE)}"}, address=TRUSTED)
    assert not is_allowed(check_request("/admin", headers={"x-api-key": KEY}))


# --- CheckRequests

edits = st.lists(
    st.tuples(st.integers(0, 2000), st.integers(0, 255), st.sampled_from(["set", "in", "out"])),
    min_size=1,
    max_size=4,
)


def edited(content: bytes, changes: list[tuple[int, int, str]]) -> bytes:
    """The content with single bytes set, put in and taken out."""
    result = bytearray(content)
    for place, byte, how in changes:
        position = place % (len(result) or 1)
        if how == "in" or not result:
            result.insert(position, byte)
        elif how == "set":
            result[position] = byte
        else:
            del result[position]
    return bytes(result)


@EXAMPLES
@given(st.binary(max_size=200))
def test_random_bytes_are_no_request_or_are_denied(message):
    assert not is_allowed(message)


@EXAMPLES
@given(edits, st.booleans())
def test_a_request_without_credential_is_denied_whatever_is_changed_in_it(changes, is_raw):
    """But for the open path, which a few changes can't write."""
    message = check_request("/orders/1", headers={"x-a": "b", "cookie": "a=b"}, is_raw=is_raw)
    assert not is_allowed(edited(message, changes))


@EXAMPLES
@given(edits, st.booleans())
def test_a_request_for_what_is_denied_is_denied_whoever_asks(changes, is_raw):
    """Changed in its path, method or host it may be another request: then it is judged as that."""
    message = check_request("/admin/x", headers={"x-api-key": KEY}, is_raw=is_raw)
    changed = edited(message, changes)
    if b"/admin/x" in changed:
        assert changed.count(b"/admin/x") < 2 or not is_allowed(changed)
    else:
        is_allowed(changed)


# --- credentials


@settings(max_examples=200)
@given(st.sampled_from(TOKENS), edits)
def test_a_token_with_any_byte_changed_is_denied(token, changes):
    changed = edited(token.encode(), changes).decode("latin-1")
    if changed.strip() != token:
        assert not asked_with({"authorization": f"Bearer {changed}"})


@EXAMPLES
@given(st.lists(st.sampled_from([part for t in TOKENS for part in t.split(".")]), max_size=5))
def test_parts_of_right_tokens_put_together_anew_are_denied(parts):
    token = ".".join(parts)
    assert asked_with({"authorization": f"Bearer {token}"}) == (token in TOKENS)


members = st.dictionaries(
    st.sampled_from(["alg", "kid", "typ", "crit", "jwk", "jku", "x5u", "x5c", "b64", "zip", "cty"]),
    st.sampled_from(["none", "HS256", "ES256", "EdDSA", "RS256", "ec", "ed", "JWT", "", "../ec"])
    | st.none() | st.integers() | st.just([]) | st.just(ED.jwk()),
    min_size=1,
)  # fmt: skip


@EXAMPLES
@given(members)
def test_a_header_that_the_signer_did_not_sign_is_denied(header):
    """The payload and the signature are those of a right token."""
    forged = EC.token(None, **header).split(".")
    token = ".".join((forged[0], *TOKENS[0].split(".")[1:]))
    assert asked_with({"authorization": f"Bearer {token}"}) == (token == TOKENS[0])


@EXAMPLES
@given(edits)
def test_an_api_key_with_any_byte_changed_is_denied(changes):
    changed = edited(KEY.encode(), changes).decode("latin-1")
    if changed.strip() != KEY:
        assert not asked_with({"x-api-key": changed})


@EXAMPLES
@given(st.binary(min_size=32, max_size=32))
def test_a_key_of_the_right_form_that_nobody_made_is_denied(randomness):
    key = make_key(randomness)
    assert asked_with({"x-api-key": key}) == (key == KEY)


# --- peers


@EXAMPLES
@given(st.booleans(), edits, st.booleans())
def test_a_certificate_is_denied_unless_it_says_what_was_signed(is_ours, changes, is_forwarded):
    """A change in the PEM's envelope may leave the certificate as it was; any other is denied."""
    content = CERTIFICATE if is_ours else FORGED
    changed = edited(content, changes)
    encoded = quote(changed, safe="")
    if is_forwarded:
        passed = asked_with({"x-forwarded-client-cert": f"Cert={encoded}"}, address=TRUSTED)
    else:
        passed = asked_with({}, certificate=encoded)
    kept = b"".join(CERTIFICATE.split(b"-----")[2].split())
    assert not passed or kept in b"".join(changed.split())


xfcc = st.text(st.sampled_from('=;,"\\ \tAUR' + string.ascii_letters), max_size=40) | st.lists(
    st.sampled_from([f"URI={WEB}", "Hash=1", "By=x", 'Subject="CN=a"', ",", ";", '"', "Cert=", "x"])
).map("".join)


@EXAMPLES
@given(xfcc, st.booleans())
def test_a_forwarded_name_without_a_certificate_proves_nothing_here(text, is_trusted):
    """The policy names an authority; and from anyone but its proxy the header counts for naught."""
    address = TRUSTED if is_trusted else PROXY
    assert not asked_with({"x-forwarded-client-cert": text}, address=address)


# --- texts

words = st.sampled_from(
    [*("request.path", "request.headers", "principal.claims", "'a'", "1", "[", "]", "(", ")", "{"),
     *("}", " == ", " + ", " && ", "!", "-", ".", "?", ":", ".all(x, ", ".matches(", "size(", "r'",
       "b'\\xff'", "timestamp(", "has(", "9" * 30, "in ", "\n", "//", "\0", "ü", "\ud800")]
)  # fmt: skip
REQUEST = Request("GET", HOST, "/orders", {"authorization": f"Bearer {TOKENS[0]}"})


@settings(max_examples=200)
@given(st.text(st.characters(), max_size=30) | st.lists(words, max_size=12).map("".join))
def test_any_text_is_a_condition_or_a_value_error(text):
    for kind in (Condition, TextExpression):
        try:
            made = kind(text)
        except ValueError:
            continue
        if isinstance(made, Condition):
            assert made.holds({"request.path": "/a", "principal.claims": {}}) in (True, False, None)


paths = st.lists(
    st.sampled_from(
        [*("/", "/", "..", ".", "admin", "open", "%2e", "%2F", "%5c", "\\", ";", "%00", "%", "%25"),
         *("%c0%af", "%61", "?", "#", " ", "%20", "\0", "ä", "A")]
    ),
    max_size=10,
).map("".join)  # fmt: skip


@settings(max_examples=200)
@given(paths)
def test_no_path_but_an_open_one_is_allowed_to_a_stranger(path):
    target = path.partition("?")[0].partition("#")[0]
    found = normalized(target)
    is_open = not isinstance(found, InvalidPath) and (found + "/").startswith("/open/")
    assert ASKED.decide(Request("GET", HOST, path, {})).is_allowed == is_open


@pytest.mark.parametrize("size", [100_000])
def test_a_path_of_any_length_is_decided(size):
    assert not ASKED.decide(Request("GET", HOST, "/" + "../" * size, {})).is_allowed
