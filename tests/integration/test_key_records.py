"""One contract for every store of key records and revocations: files, and a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ext_authz.app import key_records
from ext_authz.core.api_keys import KeyRecord
from ext_authz.core.revocations import Revocation
from meshwarden.cli.key_file import FileRecords
from meshwarden.cli.keys import Records, create_key
from meshwarden.cli.state_folder import StateFolder
from meshwarden.core.faults import InvalidInput, Unavailable
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, running_redis

PEPPER = b"0123456789abcdef0123456789abcdef"
LATER = 4_000_000_000.0


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture(params=["file", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path, redis: RedisServer) -> Iterator[Records]:
    if request.param == "file":
        yield FileRecords(StateFolder(tmp_path / "state"))
        return
    redis.kill()
    redis.start()
    records = key_records(redis.url)
    yield records
    records.close()


def key(number: int, **changes: object) -> KeyRecord:
    values = {"id": f"k{number}", "name": f"n{number}", "digest": f"{number:064x}", **changes}
    return KeyRecord.model_validate(values)


def revocation(number: int, **changes: object) -> Revocation:
    values = {"id": f"r{number}", "issuer": "i", "jti": f"j{number}", "expires_at": LATER}
    return Revocation.model_validate({**values, "made_at": number, **changes})


def test_what_was_stored_is_read_as_it_was(store: Records):
    full = key(1, roles=("a", "b"), scopes=("s:r",), groups=("g",), created_at=5, expires_at=LATER)
    store.add([full, key(2)])
    assert sorted(store.records(), key=lambda record: record.id) == [full, key(2)]


def test_a_record_replaces_the_one_of_the_same_id(store: Records):
    """With its old digest no key is found any more."""
    store.add([key(1)])
    changed = key(1, digest="f" * 64)
    store.add([changed])
    assert list(store.records()) == [changed]


def test_a_revoked_key_stays_in_the_list_with_the_time_of_its_first_revocation(store: Records):
    store.add([key(1), key(2)])
    assert store.revoke("k1", 7.0).revoked_at == 7.0
    assert store.revoke("k1", 9.0).revoked_at == 7.0
    assert {r.id: r.revoked_at for r in store.records()} == {"k1": 7.0, "k2": None}
    with pytest.raises(InvalidInput, match="there is no key with the id 'k3'"):
        store.revoke("k3", 7.0)


def test_keys_made_at_the_same_time_are_all_kept(store: Records):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: create_key(store, PEPPER, f"k{n}"), range(24)))
    assert sorted(r.name for r in store.records()) == sorted(f"k{n}" for n in range(24))


@pytest.mark.parametrize("name", ["", "a b", "-a", "a" * 129, "ä"])
def test_a_name_that_is_none_is_told_what_it_may_be_and_not_stored(store: Records, name: str):
    told = "^the name can't be used .it starts with a letter or digit, then at most 127"
    with pytest.raises(InvalidInput, match=told):
        create_key(store, PEPPER, name)
    assert list(store.records()) == []


def test_every_wrong_word_of_a_new_key_is_told_once(store: Records):
    with pytest.raises(InvalidInput) as raised:
        create_key(store, PEPPER, "a", roles=("x y", "p,q"), scopes=("",))
    words = "it is text without spaces, commas and what can't be printed, at most 256 characters"
    assert [str(problem) for problem in raised.value.problems] == [
        f"the role can't be used ({words})",
        f"the scope can't be used ({words})",
    ]


def test_revocations_are_listed_oldest_first_and_dropped_when_they_cover_nothing(store: Records):
    store.add_revocation(revocation(1, expires_at=100), now=50)
    store.add_revocation(revocation(3), now=50)
    store.add_revocation(revocation(2, jti=None, subject="rita", issued_before=9), now=50)
    assert [record.id for record in store.revocations()] == ["r1", "r2", "r3"]
    store.add_revocation(revocation(4), now=100)
    assert [record.id for record in store.revocations()] == ["r2", "r3", "r4"]


def test_a_redis_that_is_not_there_is_told(tmp_path: Path):
    records = key_records(f"redis://127.0.0.1:{free_port()}")
    with pytest.raises(Unavailable, match="redis: "):
        list(records.records())
    with pytest.raises(Unavailable, match="redis: "):
        records.add([key(1)])
