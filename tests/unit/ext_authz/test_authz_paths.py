"""One reading of a path, and the ways around a rule that it closes."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.core.model import Reason
from ext_authz.core.paths import (
    PATH_CHARACTERS_AT_MOST,
    InvalidPath,
    normalized,
    parse_pattern,
    split_target,
)
from tests.support.check_requests import Authorizer, access_policy

PCHAR = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,=:@"
pieces = st.sampled_from(
    [
        *"/.%;\\?#aZ5~-_:@!* \0é",
        *("..", "/./", "//", "%2", "/..", "admin"),
        *("%2e", "%2F", "%2f", "%5c", "%41", "%3a", "%c3%a9", "%ff", "%00", "%25", "%20", "%3B"),
        "%e0%80%af",
    ]
)
paths = st.lists(pieces, max_size=12).map("".join) | st.text(max_size=20)
absolute = paths.map(lambda text: "/" + text)


def naive(path: str) -> str | None:
    """The oracle: decode, refuse, split, walk; written without looking at the code under test."""
    if not path.startswith("/") or len(path) > PATH_CHARACTERS_AT_MOST:
        return None
    if re.search(r"%(?![0-9A-Fa-f]{2})", path) or not set(path) <= set(PCHAR + "/%"):
        return None
    decoded = unquote_to_bytes(path)
    try:
        decoded.decode()
    except UnicodeDecodeError:
        return None
    raw = unquote_to_bytes(re.sub("(?i)%2f", "\\\\", path))
    if any(byte < 0x20 or byte == 0x7F or byte in b"\\;%" for byte in raw):
        return None
    kept = bytes(map(ord, PCHAR)) + b"/"
    text = "".join(chr(byte) if byte in kept else f"%{byte:02X}" for byte in decoded)
    walked: list[str] = []
    names = [name for name in text.split("/") if name]
    for name in names:
        if name == "..":
            if not walked:
                return None
            walked.pop()
        elif name != ".":
            if name.endswith((".", "%20")):
                return None
            walked.append(name)
    ends_in_slash = text.endswith("/") or names[-1] in {".", ".."}
    return "/" + "/".join(walked) + ("/" if ends_in_slash and walked else "")


@given(absolute)
def test_the_normal_form_agrees_with_a_naive_reading(path):
    result = normalized(path)
    assert (None if isinstance(result, InvalidPath) else result) == naive(path)


@given(paths | absolute)
def test_the_normal_form_is_its_own_normal_form(path):
    """And holds no dot segment, no double slash, no needless escape, no character to refuse."""
    result = normalized(path)
    if isinstance(result, InvalidPath):
        return
    assert normalized(result) == result
    assert not {".", ".."} & set(result.split("/"))
    assert "//" not in result
    for escape in re.findall("%..", result):
        assert escape == escape.upper()
        assert chr(int(escape[1:], 16)) not in PCHAR + "/\\;%"


BYPASSES = [
    "/admin",
    "/admin/",
    "/admin/x",
    "//admin/x",
    "/x//..//admin/x",
    "/./admin/x",
    "/x/../admin/x",
    "/x/%2e%2e/admin/x",
    "/x/%2E./admin/x",
    "/%61dmin/x",
    "/%61%64%6D%69%6e/x",
    "/admin/./x",
    "/admin?x=/y",
    "/admin#/../y",
    "/admin%2Fx",
    "/admin%2fx",
    "/x/..%2Fadmin",
    "/admin%5Cx",
    "/admin\\x",
    "/admin;x=y/z",
    "/;/admin/x",
    "/admin%3Bx",
    "/admin%00",
    "/admin\0",
    "/admin%09/x",
    "/admin\n",
    "/admin./x",
    "/admin../x",
    "/admin%20/x",
    "/admin/%20",
    "/admin.%20/x",
    "/admin/x/..%00/",
    "/admin%252Fx",
    "/%2561dmin",
    "/admin%",
    "/admin%2",
    "/admin%zz",
    "/admin/\u212a",
    "/admin%c0%afx",
    "/%c0%ae%c0%ae/admin",
    "/..",
    "/../admin",
    "/x/../../admin",
    "admin",
    "",
    "*",
    "http://api.example.com/admin",
    "/reports:purge",
    "/reports%3Apurge",
    "/reports%3apurge/",
]


@pytest.mark.parametrize("target", BYPASSES)
def test_no_spelling_of_a_path_walks_around_a_deny_rule(target):
    """Everything is open but two things; each spelling is denied, by the rule or as no path."""
    asked = Authorizer(
        access_policy(
            {"name": "open", "callers": "anyone", "paths": ["/**"]},
            {"name": "closed", "effect": "deny", "paths": ["/admin/**", "/reports:purge"]},
            identify=[],
        )
    )
    verdict = asked.ask(target)
    assert verdict.reason in {Reason.DENIED_BY_RULE, Reason.INVALID_PATH}
    assert (verdict.is_allowed, verdict.status, verdict.policy) == (False, 403, "orders")


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("/", "/"),
        ("/.", "/"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/a/./b/../c", "/a/c"),
        ("/a//b///c/", "/a/b/c/"),
        ("/%7Euser/%41", "/~user/A"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a%20b%22", "/a%20b%22"),
        ("/.well-known/x.json", "/.well-known/x.json"),
        ("/v1/things:cancel@1,2;".rstrip(";"), "/v1/things:cancel@1,2"),
    ],
)
def test_a_path_has_this_normal_form(path, normal):
    assert normalized(path) == normal


def test_a_path_is_bounded():
    assert normalized("/" + "a" * (PATH_CHARACTERS_AT_MOST - 1)) != InvalidPath
    assert isinstance(normalized("/" + "a" * PATH_CHARACTERS_AT_MOST), InvalidPath)


def test_a_target_is_path_and_query_without_fragment():
    assert split_target("/a?b=c#d") == ("/a", "b=c")
    assert split_target("/a#b?c") == ("/a", "c")
    assert split_target("/a?b?c") == ("/a", "b?c")


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("/", ["/"], ["/a"]),
        ("/a", ["/a", "/a/"], ["/", "/a/b", "/ab", "/A"]),
        ("/a/", ["/a", "/a/"], ["/a/b"]),
        ("/a/*", ["/a/b", "/a/b/"], ["/a", "/a/", "/a/b/c"]),
        ("/a/{id}/c", ["/a/b/c", "/a/*/c"], ["/a/c", "/a/b/d"]),
        ("/a/**", ["/a", "/a/", "/a/b", "/a/b/c"], ["/", "/ab"]),
        ("/**", ["/", "/a", "/a/b/"], []),
        ("/*/b/**", ["/a/b", "/a/b/c"], ["/b", "/a/c/b"]),
    ],
)
def test_a_pattern_matches_whole_segments(pattern, matching, other):
    """A slash at the end makes no difference, to an allow rule or a deny rule."""
    parsed = parse_pattern(pattern)
    assert [path for path in matching if not parsed.matches(path)] == []
    assert [path for path in other if parsed.matches(path)] == []
