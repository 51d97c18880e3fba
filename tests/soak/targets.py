"""What is fuzzed: each target takes any bytes and raises only where a promise is broken.

Every one that may raise nothing says so by its promise: what is expected is caught here.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import quote

from ext_authz.adapters.envoy_check import Check
from ext_authz.core.bodies import Body, NoBody
from ext_authz.core.certificates import Authorities, parse_certificate
from ext_authz.core.conditions import Condition
from ext_authz.core.jose import Malformed, parse_token
from ext_authz.core.jwks import parse_jwks
from ext_authz.core.model import Request
from ext_authz.core.paths import InvalidPath, normalized
from ext_authz.core.xfcc import parse_xfcc
from meshwarden.adapters.grpc_calls import GrpcFailure
from meshwarden.adapters.grpc_framing import CallMetadata, Message, seconds_of
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
from tests.support.tokens import NOW, ec_signer, jwks

EC = ec_signer()
TOKEN = EC.token()
ISSUED = Authority().issue(uris=("spiffe://cluster.local/ns/shop/sa/web",)).certificate
AUTHORITIES = Authorities(Authority("other").certificate)
ASKED = Authorizer(
    token_issuer(jwks(EC)),
    access_policy({"name": "open", "callers": "anyone", "paths": ["/open/**"]}, {"name": "closed"}),
)


async def _nothing_new(_lookup: object) -> None:
    return None


CHECK = Check(ASKED.keys, _nothing_new, metrics=Metrics(), clock=lambda: NOW)
CHECK.policies = ASKED.policies


def check_requests(content: bytes) -> None:
    """Answered, or invalid input; allowed only where the open path or the token stands in it."""
    try:
        answer = CHECK.handle(content, ())
    except InvalidInput:
        return
    assert isinstance(answer, bytes)
    if response_of(answer).status.code == 0:
        assert b"open" in content or b"%" in content or TOKEN.encode() in content


def tokens(content: bytes) -> None:
    """Never one that is not the right one; read as Envoy would show it."""
    text = content.decode("utf-8", "replace")
    with suppress(Malformed):
        parse_token(text)
    headers = {"authorization": f"Bearer {text}"}
    if ASKED.decide(Request("GET", HOST, "/orders", headers)).is_allowed:
        assert text.strip() == TOKEN


def key_sets(content: bytes) -> None:
    try:
        parse_jwks("jwks.json", content)
    except (InvalidInput, ValueError):
        return


def certificates(content: bytes) -> None:
    """Never one that another authority did not sign."""
    found = parse_certificate(quote(content))
    assert found is None or not AUTHORITIES.signed(found, found.not_before)


def forwarded_certificates(content: bytes) -> None:
    elements = parse_xfcc(content.decode("utf-8", "replace"))
    assert elements is None or elements[0] is not None


def paths(content: bytes) -> None:
    """The normal form is its own, and none climbs."""
    found = normalized(content.decode("latin-1"))
    if not isinstance(found, InvalidPath):
        assert normalized(found) == found
        assert not {"..", "."} & set(found.split("/"))
        assert "//" not in found


def bodies(content: bytes) -> None:
    """The first line is the content type."""
    kind, _, body = content.partition(b"\n")
    read = Body(body, kind.decode("latin-1"))
    for way in (read.form, read.json, read.text):
        try:
            way()
        except NoBody:
            continue


def conditions(content: bytes) -> None:
    try:
        made = Condition(content.decode("utf-8", "replace"))
    except ValueError:
        return
    made.holds({"request.path": "/a", "request.method": "GET", "principal.claims": {"a": [1]}})


MESSAGE_BYTES_AT_MOST = 2048


def grpc_framing(content: bytes) -> None:
    """A message in pieces as long as the first byte says, its encoding and deadline after it."""
    size = 1 + (content[0] if content else 0)
    message = Message(MESSAGE_BYTES_AT_MOST)
    try:
        for place in range(1, len(content), size):
            if message.add(content[place : place + size]):
                whole = message.taken(b"gzip")
                assert len(whole) <= MESSAGE_BYTES_AT_MOST
                break
    except GrpcFailure:
        pass
    left = seconds_of(content[:9])
    assert left is None or left >= 0
    pairs = [(b"x-bin", content), (content[:20], content[20:])]
    for name, value in CallMetadata(pairs):
        assert name.endswith("-bin") == isinstance(value, bytes)


FORM = b"multipart/form-data; boundary=b\n"
PART = b'--b\r\nContent-Disposition: form-data; name="a"; filename="f"\r\n\r\nx\r\n--b--\r\n'
TARGETS: dict[str, tuple[Callable[[bytes], None], tuple[bytes, ...]]] = {
    "check_requests": (
        check_requests,
        (check_request("/orders", headers={"cookie": "a=b"}), check_request("/x", is_raw=True)),
    ),
    "tokens": (tokens, (TOKEN.encode(), b"e30.e30.AA")),
    "key_sets": (key_sets, (str(jwks(EC)).replace("'", '"').encode(), b'{"keys": []}')),
    "certificates": (certificates, (ISSUED,)),
    "forwarded_certificates": (
        forwarded_certificates,
        (b'By=spiffe://a/b;Hash=1;Subject="CN=x,O=\\"y\\"";URI=spiffe://a/c;DNS=d,By=x',),
    ),
    "grpc_framing": (
        grpc_framing,
        (b"\xff\0\0\0\0\1x", b"\2\1\0\0\0\x15" + gzip.compress(b"x"), b"100m", b"9999999H"),
    ),
    "paths": (paths, (b"/a/%2e%2e/b//c;d/%C3%A4", b"/a/./../b.")),
    "bodies": (
        bodies,
        (FORM + PART, b"application/json\n" + b'{"a": [1, "b"]}',
         b"application/x-www-form-urlencoded\na=b&c=%C3%A4"),
    ),
    "conditions": (
        conditions,
        (b"request.path.startsWith('/a') && principal.claims.a.all(x, x > 0)",
         b"request.method in ['GET'] || request.path.matches(r'^/a')"),
    ),
}  # fmt: skip
"""By name: the target and the inputs to begin with."""
