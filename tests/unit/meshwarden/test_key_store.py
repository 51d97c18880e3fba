"""The file of API keys: what it takes, and that nothing is lost in it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from meshwarden.cli.keys import KeyStore
from meshwarden.cli.state_folder import StateFolder
from meshwarden.core.faults import InvalidInput


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(StateFolder(tmp_path / "state"))


def test_keys_made_at_the_same_time_are_all_kept(store: KeyStore):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.create(f"k{n}"), range(24)))
    assert sorted(r.name for r in store.records()) == sorted(f"k{n}" for n in range(24))


@pytest.mark.parametrize("name", ["", "a b", "-a", "a" * 129, "ä"])
def test_a_name_that_is_none_is_told_what_it_may_be(store: KeyStore, name: str):
    told = "^the name can't be used .it starts with a letter or digit, then at most 127"
    with pytest.raises(InvalidInput, match=told):
        store.create(name)
    assert store.records() == ()


def test_every_wrong_word_of_a_new_key_is_told_once(store: KeyStore):
    with pytest.raises(InvalidInput) as raised:
        store.create("a", roles=("x y", "p,q"), scopes=("",))
    words = "it is text without spaces, commas and what can't be printed, at most 256 characters"
    assert [str(problem) for problem in raised.value.problems] == [
        f"the role can't be used ({words})",
        f"the scope can't be used ({words})",
    ]
    assert store.records() == ()
