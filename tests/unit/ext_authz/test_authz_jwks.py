"""Which key sets are taken, and which keys of them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.core.jwks import KEYS_AT_MOST, key_set, parse_jwks
from meshwarden.core.faults import InvalidInput
from tests.support.tokens import base64url, ec_signer, ed_signer, jwks, rsa_signer

EC, ED, RSA = ec_signer(), ed_signer(), rsa_signer()
OFF_CURVE = {**EC.jwk(), "y": base64url(bytes(31) + b"\x07")}


def parsed(*keys):
    text = json.dumps(jwks(*keys)).encode()
    return parse_jwks("jwks.json", text)


def test_each_key_is_known_by_its_kid_and_verifies_its_algorithms_only():
    keys = parsed(EC, ED, RSA, rsa_signer("alg").jwk(alg="PS256", key_ops=["verify"]))
    assert {kid: sorted(key.algorithms) for kid, key in keys.keys.items()} == {
        "ec": ["ES256"],
        "ed": ["EdDSA"],
        "rsa": ["PS256", "RS256"],
        "alg": ["PS256"],
    }
    for signer in (EC, ED, RSA):
        key = keys.find(signer.kid)
        assert key.verifies(signer.algorithm, b"content", signer.sign(b"content"))
        assert not key.verifies(signer.algorithm, b"other", signer.sign(b"content"))
        assert not key.verifies("HS256", b"content", signer.sign(b"content"))


def test_a_token_without_kid_finds_the_only_key_and_no_other():
    assert parsed(EC.jwk(kid=None)).find(None) is not None
    assert parsed(EC, ED).find(None) is None
    assert parsed(EC).find("") is None


@pytest.mark.parametrize(
    "key",
    [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "s"},
        EC.jwk(use="enc"),
        EC.jwk(use=["sig"]),
        EC.jwk(key_ops=["sign"]),
        EC.jwk(key_ops="verify"),
        EC.jwk(key_ops=5),
        EC.jwk(alg="ES384"),
        EC.jwk(alg=["ES256"]),
        EC.jwk(crv="P-384"),
        EC.jwk(kty=["EC"]),
        EC.jwk(crv={"P": 256}),
        {"kty": "AKP", "kid": "new"},
        {"kid": "nothing"},
    ],
    ids=lambda key: json.dumps({k: v for k, v in key.items() if k not in "xy"}),
)
def test_a_key_that_we_cannot_use_is_left_out(key):
    """RFC 7517 section 5: such keys are ignored; the others verify on."""
    assert list(parsed(key, ED).keys) == ["ed"]


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ([rsa_signer("short", bits=1024)], "1024 bits is too short; 2048 are needed"),
        ([OFF_CURVE], "not a valid EC public key"),
        ([EC.jwk(x="AA")], "not a valid EC public key"),
        ([EC.jwk(x=5)], "not a valid EC public key"),
        ([EC.jwk(y=None)], "not a valid EC public key"),
        ([ED.jwk(x=base64url(b"short"))], "not a valid OKP public key"),
        ([RSA.jwk(e="AQ")], "not a valid RSA public key"),
        ([RSA.jwk(n="!")], "not a valid RSA public key"),
        ([EC, ED.jwk(kid="ec")], "the kid 'ec' stands twice"),
        ([EC.jwk(kid=None), ED.jwk(kid=None)], "the kid '' stands twice"),
        ([EC.jwk(kid=7)], "kid is not a string"),
        ([EC.jwk(d="AA")], "is a private key"),
        ([RSA.jwk(d="AA", use="enc")], "is a private key"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_dangerous_key_refuses_the_whole_set(keys, what):
    """The message names the key by its place."""
    with pytest.raises(ValueError, match=what) as caught:
        parsed(ED.jwk(kid="first"), *keys)
    assert "keys[1]" in str(caught.value) or "keys[2]" in str(caught.value)


@pytest.mark.parametrize("text", ["{}", "[]", "7", '{"keys": {}}', '{"keys": [7]}', '"keys"'])
def test_what_is_no_jwks_is_refused(text):
    with pytest.raises(ValueError, match=r"not a JWKS|not an object"):
        parse_jwks("jwks.json", text.encode())


def test_what_is_no_json_is_refused_with_its_line():
    with pytest.raises(InvalidInput, match=r"jwks\.json:2: not JSON"):
        parse_jwks("jwks.json", b'{"keys":\n<html>')


def test_a_set_of_too_many_keys_is_refused():
    with pytest.raises(ValueError, match=f"more than {KEYS_AT_MOST} keys"):
        key_set({"keys": [EC.jwk(kid=str(number)) for number in range(KEYS_AT_MOST + 1)]}, b"")


members = st.dictionaries(
    st.sampled_from(["kty", "crv", "x", "y", "n", "e", "kid", "use", "key_ops", "alg", "d", "k"]),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.text(max_size=5)
        | st.sampled_from(
            ["RSA", "EC", "OKP", "P-256", "Ed25519", "sig", "verify", "ES256", "AQAB"]
        ),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
        max_leaves=3,
    ),
)


@given(st.lists(members | st.text(), max_size=3))
def test_a_key_set_of_anything_is_a_set_or_a_value_error(keys):
    """The law of `key_set`: nothing else is raised, whatever a server answers."""
    try:
        made = key_set({"keys": keys}, b"")
    except ValueError:
        return
    assert len(made.keys) <= len(keys)
