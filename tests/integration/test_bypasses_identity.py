"""Ways to another's name, tried on a real Envoy before a real upstream: identity headers,
credentials, and requests within requests.

As in `test_bypasses.py`, a row stands under what is answered to it, and whatever is answered the
upstream must have seen no forged identity, and nothing of what is protected.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.guarded_mesh import GuardedMesh
from tests.support.protected_mesh import (
    BEARER,
    DENY_HOST,
    KEY,
    OTHER_HOST,
    ROLE_HOST,
    TOKEN,
    answered,
    protected_mesh,
    require_no_harm,
    rows,
)
from tests.support.raw_http import exchange_h2, request


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedMesh]:
    with protected_mesh(tmp_path_factory.mktemp("bypasses")) as mesh:
        yield mesh


@pytest.fixture
def mesh(running: GuardedMesh) -> Iterator[GuardedMesh]:
    """The mesh with an empty record, in which after the test nothing stands that must not."""
    running.upstream.seen.clear()
    yield running
    require_no_harm(running.upstream)


# --- headers

REFUSED = [
    "x_auth_principal: root",
    "x-auth_principal: root",
    "x-auth-principal : root",
    "x-auth-principal\t: root",
    "x-auth-principal\x00: root",
    "x-auth-principal: ro\x00ot",
    "x-a: b\x0bx-auth-principal: root",
    "x-auth-principal\xa0: root",
    "x-auth-principÃ¤l: root",
    "x-auth-principal(: root",
]
WITHOUT_EFFECT = [
    "x-auth-principal: root",
    "X-Auth-Principal: root",
    "X-AUTH-PRINCIPAL: root",
    "x-auth-principal:root\r\nx-auth-principal: root2",
    "x-auth-principal:",
    "x-auth-principal: \t root",
    "x-auth-principal: a\r\n root",
    "x-a: b\n x-auth-principal: root",
    "x-a: b\nx-auth-principal: root",
    "x-a: b\rx-auth-principal: root",
    "x-auth-roles: admin",
    "x-auth-subject: root",
    "x-auth-scopes: *",
    "connection: x-auth-principal",
    "connection: close, x-auth-principal\r\nx-auth-principal: root",
    "proxy-connection: x-auth-principal",
    "keep-alive: x-auth-principal",
    "te: x-auth-principal",
    "upgrade: x-auth-principal",
    "x-auth-principal.: root",
    "trailer: x-auth-principal",
    "x-forwarded-for: 10.0.0.1",
    "x-forwarded-client-cert: URI=spiffe://cluster.local/admin",
    "x-envoy-original-path: /admin/x",
    "x-envoy-auth-partial-body: false",
    "x-envoy-internal: true",
    "x-envoy-decorator-operation: x",
    "x-envoy-original-dst-host: 127.0.0.1:1",
    "x-envoy-upstream-alt-stat-name: x",
    "x-original-url: /admin/x",
    "x-rewrite-url: /admin/x",
    "x-forwarded-prefix: /admin",
    "x-forwarded-path: /admin/x",
    "x-ext-authz-check-result: allowed",
    "x.auth.principal: root",
    "x-auth~principal: root",
]


@pytest.mark.parametrize("lines", REFUSED)
def test_a_header_that_two_servers_read_differently_is_refused(mesh: GuardedMesh, lines):
    assert answered(mesh, request("GET /open HTTP/1.1", lines, host=ROLE_HOST)) == "400 bad_request"


@pytest.mark.parametrize("lines", WITHOUT_EFFECT)
def test_a_header_changes_neither_who_is_calling_nor_what_may_be_done(mesh: GuardedMesh, lines):
    """Unknown callers stay unknown, known ones themselves, and closed doors closed."""
    assert answered(mesh, request("GET /open HTTP/1.1", lines, host=ROLE_HOST)) == "200"
    assert mesh.upstream.seen.pop().values("x-auth-principal") == []
    assert answered(mesh, request("GET /me HTTP/1.1", lines, BEARER, host=ROLE_HOST)) == "200"
    assert mesh.upstream.seen.pop().values("x-auth-principal") == ["jwt:rita"]
    for path in ("/admin/x", "/inside"):
        answer = answered(mesh, request(f"GET {path} HTTP/1.1", lines, BEARER, host=ROLE_HOST))
        assert answer == "403 no_rule_allows"


@pytest.mark.parametrize("name", ["x-envoy-original-path", "x-envoy-auth-partial-body"])
def test_what_a_client_says_in_envoys_name_is_not_heard(mesh: GuardedMesh, name):
    answered(mesh, request("GET /open HTTP/1.1", f"{name}: false", host=ROLE_HOST))
    assert mesh.upstream.seen[0].values(name) == []


def test_a_line_that_is_continued_is_one_value(mesh: GuardedMesh):
    answered(
        mesh, request("GET /open HTTP/1.1", "x-a: b", " x-auth-principal: root", host=ROLE_HOST)
    )
    assert mesh.upstream.seen[0].values("x-a") == ["b x-auth-principal: root"]


def test_a_credential_that_is_named_as_hop_by_hop_is_none(mesh: GuardedMesh):
    lines = ("connection: authorization", BEARER)
    answer = answered(mesh, request("GET /me HTTP/1.1", *lines, host=ROLE_HOST))
    assert answer == "401 missing_credential"


# --- credentials

CREDENTIALS = {
    "200": [
        "authorization: Bearer TOKEN",
        "x-api-key: KEY",
        "Authorization: bearer TOKEN",
        "AUTHORIZATION: BEARER TOKEN",
        "authorization:  Bearer   TOKEN  ",
        "cookie: session=TOKEN",
        'cookie: session="TOKEN"',
        "cookie: session =TOKEN",
        "X-Api-Key: KEY",
        "x-api-key: KEY ",
    ],
    "401 multiple_credentials": [
        "authorization: Bearer TOKEN\r\nauthorization: Bearer TOKEN",
        "authorization: Bearer TOKEN\r\nx-api-key: KEY",
        "x-api-key: KEY\r\nx-api-key: KEY",
        "authorization: Bearer TOKEN\r\nauthorization: Basic x",
        "authorization: Bearer TOKEN,TOKEN",
        "authorization: Bearer TOKEN, Bearer TOKEN",
        "cookie: session=TOKEN; session=TOKEN",
        "cookie: session=TOKEN\r\ncookie: session=TOKEN",
        "cookie: session=x; session=TOKEN",
        "cookie: session=TOKEN; session=x",
        "cookie: session=TOKEN\r\nauthorization: Bearer TOKEN",
        "cookie: session=TOKEN\r\nx-api-key: KEY",
        "x-api-key: KEY,KEY",
    ],
    "401 unsupported_scheme": [
        "authorization: Basic x\r\nauthorization: Bearer TOKEN",
        "authorization: Basic cm9vdDpyb290",
        "authorization: Bearer\tTOKEN",
        "authorization: TOKEN",
        "authorization:",
        "authorization: ApiKey KEY",
    ],
    "401 malformed_token": [
        "authorization: Bearer",
        "authorization: Bearer  ",
        "authorization: Bearer TOKEN x",
        'authorization: Bearer "TOKEN"',
        "authorization: Bearer TOKEN=",
        "authorization: Bearer TOKEN\xa0",
        "authorization: Bearer KEY",
    ],
    "401 missing_credential": [
        "proxy-authorization: Bearer TOKEN",
        "cookie: SESSION=TOKEN",
        "cookie: a=1, session=TOKEN",
        "cookie: __Host-session=TOKEN",
        "cookie: session[]=TOKEN",
    ],
    "401 invalid_api_key": [
        "x-api-key: BIGKEY",
        "x-api-key: OTHERKEY",
        "x-api-key: ",
        "x-api-key: TOKEN",
    ],
    "400 bad_request": [
        "x_api_key: KEY",
    ],
}
QUERIES = {
    "200": [
        "/me?access_token=TOKEN",
        "/me?access%5ftoken=TOKEN",
        "/me?&&access_token=TOKEN",
    ],
    "401 multiple_credentials": [
        "/me?access_token=TOKEN&access_token=TOKEN",
        "/me?access_token=x&access_token=TOKEN",
        "/me?access_token=TOKEN&access_token=",
        "/me?access_token=TOKEN%2CTOKEN",
        "/me?%61ccess_token=TOKEN&access_token=TOKEN",
    ],
    "401 missing_credential": [
        "/me?ACCESS_TOKEN=TOKEN",
        "/me?a=1;access_token=TOKEN",
        "/me?access_token[]=TOKEN",
        "/me?+access_token=TOKEN",
        "/me?access_token+=TOKEN",
        "/me?access.token=TOKEN",
        "/me??access_token=TOKEN",
    ],
    "400 bad_request": [
        "/me?access_token=TOKEN#",
    ],
    "401 malformed_token": [
        "/me?access_token=TOKEN%00",
    ],
}


def with_secrets(text: str) -> str:
    for name, value in (("OTHERKEY", f"{KEY[:-1]}0"), ("BIGKEY", KEY.upper()), ("KEY", KEY)):
        text = text.replace(name, value)
    return text.replace("TOKEN", TOKEN)


@pytest.mark.parametrize(("answer", "lines"), rows(CREDENTIALS))
def test_only_one_credential_in_its_own_form_is_taken_and_none_passed_on(
    mesh: GuardedMesh, answer, lines
):
    sent = request("GET /me HTTP/1.1", with_secrets(lines), host=ROLE_HOST)
    assert answered(mesh, sent) == answer
    assert all(TOKEN not in str(seen) and KEY not in str(seen) for seen in mesh.upstream.seen)


@pytest.mark.parametrize(("answer", "target"), rows(QUERIES))
def test_only_one_token_in_the_query_is_taken_and_none_passed_on(mesh: GuardedMesh, answer, target):
    target = target.replace("ACCESS_TOKEN", "ACCESS%5fTOKEN").replace("=TOKEN", f"={TOKEN}")
    assert answered(mesh, request(f"GET {target} HTTP/1.1", host=ROLE_HOST)) == answer
    assert all(TOKEN not in seen.target for seen in mesh.upstream.seen)


# --- requests within requests

INNER = f"GET /admin/x HTTP/1.1\r\nhost: {DENY_HOST}\r\n\r\n"
LENGTH = len(INNER)
SMUGGLED = {
    "400 bad_request": [
        (("content-length: 6", "transfer-encoding: chunked"), f"0\r\n\r\n{INNER}"),
        (("transfer-encoding: chunked", "content-length: 4"), f"5c\r\n{INNER}\r\n0\r\n\r\n"),
        (("content-length: 0", f"content-length: {LENGTH}"), INNER),
        ((f"content-length: 0, {LENGTH}",), INNER),
        (("content-length: 2", "content-length: 2"), "ab"),
        ((f"content-length: +{LENGTH}",), INNER),
        (("content-length: -1",), INNER),
        (("content-length: 0x3",), INNER),
        (("content-length : 3",), INNER),
        (("content_length: 3",), INNER),
        (("transfer-encoding : chunked",), f"0\r\n\r\n{INNER}"),
        (("transfer-encoding:\tchunked", "content-length: 3"), f"0\r\n\r\n{INNER}"),
        (("transfer-encoding: \x0bchunked",), f"0\r\n\r\n{INNER}"),
        (("transfer_encoding: chunked",), f"0\r\n\r\n{INNER}"),
        (("transfer-encoding: chunked",), f"0\n\n{INNER}"),
        (("transfer-encoding: chunked",), f"ffffffffffffffff1\r\n{INNER}"),
        (("transfer-encoding: chunked",), f"-1\r\n{INNER}"),
    ],
    "501 transfer_encoding_unknown": [
        (("transfer-encoding: xchunked",), f"0\r\n\r\n{INNER}"),
        (("transfer-encoding: chunked", "transfer-encoding: identity"), f"0\r\n\r\n{INNER}"),
        (("transfer-encoding: chunked, identity",), f"0\r\n\r\n{INNER}"),
        (("transfer-encoding: gzip, chunked",), f"0\r\n\r\n{INNER}"),
    ],
    "200": [
        (("Transfer-Encoding: CHUNKED",), f"0\r\n\r\n{INNER}"),
        (("transfer-encoding: chunked",), f'0;a="\r\n\r\n{INNER}"\r\n\r\n'),
        (("transfer-encoding: chunked", "te: trailers"), "0\r\nx-auth-principal: root\r\n\r\n"),
        ((f"content-length: {LENGTH}",), INNER),
        ((), INNER),
        (("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAM"), INNER),
    ],
    "403 upgrade_not_offered": [(("connection: upgrade", "upgrade: websocket"), INNER)],
}


@pytest.mark.parametrize(
    ("answer", "lines", "body"),
    [(answer, *row) for answer, requests in SMUGGLED.items() for row in requests],
)
def test_no_request_hides_in_another(mesh: GuardedMesh, answer, lines, body):
    """What follows is a request of its own, which is judged: it comes to no upstream."""
    sent = request("POST /open HTTP/1.1", *lines, host=DENY_HOST, body=body.encode("latin-1"))
    assert answered(mesh, sent.replace(b"connection: close\r\n", b"")) == answer
    # Envoy reads a connection in order: once this is answered the one inside has been judged.
    assert answered(mesh, request("GET /admin/x HTTP/1.1", host=DENY_HOST)) == "403 denied_by_rule"


def test_each_request_of_a_connection_is_judged(mesh: GuardedMesh):
    first = request("GET /open HTTP/1.1", host=DENY_HOST).replace(b"connection: close\r\n", b"")
    assert answered(mesh, first + INNER.encode()) == "200"
    assert answered(mesh, b"\r\n\r\n" + INNER.encode()) == "403 denied_by_rule"


# --- HTTP/2


def fields(path="/open", *, host=DENY_HOST, method="GET", scheme="http", more=()):
    pseudo = [(":method", method), (":scheme", scheme), (":authority", host), (":path", path)]
    return [*pseudo, *more]


H2_CLOSED = [
    fields(more=[(":path", "/admin/x")]),
    fields(more=[(":authority", OTHER_HOST)]),
    [*fields()[:3], ("x", "y"), (":path", "/admin/x")],
    fields("/admin/x", host=OTHER_HOST, more=[("host", "a"), ("host", DENY_HOST)]),
    fields("/admin/x", host=f"u@{DENY_HOST}"),
    *(fields(path) for path in (f"http://{DENY_HOST}/admin/x", "/open /admin/x", "/admin\t/x", "")),
    *(
        fields(path)
        for path in ("/admin\0/x", "*", "/open HTTP/1.1\r\nx-auth-principal: root\r\nx: y")
    ),
    fields(method=f"GET /admin/x HTTP/1.1\r\nhost: {DENY_HOST}\r\n\r\nGET"),
    fields(method="GET /admin/x?"),
    fields(host=f"{DENY_HOST}\r\nx-auth-principal: root"),
    fields(scheme=f"http://{DENY_HOST}/admin/x?"),
    fields(method="CONNECT", more=[(":protocol", "websocket")]),
    *(
        fields(more=[field])
        for field in [
            ("x-a", "b\r\nx-auth-principal: root"),
            ("x-a", "b\nx-auth-principal: root"),
            ("x-a: b\r\nx-auth-principal", "root"),
            ("X-Auth-Principal", "root"),
            ("x_auth_principal", "root"),
            ("x-auth-principal:", "root"),
            ("x-auth-principal ", "root"),
            ("transfer-encoding", "chunked"),
            ("connection", "x-auth-principal"),
            ("upgrade", "h2c"),
            ("content-length", "10"),
            (":foo", "x"),
            ("", "x"),
        ]
    ),
]
SESSION = ("cookie", f"session={TOKEN}")
ME = {"path": "/me", "host": ROLE_HOST}
H2_ANSWERED = [
    ("200", fields()),
    ("200", fields(more=[("x-auth-principal", "root")])),
    ("200", fields(more=[("x-auth-principal", "\xff")])),
    ("200", fields(more=[("x-envoy-original-path", "/admin/x")])),
    ("403 denied_by_rule", fields("/admin/x")),
    ("403 denied_by_rule", fields("/open/../admin/x")),
    ("403 denied_by_rule", fields("/open/%2e%2e/admin/x")),
    ("400 bad_request", fields("/admin%2fx")),
    ("400 bad_request", fields("/open#/../admin")),
    ("200", fields("/admin/x", host=OTHER_HOST, more=[("host", DENY_HOST)])),
    ("403 denied_by_rule", fields("/admin/x", more=[("host", OTHER_HOST)])),
    ("403 denied_by_rule", [field for field in fields("/admin/x", more=[("host", DENY_HOST)])
                            if field[0] != ":authority"]),
    ("403 denied_by_rule", fields(method="delete")),
    ("404 no_route", [(":method", "CONNECT"), (":authority", f"{DENY_HOST}:80")]),
    ("401 multiple_credentials", fields(**ME, more=[SESSION, SESSION])),
    ("200", fields(**ME, more=[("cookie", "a=1"), SESSION])),
    ("401 multiple_credentials", fields(**ME, more=[("authorization", f"Bearer {TOKEN}")] * 2)),
]  # fmt: skip


def test_no_http2_request_is_two_requests_or_another(mesh: GuardedMesh):
    """Together, because Envoy takes a second to close a connection."""
    wanted = [("closed", headers) for headers in H2_CLOSED] + H2_ANSWERED
    with ThreadPoolExecutor(16) as threads:
        answers = threads.map(lambda row: exchange_h2(mesh.envoy.gateway, row[1]), wanted)
        found = [
            (str(answer), headers) for answer, (_, headers) in zip(answers, wanted, strict=True)
        ]
    assert found == wanted
    assert all(TOKEN not in str(seen) for seen in mesh.upstream.seen)
