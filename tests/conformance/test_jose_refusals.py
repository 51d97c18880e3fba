"""What a token must not be: RFC 7515, RFC 7517, RFC 7519, RFC 8725, one row a fact.

Each row changes one thing about a token that is accepted otherwise. The signature is right unless
the row says else, so that nothing but the named fault refuses it.
"""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ext_authz.core.model import Reason
from tests.support.check_requests import Authorizer, access_policy, token_issuer
from tests.support.tokens import (
    ISSUER,
    NOW,
    Signer,
    base64url,
    claims,
    ec_signer,
    ed_signer,
    from_base64url,
    jwks,
    rsa_signer,
)

EC, ED, RSA = ec_signer(), ed_signer(), rsa_signer()
PSS = Signer(RSA.kid, "PS256", RSA.private_key)
STRANGER = ec_signer("stranger")
LEEWAY = 5
ANY_CALLER = access_policy({"name": "any"})
ASKED = Authorizer(token_issuer(jwks(EC, ED, RSA), leewaySeconds=LEEWAY), ANY_CALLER)
HEADER = {"alg": "ES256", "kid": "ec"}


def reason_of(token: str, asked: Authorizer = ASKED) -> str:
    return asked.ask(token=token).reason


def member_text(**changes: str) -> bytes:
    """The claims as JSON whose named members have the given text, right or wrong JSON."""
    kept = claims(**dict.fromkeys(changes))
    members = [f'"{name}": {text}' for name, text in changes.items()]
    return (json.dumps(kept)[:-1] + "".join(f", {member}" for member in members) + "}").encode()


def unsigned(header: object) -> str:
    return f"{base64url(json.dumps(header).encode())}.{base64url(json.dumps(claims()).encode())}."


def with_hmac(secret: bytes, kid: str) -> str:
    """The classic confusion: HS256 keyed with the text of a public key (RFC 8725 section 2.1)."""
    content = unsigned({"alg": "HS256", "kid": kid})[:-1]
    return f"{content}.{base64url(hmac.digest(secret, content.encode(), hashlib.sha256))}"


def public_pem(signer: Signer) -> bytes:
    public = signer.private_key.public_key()
    return bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def with_signature_bits_left_over(signer: Signer) -> str:
    """The same signature in another spelling: the last character's unused bits are set."""
    token = signer.token()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet[alphabet.index(token[-1]) | 1]
    assert from_base64url(token[:-1].split(".")[2] + last) == from_base64url(token.split(".")[2])
    return token[:-1] + last


# --- accepted, so that a refusal below means something

ACCEPTED = {
    "ES256": EC.token(),
    "EdDSA": ED.token(),
    "RS256": RSA.token(),
    "PS256": PSS.token(),
    "exp as a fraction (RFC 7519 section 2)": EC.token(claims(exp=NOW + 0.5)),
    "exp within the leeway": EC.token(claims(exp=NOW - LEEWAY + 1)),
    "nbf within the leeway": EC.token(claims(nbf=NOW + LEEWAY)),
    "iat absent": EC.token(claims(iat=None)),
    "aud as a list": EC.token(claims(aud=["other", "orders"])),
    "unknown header members": EC.token(x5t="x", x="y"),
    "an embedded key that is not followed": EC.token(jwk=EC.jwk()),
}


@pytest.mark.parametrize("token", ACCEPTED.values(), ids=ACCEPTED)
def test_a_right_token_is_accepted(token):
    assert reason_of(token) == "allowed"


# --- refused

FORM = {
    "no dots": "e30",
    "two parts": ".".join(EC.token().split(".")[:2]),
    "four parts": EC.token() + ".e30",
    "five parts, encrypted": "e30.e30.e30.e30.e30",
    "padding": EC.compact(HEADER, claims()) + "==",
    "padded payload": EC.token().replace(".", "=.", 1),
    "bits left over": with_signature_bits_left_over(EC),
    "standard alphabet": EC.token() + "+/",
    "a line break": EC.token().replace(".", "\n.", 1),
    "characters outside ASCII": EC.token() + "\u212a",
    "a lone surrogate": EC.token() + "\ud800",
    "empty signature": unsigned(HEADER),
    "header is no JSON": EC.compact(b"{alg", claims()),
    "header is a list": EC.compact(["alg"], claims()),
    "payload is no object": EC.compact(HEADER, "claims"),
    "payload is no UTF-8": EC.compact(HEADER, b'{"sub": "\xff"}'),
    "payload with a byte order mark": EC.compact(HEADER, b"\xef\xbb\xbf{}"),
    "duplicate header member": EC.compact(b'{"alg": "ES256", "alg": "ES256"}', claims()),
    "duplicate claim": EC.compact(HEADER, member_text(sub='"rita", "sub": "root"')),
    "duplicate nested member": EC.compact(HEADER, member_text(x='{"a": 1, "a": 2}')),
    "NaN": EC.compact(HEADER, member_text(exp="NaN")),
    "Infinity": EC.compact(HEADER, member_text(exp="Infinity")),
    "exp beyond a float": EC.compact(HEADER, member_text(exp="1e999")),
    "exp of 400 digits": EC.compact(HEADER, member_text(exp="9" * 400)),
    "exp of 5,000 digits": EC.compact(HEADER, member_text(exp="9" * 5000)),
    "exp as a string": EC.token(claims(exp=str(NOW + 60))),
    "exp as a boolean": EC.token(claims(exp=True)),
    "exp as a list": EC.token(claims(exp=[NOW + 60])),
    "exp negative": EC.token(claims(exp=-1)),
    "exp beyond the year 9999": EC.token(claims(exp=10**30)),
    "nbf as a string": EC.token(claims(nbf="0")),
    "nbf as null": EC.compact(HEADER, member_text(nbf="null")),
    "iat as a boolean": EC.token(claims(iat=False)),
    "nested in lists": EC.compact(HEADER, member_text(x="[" * 20 + "]" * 20)),
    "nested in lists without end": EC.compact(HEADER, member_text(x="[" * 2000 + "]" * 2000)),
    "nested token": EC.token(cty="JWT"),
    "compressed": EC.token(zip="DEF"),
    "detached payload": EC.token(b64=False),
    "crit": EC.token(crit=["exp"]),
    "crit with what we know": EC.token(crit=["b64"], b64=True),
    "crit empty": EC.token(crit=[]),
    "alg missing": EC.token(alg=None),
    "alg not a string": EC.token(alg=["ES256"]),
    "kid not a string": EC.token(kid=1),
    "typ not a string": EC.token(typ=["JWT"]),
}
ALGORITHM = {
    "none": unsigned({"alg": "none"}) + "AA",
    "None": unsigned({"alg": "None", "kid": "ec"}) + "AA",
    "HS256 with the public PEM": with_hmac(public_pem(RSA), "rsa"),
    "HS256 with the JWK": with_hmac(json.dumps(EC.jwk()).encode(), "ec"),
    "ES512": EC.token(alg="ES512"),
    "lower case": EC.token(alg="es256"),
}
KEY = {
    "unknown kid": EC.token(kid="other"),
    "no kid, several keys": EC.token(kid=None),
    "kid with a path": EC.token(kid="../../dev/null"),
    "kid with SQL": EC.token(kid="' or 1=1 --"),
    "jwk of the attacker": STRANGER.token(jwk=STRANGER.jwk()),
    "jku of the attacker": STRANGER.token(jku="http://127.0.0.1:1/jwks.json"),
    "x5u of the attacker": STRANGER.token(x5u="http://127.0.0.1:1/cert.pem", x5c=["AAAA"]),
}
SIGNATURE = {
    "another key under the kid": STRANGER.token(kid="ec"),
    "another key, embedded": STRANGER.token(kid="ec", jwk=STRANGER.jwk()),
    "another algorithm of the key": RSA.token(alg="PS256"),
    "another key's algorithm": EC.token(alg="RS256"),
    "DER instead of r and s": EC.token().rsplit(".", 1)[0] + "." + base64url(b"\x30\x44" * 36),
    "r and s are zero": EC.token().rsplit(".", 1)[0] + "." + base64url(bytes(64)),
    "too short": EC.token().rsplit(".", 1)[0] + ".AAAA",
    "EdDSA of zeros": ED.token().rsplit(".", 1)[0] + "." + base64url(bytes(64)),
    "RS256 of zeros": RSA.token().rsplit(".", 1)[0] + "." + base64url(bytes(256)),
}
CLAIMS = {
    "iss missing": (EC.token(claims(iss=None)), Reason.UNKNOWN_ISSUER),
    "iss of another": (EC.token(claims(iss=ISSUER + "/")), Reason.UNKNOWN_ISSUER),
    "iss as a list": (EC.token(claims(iss=[ISSUER])), Reason.UNKNOWN_ISSUER),
    "exp missing": (EC.token(claims(exp=None)), Reason.INVALID_CLAIMS),
    "exp just passed": (EC.token(claims(exp=NOW - LEEWAY)), Reason.EXPIRED),
    "nbf in the future": (EC.token(claims(nbf=NOW + LEEWAY + 1)), Reason.NOT_YET_VALID),
    "iat in the future": (EC.token(claims(iat=NOW + LEEWAY + 1)), Reason.NOT_YET_VALID),
    "aud missing": (EC.token(claims(aud=None)), Reason.INVALID_CLAIMS),
    "aud as a number": (EC.token(claims(aud=1)), Reason.INVALID_CLAIMS),
    "aud as an object": (EC.token(claims(aud={"orders": 1})), Reason.INVALID_CLAIMS),
    "aud as a list of lists": (EC.token(claims(aud=[["orders"]])), Reason.INVALID_CLAIMS),
    "aud of another": (EC.token(claims(aud=["order", "orders "])), Reason.WRONG_AUDIENCE),
    "aud empty": (EC.token(claims(aud=[])), Reason.WRONG_AUDIENCE),
    "sub missing": (EC.token(claims(sub=None)), Reason.INVALID_SUBJECT),
    "sub empty": (EC.token(claims(sub="")), Reason.INVALID_SUBJECT),
    "sub as a number": (EC.token(claims(sub=7)), Reason.INVALID_SUBJECT),
    "sub with NUL": (EC.token(claims(sub="rita\0")), Reason.INVALID_SUBJECT),
    "sub with a line break": (EC.token(claims(sub="rita\r\nx: y")), Reason.INVALID_SUBJECT),
    "sub with a C1 control": (EC.token(claims(sub="rita\x85")), Reason.INVALID_SUBJECT),
    "sub with a lone surrogate": (EC.token(claims(sub="rita\ud800")), Reason.INVALID_SUBJECT),
    "sub with a space at its end": (EC.token(claims(sub="rita ")), Reason.INVALID_SUBJECT),
    "sub of 257 characters": (EC.token(claims(sub="r" * 257)), Reason.INVALID_SUBJECT),
    "a role with a comma": (EC.token(claims(roles=["a,admin"])), Reason.INVALID_CLAIMS),
    "a role with a line break": (EC.token(claims(roles=["a\nb"])), Reason.INVALID_CLAIMS),
    "roles as an object": (EC.token(claims(roles={"a": 1})), Reason.INVALID_CLAIMS),
    "scope as a number": (EC.token(claims(scope=1)), Reason.INVALID_CLAIMS),
}
SIZE = {
    "8,193 characters": "x" * 8193,
    "a megabyte, well formed": EC.token(claims(x="y" * 1_000_000)),
}
REFUSED = [
    *((f"form: {name}", token, Reason.MALFORMED_TOKEN) for name, token in FORM.items()),
    *((f"alg: {name}", token, Reason.ALGORITHM_NOT_ALLOWED) for name, token in ALGORITHM.items()),
    *((f"key: {name}", token, Reason.UNKNOWN_KEY) for name, token in KEY.items()),
    *((f"signature: {name}", token, Reason.INVALID_SIGNATURE) for name, token in SIGNATURE.items()),
    *((f"claims: {name}", token, reason) for name, (token, reason) in CLAIMS.items()),
    *((f"size: {name}", token, Reason.TOKEN_TOO_LARGE) for name, token in SIZE.items()),
]


@pytest.mark.parametrize(
    ("token", "reason"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_a_wrong_token_is_refused_for_its_reason(token, reason):
    """Always 401, with a detail that holds nothing of the token."""
    verdict = ASKED.ask(token=token)
    assert (verdict.is_allowed, verdict.status, verdict.reason) == (False, 401, reason)
    assert token not in verdict.detail + "".join(verdict.challenges)


def test_the_types_of_header_and_claims_matter_where_an_issuer_says_so():
    """RFC 9068 section 4: `at+jwt`, with or without `application/`, in any case; else refused."""
    asked = Authorizer(token_issuer(jwks(EC), tokenType="at+jwt"), ANY_CALLER)
    for typ in ("at+jwt", "AT+JWT", "application/at+jwt"):
        assert reason_of(EC.token(typ=typ), asked) == "allowed"
    for typ in ("JWT", None, ""):
        assert reason_of(EC.token(typ=typ), asked) == Reason.INVALID_CLAIMS


def test_an_issuer_is_named_by_a_string_alone():
    """RFC 7519 section 4.1.1: the number 7 is not the issuer "7"."""
    asked = Authorizer(token_issuer(jwks(EC), issuer="7"), ANY_CALLER)
    assert reason_of(EC.token(claims(iss="7")), asked) == "allowed"
    assert reason_of(EC.token(claims(iss=7)), asked) == Reason.UNKNOWN_ISSUER


def test_an_algorithm_counts_only_where_its_issuer_allows_it():
    asked = Authorizer(token_issuer(jwks(EC, RSA), algorithms=["PS256"]), ANY_CALLER)
    assert reason_of(PSS.token(), asked) == "allowed"
    for token in (RSA.token(), EC.token()):
        assert reason_of(token, asked) == Reason.ALGORITHM_NOT_ALLOWED


@pytest.mark.parametrize(
    "members",
    [{"use": "enc"}, {"key_ops": ["encrypt"]}, {"key_ops": ["sign"]}, {"alg": "RSA-OAEP"}],
    ids=str,
)
def test_a_key_that_is_not_for_verifying_verifies_nothing(members):
    """RFC 7517 sections 4.2 to 4.4."""
    asked = Authorizer(token_issuer(jwks(RSA.jwk(**members), EC)), ANY_CALLER)
    assert reason_of(RSA.token(), asked) == Reason.UNKNOWN_KEY
    assert reason_of(EC.token(), asked) == "allowed"


def test_a_key_for_one_algorithm_verifies_no_other():
    asked = Authorizer(token_issuer(jwks(RSA.jwk(alg="PS256", use="sig"))), ANY_CALLER)
    assert reason_of(PSS.token(), asked) == "allowed"
    assert reason_of(RSA.token(), asked) == Reason.INVALID_SIGNATURE


def test_a_token_without_kid_takes_the_only_key_there_is():
    asked = Authorizer(token_issuer(jwks(EC)), ANY_CALLER)
    assert reason_of(EC.token(kid=None), asked) == "allowed"
