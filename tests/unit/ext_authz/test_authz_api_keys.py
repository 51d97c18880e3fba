"""API keys: their form, their digests, their file."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.core.api_keys import (
    ApiKeys,
    digest,
    has_form,
    make_key,
    parse_key_file,
    parse_pepper,
)
from ext_authz.core.compile_keys import API_KEYS, PEPPER
from ext_authz.core.model import Reason
from meshwarden.core.faults import InvalidInput
from tests.support.check_requests import Authorizer, access_policy, access_role
from tests.support.tokens import NOW

PEPPER_TEXT = b"0123456789abcdef0123456789abcdef"
KEY, OTHER_KEY = make_key(bytes(32)), make_key(bytes(31) + b"\x01")


def record(key: str = KEY, **changes: object) -> dict[str, object]:
    return {"id": "1", "name": "service", "digest": digest(key, PEPPER_TEXT), **changes}


def key_file(*records: object, **members: object) -> bytes:
    return json.dumps({"keys": records, **members}).encode()


def parsed(*records: object, **members: object) -> ApiKeys:
    return parse_key_file(
        "keys.json", key_file(*records, **members), parse_pepper("p", PEPPER_TEXT + b"\n")
    )


def test_a_key_is_found_by_its_digest_and_never_stored():
    keys = parsed(record(), record(OTHER_KEY, id="2", name="other"))
    assert keys.find(KEY, NOW).name == "service"
    assert keys.find(OTHER_KEY, NOW).name == "other"
    assert KEY not in str(vars(keys))


def test_finding_a_key_is_one_look_up_whatever_the_number_of_records(monkeypatch):
    """The records are never gone through."""
    keys = parsed(*(record(make_key(bytes([n]) * 32), id=str(n)) for n in range(200)))
    looked_up = []

    class OneLookUp(dict):
        def get(self, key, default=None):
            looked_up.append(key)
            return super().get(key, default)

        def __iter__(self):
            raise AssertionError("the records were scanned")

        keys = values = items = __iter__

    monkeypatch.setattr(keys, "_records", OneLookUp(keys._records))
    assert keys.find(make_key(bytes([7]) * 32), NOW).id == "7"
    assert len(looked_up) == 1


def test_another_pepper_verifies_nothing():
    records = key_file(record())
    keys = parse_key_file("keys.json", records, b"another pepper of enough bytes .")
    assert keys.find(KEY, NOW) is None


@pytest.mark.parametrize(
    ("changes", "is_found"),
    [
        ({}, True),
        ({"expires_at": NOW + 1}, True),
        ({"expires_at": NOW}, False),
        ({"revoked_at": NOW + 100}, False),
        ({"revoked_at": 0}, False),
    ],
)
def test_a_key_is_valid_until_it_expires_or_is_revoked(changes, is_found):
    found = parsed(record(**changes)).find(KEY, NOW)
    assert found is not None
    assert found.is_valid(NOW) is is_found


@pytest.mark.parametrize(
    "text",
    ["", "mwk_", KEY[:-1], KEY + "x", KEY[:-1] + "!", KEY.upper(), f" {KEY}", f"{KEY}\n", "ключ"],
)
def test_what_has_not_the_form_of_a_key_is_no_key(text):
    """The checksum finds a typing error before any look-up."""
    assert not has_form(text)
    assert parsed(record()).find(text, NOW) is None


@given(st.text())
def test_finding_never_raises(text):
    assert parsed(record()).find(text, NOW) is None


def test_a_key_needs_all_its_randomness():
    with pytest.raises(ValueError, match="32 random bytes"):
        make_key(b"short")


@pytest.mark.parametrize(
    ("records", "what"),
    [
        ([record(), record(OTHER_KEY)], "the id of key '1' stands twice"),
        ([record(), record(id="2")], "the digest of key '2' stands twice"),
        ([record(digest="ABC")], "keys.0.digest"),
        ([record(name="two words")], "keys.0.name"),
        ([record(colour="red")], "keys.0.colour"),
        ([record(roles=["a,admin"])], "keys.0.roles.0"),
        ([record(scopes=["a\r\nx: y"])], "keys.0.scopes.0"),
        ([record(groups=["\ud800"])], "keys.0.groups.0"),
        ([7], "keys.0"),
    ],
)
def test_a_wrong_record_refuses_the_file_and_is_named(records, what):
    """A role that no header can carry would end in a 500 of Envoy's at each of its requests."""
    with pytest.raises(InvalidInput, match=what):
        parsed(*records)


def test_a_wrong_file_is_refused():
    with pytest.raises(InvalidInput, match=r"keys\.json:1: not JSON"):
        parse_key_file("keys.json", b"{", PEPPER_TEXT)
    with pytest.raises(InvalidInput, match="at least 32 bytes"):
        parse_pepper("pepper", b"short\n")
    with pytest.raises(InvalidInput, match="version"):
        parsed(version=2)


def test_a_key_brings_roles_scopes_and_groups():
    """The principal is `key:` and the record's name."""
    brought = record(roles=["writer"], scopes=["s"], groups=["g"])
    files = {API_KEYS: key_file(brought), PEPPER: PEPPER_TEXT}
    asked = Authorizer(
        access_role("writer"),
        access_policy(
            {"name": "only", "roles": ["writer"], "scopes": ["s"], "groups": ["g"]},
            identify=[{"apiKey": {}}],
        ),
        files=files,
    )
    verdict = asked.ask(headers={"x-api-key": KEY})
    assert (verdict.is_allowed, verdict.principal.name) == (True, "key:service")
    assert asked.ask(headers={"x-api-key": OTHER_KEY}).reason is Reason.INVALID_API_KEY


def test_a_digest_is_compared_in_constant_time(monkeypatch):
    compared = []

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("ext_authz.core.api_keys.hmac.compare_digest", compare)
    assert parsed(record()).find(KEY, NOW) is not None
    assert compared == [(record()["digest"],) * 2]
