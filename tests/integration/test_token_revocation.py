"""`meshwarden token revoke` and `keys signing`: what they write, and what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.quickstart import meshwarden


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def stored(state: Path) -> list[dict[str, object]]:
    records: list[dict[str, object]] = json.loads((state / "revocations.json").read_text())[
        "revocations"
    ]
    return [{name: v for name, v in record.items() if v is not None} for record in records]


def test_a_token_tells_by_itself_what_is_to_be_revoked_and_until_when(state: Path):
    """And is never repeated."""
    words = ("token", "--subject", "rita", "--claims", '{"jti": "lost"}', "--expires-in", "60")
    token = meshwarden(*words, state=state).stdout.strip()
    done = meshwarden("token", "revoke", "--stdin", state=state, stdin=token)
    assert done.returncode == 0, done.stderr
    assert "revoked the token lost of https://development.meshwarden.invalid" in done.stdout
    assert token not in done.stdout
    (record,) = stored(state)
    assert record["jti"] == "lost"
    assert 60 < float(str(record["expires_at"])) - float(str(record["made_at"])) <= 361


def test_the_tokens_of_a_subject_are_those_of_now_and_before(state: Path):
    done = meshwarden("token", "revoke", "--subject", "rita", "--json", state=state)
    told = json.loads(done.stdout)
    assert told["subject"] == "rita"
    assert 0 < told["issued_before"] - told["made_at"] <= 1
    assert stored(state) == [told]
    words = ("--issued-before", "5", "--issuer", "https://i", "--keep", "9")
    done = meshwarden("token", "revoke", *words, state=state)
    assert "revoked the tokens of https://i issued before 5; kept for 9 s" in done.stdout


@pytest.mark.parametrize(
    ("words", "stdin", "told"),
    [
        ((), "", "say which tokens: one of --stdin, --jti, --subject, --issued-before"),
        (("--jti", "a", "--issued-before", "5"), "", "say which tokens: one of"),
        (("--stdin",), "nonsense", "standard input holds no token: a token has three parts"),
    ],
)
def test_what_names_no_tokens_is_told(state: Path, words, stdin: str, told: str):
    done = meshwarden("token", "revoke", *words, state=state, stdin=stdin)
    assert done.returncode == 2
    assert told in done.stderr
    assert "nonsense" not in done.stderr


def test_a_token_without_an_id_is_to_be_revoked_by_its_subject(state: Path):
    words = ("token", "--subject", "rita", "--claims", '{"jti": null}')
    token = meshwarden(*words, state=state).stdout.strip()
    done = meshwarden("token", "revoke", "--stdin", state=state, stdin=token)
    assert (done.returncode, "revoke by --subject" in done.stderr) == (2, True)


def test_a_token_needs_a_subject(state: Path):
    done = meshwarden("token", state=state)
    assert (done.returncode, "--subject is missing" in done.stderr) == (2, True)


def test_signing_keys_are_added_and_dropped_when_no_token_of_theirs_is_left(tmp_path: Path):
    file = tmp_path / "signing.json"
    first = json.loads(meshwarden("keys", "signing", str(file), "--json").stdout)
    assert file.stat().st_mode & 0o777 == 0o600
    second = json.loads(meshwarden("keys", "signing", str(file), "--json").stdout)
    assert (first["signs_from"], second["dropped"]) == (0, [])
    keys = json.loads(file.read_text())
    keys["keys"][1]["signs_from"] = 5
    file.write_text(json.dumps(keys))
    third = json.loads(meshwarden("keys", "signing", str(file), "--json").stdout)
    assert third["dropped"] == [first["added"]]
    kids = [key["kid"] for key in json.loads(file.read_text())["keys"]]
    assert kids == [second["added"], third["added"]]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{}", "is no JWKS of private keys"),
        ('{"keys": [{"kty": "EC", "kid": "a"}]}', "keys[0]: is no private key"),
        ('{"keys": [{"kty": "oct", "k": "c2VjcmV0", "d": "x", "kid": "a"}]}', "is no key that we"),
        ('{"keys": [{"d": "x"}]}', "keys[0]: has no kid"),
    ],
)
def test_a_file_that_holds_no_signing_keys_is_left_as_it_is(tmp_path: Path, content, told):
    file = tmp_path / "signing.json"
    file.write_text(content)
    done = meshwarden("keys", "signing", str(file))
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr
    assert "c2VjcmV0" not in done.stderr
    assert file.read_text() == content
