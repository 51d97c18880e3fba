"""What `meshwarden explain` takes as a request."""

from __future__ import annotations

import json

import pytest

from meshwarden.cli.explain import read_request
from meshwarden.core.faults import InvalidInput

CHECK_REQUEST = {
    "attributes": {
        "source": {"address": {"socketAddress": {"address": "10.1.2.3", "portValue": 4711}}},
        "request": {
            "id": "1",
            "http": {
                "method": "POST",
                "host": "orders.example.com",
                "path": "/orders?x=1",
                "headers": {":path": "/orders?x=1", "x-api-key": "k"},
                "protocol": "HTTP/1.1",
            },
        },
    }
}


def test_a_check_request_is_read_as_envoy_sends_it():
    request = read_request("-", json.dumps(CHECK_REQUEST).encode())
    assert (request.method, request.host) == ("POST", "orders.example.com")
    assert (request.target, request.source_address) == ("/orders?x=1", "10.1.2.3")
    assert dict(request.headers) == {"x-api-key": "k"}


def test_a_repeated_header_is_merged_as_envoy_merges_it():
    content = b'{"headers": {"X-Many": ["a", "b"]}}'
    assert dict(read_request("-", content).headers) == {"x-many": "a,b"}


@pytest.mark.parametrize("content", [b"[]", b'{"attributes": {}}', b'{"attributes": 1}', b"{"])
def test_what_is_no_request_is_refused_with_its_name(content: bytes):
    with pytest.raises(InvalidInput, match=r"asked\.json"):
        read_request("asked.json", content)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "-:1: not JSON"),
        (b'{"path": "\xff"}', "-:1: not UTF-8 text"),
        (b"[" * 100_000, "-: nested too deeply"),
        (b'{"paht": "/"}', "-: there is no field 'paht' (did you mean 'path'?)"),
        (b'{"headers": {"a": 1}}', "-: headers.a: must be a text, or a list of texts"),
        (b'{"headers": {"a": [1, 2]}}', "-: headers.a: must be a text, or a list of texts"),
        (b'{"headers": []}', "-: headers: must be an object of names and values"),
        (b'{"path": 1}', "-: path: must be a text"),
        (b"[]", "-: a request is an object with some of method, host, path, headers,"),
    ],
)
def test_what_a_request_file_lacks_is_told_once_and_in_our_words(content: bytes, told: str):
    with pytest.raises(InvalidInput) as raised:
        read_request("-", content)
    assert str(raised.value).startswith(told)
    assert len(raised.value.problems) == 1
