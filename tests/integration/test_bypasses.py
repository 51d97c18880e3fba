"""Ways round a rule, tried on a real Envoy before a real upstream: paths, hosts, methods.

Each row is one request, written byte for byte, under what is answered to it: the status, and the
reason where the body tells one (`closed`: no answer). Whatever is answered, the upstream must not
have seen a request for what the policies protect. Identity: `test_bypasses_identity.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.envoy_services import Seen
from tests.support.guarded_mesh import GuardedMesh
from tests.support.protected_mesh import (
    DENY_HOST,
    OTHER_HOST,
    ROLE_HOST,
    answered,
    is_protected,
    protected_mesh,
    require_no_harm,
    rows,
)
from tests.support.raw_http import request


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


def test_what_is_protected_is_known_in_every_spelling():
    """Else the tests below could not fail."""
    named = (("host", DENY_HOST),)
    for target in ("/admin", "/a/%2e%2e/admin", "/a\\..\\admin/x", "/%2561dmin", "/admin;x/y"):
        assert is_protected(Seen("GET", target, named)), target
        assert not is_protected(Seen("GET", target, (("host", OTHER_HOST),))), target
    assert is_protected(Seen("GET", "http://DENY.example.com/admin", ()))
    assert not is_protected(Seen("GET", "/open?/admin", named))


# --- paths

PATHS = {
    "403 denied_by_rule": [
        "/admin/x",
        "/admin",
        "/admin/",
        "/admin//x",
        "//admin/x",
        "///admin///x",
        "/./admin/x",
        "/open/../admin/x",
        "/open/./.././admin/x",
        "/admin/./x",
        "/admin/x/../y",
        "/../admin/x",
        "/../../admin/x",
        "/%2e/admin/x",
        "/open/%2e%2e/admin/x",
        "/open/%2E%2e/admin/x",
        "/open/.%2e/admin/x",
        "/open/%2e./admin/x",
        "/%61dmin/x",
        "/%61%64%6d%69%6e/x",
        "/%61%64%6D%69%6E/x",
        "/open\\..\\admin\\x",
        "/open/..\\admin/x",
        "/\\admin/x",
        "/open/..;/admin/x",
        "/admin?/../open",
        "/admin/x?",
        "/admin/x?a=/open",
        "/open%3f/../admin/x",
        "/open%23/../admin/x",
        "http://deny.example.com/admin/x",
        "http://deny.example.com//admin/x",
        "HTTP://deny.example.com/admin/x",
        "http://deny.example.com:80/admin/x",
        "http://u:p@deny.example.com/admin/x",
    ],
    "200": [
        "/..",
        "/%20admin/x",
        "/open%ef%bc%8f..%ef%bc%8fadmin/x",
        "/adm%ef%bd%89n/x",
        "/admin%3f/x",
        "/open?/../admin/x",
        "/?/admin/x",
        "http://deny.example.com",
        "//deny.example.com/admin/x",
        "/Admin/x",
        "/ADMIN/x",
        "/admin'/x",
        "/administrator",
        "/open/admin/x",
    ],
    "403 invalid_path": [
        "/open/%252e%252e/admin/x",
        "/open/%25%32%65%25%32%65/admin/x",
        "/%2561dmin/x",
        "/admin%252fx",
        "/admin;a=b/x",
        "/;a/admin/x",
        "/admin%3ba/x",
        "/admin/x;a",
        "/admin./x",
        "/admin../x",
        "/admin.../x",
        "/admin%2e/x",
        "/admin%20/x",
        "/admin%09/x",
        "/admin%0a/x",
        "/admin%0d%0ax",
        "/admin%7f/x",
        "/%c0%afadmin/x",
        "/open/%c0%ae%c0%ae/admin/x",
        "/%e0%80%afadmin/x",
        "/%f0%80%80%afadmin/x",
        "/%uff0fadmin/x",
        "/admin%",
        "/admin%2",
        "/admin%zz/x",
        "/%%61dmin/x",
    ],
    "400 bad_request": [
        "/admin%2fx",
        "/admin%2Fx",
        "/open%2f..%2fadmin/x",
        "/open/..%2fadmin/x",
        "/%2fadmin/x",
        "/%2f/admin/x",
        "/admin%5cx",
        "\\admin\\x",
        "/open%5c..%5cadmin/x",
        "/admin%00/x",
        "/admin%00.png",
        "/%00/admin/x",
        "/admin\x00/x",
        "/admin\t/x",
        "/\tadmin/x",
        "/admïn/x",
        "/admin/x#",
        "/open#/../admin/x",
        "/admin#/../open",
        "#/admin/x",
        "/open?#/../../admin/x",
        "http:/admin/x",
        "http:///admin/x",
        "ftp://deny.example.com/admin/x",
        "admin/x",
        "",
        "*",
        "?/admin/x",
        "./admin/x",
        "deny.example.com:80",
        "/ /admin/x",
        "/admin\x0b/x",
        "/admin\xa0/x",
        "/admin\x85/x",
    ],
    "403": [
        "https://deny.example.com/admin/x",
    ],
    "404 no_route": [
        "http://deny.example.com?/admin/x",
    ],
}
PATHS["403 denied_by_rule"] += [f"/{'a/../' * 1000}admin/x", f"/{'a' * 9000}/../admin/x"]


@pytest.mark.parametrize(("answer", "path"), rows(PATHS))
def test_no_spelling_of_a_path_leads_to_what_is_protected(mesh: GuardedMesh, answer, path):
    """By a rule that denies, and by one that asks for a role."""
    assert answered(mesh, request(f"GET {path} HTTP/1.1", host=DENY_HOST)) == answer
    answered(mesh, request(f"GET {path} HTTP/1.1", host=ROLE_HOST))


# --- hosts

HOSTS = {
    "403 denied_by_rule": [
        "host: deny.example.com",
        "host: DENY.Example.COM",
        "host: deny.example.com.",
        "host: deny.example.com..",
        "host: deny.example.com:80",
        "host: deny.example.com:0080",
        "host: deny.example.com:99999",
        "host: deny.example.com.:80",
        "host:\tdeny.example.com\t",
        "x-forwarded-host: other.example.com\r\nhost: deny.example.com",
        "host: deny.example.com\r\nforwarded: host=other.example.com",
    ],
    "403 invalid_host": [
        "host: .deny.example.com",
        "host: deny.example.com:",
        "host: deny.example.com:80:80",
        "host: u@deny.example.com",
        "host: u:p@deny.example.com",
        "host: deny.example.com@other.example.com",
        "host: other.example.com@deny.example.com",
        "host: deny.example.com,other.example.com",
        "host: deny.example.com%2e",
        "host: d%65ny.example.com",
        "host:",
        "host: *",
        "host: *.example.com",
        "host: other.example.com\r\nhost: deny.example.com",
        "host: deny.example.com\r\nhost: other.example.com",
        "host: deny.example.com\r\nhost: deny.example.com",
    ],
    "400 bad_request": [
        "host: other.example.com, deny.example.com",
        "host: deny.example.com other.example.com",
        "host: deny.example.com/",
        "host: deny.example.com/x",
        "host: http://deny.example.com",
        "host: deny.example.com#",
        "host: deny.example.com?",
        "host: deny.example.com\\x",
        "host: deny.example.com\x00",
        "host: deny\xad.example.com",
        "host: â\x84ªeny.example.com",
        "host: dÃ©ny.example.com",
        "host : deny.example.com",
        " host: deny.example.com",
        "host: other.example.com\r\n deny.example.com",
        "host: other.example.com\r\n:authority: deny.example.com",
        "x: y",
    ],
    "200": [
        "host: [::1]",
        "host: other.example.com\r\nx-forwarded-host: deny.example.com",
        "host: other.example.com\r\nx-host: deny.example.com",
    ],
}


@pytest.mark.parametrize(("answer", "lines"), rows(HOSTS))
def test_no_spelling_of_a_host_is_another_hosts(mesh: GuardedMesh, answer, lines):
    """What an upstream makes of X-Forwarded-Host is its own affair: it is the client's word."""
    assert answered(mesh, request("GET /admin/x HTTP/1.1", lines)) == answer


ABSOLUTE_TARGETS = {
    "200": [
        "http://other.example.com/admin/x",
        "http://other.example.com/http://deny.example.com/admin/x",
    ],
    "403 denied_by_rule": [
        "http://deny.example.com/admin/x",
        "http://deny.example.com./admin/x",
        "http://DENY.example.com/admin/x",
        "http://x@deny.example.com/admin/x",
        "http://other.example.com@deny.example.com/admin/x",
        "http://other.example.com:80@deny.example.com/admin/x",
    ],
    "400 bad_request": [
        "http://deny.example.com%2e/admin/x",
        "http://other.example.com\\@deny.example.com/admin/x",
        "http://other.example.com#@deny.example.com/admin/x",
        "http:\\\\deny.example.com\\admin\\x",
    ],
    "404 no_route": [
        "http://other.example.com?@deny.example.com/admin/x",
    ],
}


@pytest.mark.parametrize("host", [OTHER_HOST, DENY_HOST])
@pytest.mark.parametrize(("answer", "target"), rows(ABSOLUTE_TARGETS))
def test_the_host_in_the_target_counts_and_reaches_the_upstream_as_host(
    mesh: GuardedMesh, answer, target, host
):
    """RFC 9112 section 3.2.2."""
    assert answered(mesh, request(f"GET {target} HTTP/1.1", host=host)) == answer
    assert {tuple(seen.values("host")) for seen in mesh.upstream.seen} <= {(OTHER_HOST,)}


# --- methods

REQUEST_LINES = {
    "403 denied_by_rule": [
        "GET /admin/x HTTP/1.1",
        "POST /admin/x HTTP/1.1",
        "OPTIONS /admin/x HTTP/1.1",
        "TRACE /admin/x HTTP/1.1",
        "PURGE /admin/x HTTP/1.1",
        "GET  /admin/x HTTP/1.1",
        "GET\t/admin/x HTTP/1.1",
        "GET /admin/x\tHTTP/1.1",
        "GET /admin/x HTTP/1.1 ",
        "DELETE /open HTTP/1.1",
    ],
    "400 bad_request": [
        "get /admin/x HTTP/1.1",
        "CONNECT /admin/x HTTP/1.1",
        "FOO /admin/x HTTP/1.1",
        "G\x00ET /admin/x HTTP/1.1",
        " GET /admin/x HTTP/1.1",
        "GET /open HTTP/1.1 /admin/x HTTP/1.1",
        "delete /open HTTP/1.1",
        "Delete /open HTTP/1.1",
        "DELETE\x00 /open HTTP/1.1",
        "DELETED /open HTTP/1.1",
    ],
    "403": [
        "HEAD /admin/x HTTP/1.1",
    ],
    "404 no_route": [
        "CONNECT deny.example.com:80 HTTP/1.1",
        "OPTIONS * HTTP/1.1",
    ],
    "closed": [
        "PRI * HTTP/2.0",
    ],
    "426 upgrade_required": [
        "GET /admin/x HTTP/1.0",
        "GET /admin/x HTTP/0.9",
        "GET /admin/x",
        "GET /admin/x HTTP/2.0",
    ],
    "200": [
        "GET /open HTTP/1.1\r\nx-http-method-override: DELETE",
        "GET /open HTTP/1.1\r\nx-http-method: DELETE",
        "GET /open HTTP/1.1\r\nx-method-override: DELETE",
    ],
}


@pytest.mark.parametrize(("answer", "line"), rows(REQUEST_LINES))
def test_no_spelling_of_a_method_walks_around_a_rule(mesh: GuardedMesh, answer, line):
    """A method in a header is not ours to judge: an upstream that obeys one must be told so by a
    rule on that header.
    """
    assert answered(mesh, request(line, host=DENY_HOST)) == answer
    assert "DELETE" not in {seen.method.upper() for seen in mesh.upstream.seen}
