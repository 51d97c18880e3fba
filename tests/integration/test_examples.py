"""The examples: taken, true by their own tests, and the same through a real Envoy."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ext_authz.core.api_keys import KeyRecord, digest
from ext_authz.core.jwk import private_jwk, public_jwk
from ext_authz.core.policies import PolicySet
from meshwarden.adapters.folder_source import FolderSource
from meshwarden.cli import configuration_folder, policy_tests
from meshwarden.cli.callers import asked
from meshwarden.cli.policy_tests import Expected, ExpectedAnswer, SpiffeCaller, WrittenTest
from meshwarden.core.documents import Document, parse
from tests.support.authz_service import PEPPER
from tests.support.certificates import Authority
from tests.support.check_requests import access_policy
from tests.support.command_line import Command, command_line
from tests.support.guarded_mesh import GuardedMesh, guarded_mesh
from tests.support.mutual_tls import mutual_tls_client, with_mutual_tls
from tests.support.processes import CHECKOUT

AUTHORITY = Authority("mesh")
EXAMPLES = CHECKOUT / "examples"
SETS = sorted(path for path in EXAMPLES.iterdir() if path.is_dir())
THROUGH_ENVOY = {
    "public_website": (
        "the session opens the account, and the shop sees who it is, not the session",
        "a browser without a session is sent to log in, and back",
    ),
    "partner_api": (
        "a partner with the scope reads, and the upstream does not see the key",
        "reading is not writing",
    ),
    "microservices": (
        "web writes, by its role, and orders can verify who it was",
        "and does not write",
    ),
    "saas": (
        "Acme's member reads, and the upstream learns whose request it is",
        "Globex' tokens are nobody's here",
    ),
    "grpc_service": ("a reader gets an order", "a reader creates none"),
}
"""Of each set one test that allows and one that denies; the quickstart has tests of its own."""


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    monkeypatch.chdir(CHECKOUT)
    monkeypatch.setenv("MESHWARDEN_STATE", str(tmp_path / "state"))
    return command_line(monkeypatch, capsys)


@pytest.mark.parametrize("folder", SETS, ids=lambda path: path.name)
def test_an_example_has_no_faults_and_passes_its_tests(command: Command, folder: Path):
    checked = command("check", folder)
    assert (checked.status, checked.errors) == (0, ""), checked.output
    tested = command("test", folder)
    assert (tested.status, tested.errors) == (0, ""), tested.output


@pytest.mark.parametrize("folder", SETS, ids=lambda path: path.name)
def test_each_rule_of_an_example_is_expected_by_one_of_its_tests(folder: Path):
    """So that none can be lost unnoticed."""
    expected = {test.test.expect.rule for test in policy_tests.read(folder)}
    rules = {
        rule["name"]
        for document in documents(folder)
        if document.kind == "AccessPolicy"
        for rule in document.value["spec"]["rules"]
    }
    assert rules - expected == set()


def documents(folder: Path) -> Iterator[Document]:
    for file, content in FolderSource(folder).read().files.items():
        yield from parse(file, content)


# --- through Envoy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="module")
def mesh(folder: Path) -> Iterator[GuardedMesh]:
    """One mesh, which each set configures anew; it takes clients with a certificate and without."""
    key = private_jwk(ec.generate_private_key(ec.SECP256R1()), 0)
    (folder / "signing.json").write_text(json.dumps({"keys": [key]}))
    options = ("--identity-tokens.keys-file", str(folder / "signing.json"))
    options += ("--identity-tokens.issuer", "http://ext-authz.test")
    changed = with_mutual_tls(folder, AUTHORITY, is_required=False)
    with guarded_mesh(
        folder, access_policy(identify=[]), options=options, changed=changed
    ) as running:
        yield running


class Chosen:
    """A test of a set, and the very request that `meshwarden test` decides on."""

    def __init__(self, test: WrittenTest, policies: PolicySet) -> None:
        self.test, self.expect = test, test.test.expect
        self.asked = asked(test, policies, time.time())

    def send(self, mesh: GuardedMesh, folder: Path) -> httpx2.Response:
        sent, caller = self.asked.request, self.test.caller
        shown = AUTHORITY.issue(uris=(caller.id,)) if isinstance(caller, SpiffeCaller) else None
        headers = {**sent.headers, "host": sent.host}
        with mutual_tls_client(mesh, folder, shown) as client:
            return client.request(sent.method, sent.target, headers=headers)

    @property
    def jwks(self) -> Iterator[dict[str, str]]:
        """The public key that verifies its caller's token."""
        for key_set in self.asked.keys.issuer_keys.values():
            for key in key_set.keys.values():
                yield {**public_jwk(key.public_key), "kid": key.kid}

    @property
    def records(self) -> Iterator[dict[str, Any]]:
        """The record of its caller's API key, for the service's own pepper."""
        for value in self.asked.request.headers.values():
            record = self.asked.keys.api_keys.find(value, self.asked.now)
            if isinstance(record, KeyRecord):
                told = {"id": str(self.test.index), "digest": digest(value, PEPPER)}
                yield {**record.model_dump(), **told}


def resources(folder: Path, keys: list[dict[str, str]]) -> Iterator[Any]:
    """What is in the set, its issuers with these keys."""
    for document in documents(folder):
        value = document.value
        if document.kind == "TokenIssuer":
            value = {**value, "spec": {**value["spec"], "jwks": {"inline": {"keys": keys}}}}
        yield value


@pytest.mark.parametrize("name", THROUGH_ENVOY)
def test_a_real_envoy_answers_as_the_tests_of_an_example_say(
    mesh: GuardedMesh, folder: Path, name: str
):
    policies = configuration_folder.policies_alone(EXAMPLES / name)
    tests = {test.name: Chosen(test, policies) for test in policy_tests.read(EXAMPLES / name)}
    allowed, denied = (tests[title] for title in THROUGH_ENVOY[name])
    mesh.authorizer.keys(*allowed.records, *denied.records)
    keys = {jwk["kid"]: jwk for jwk in (*allowed.jwks, *denied.jwks)}
    mesh.authorizer.configure(*resources(EXAMPLES / name, list(keys.values())))
    mesh.authorizer.process.wait_until(
        lambda: is_passed_on(allowed.send(mesh, folder)), f"{name} is in force"
    )
    assert_passed_on(allowed.send(mesh, folder), allowed.expect)
    assert_denied(denied.send(mesh, folder), denied.expect, is_grpc=name == "grpc_service")


def is_passed_on(answer: httpx2.Response) -> bool:
    """A denied gRPC request is answered with 200, too."""
    return answer.status_code == 200 and "grpc-status" not in answer.headers


def assert_passed_on(answer: httpx2.Response, expected: Expected) -> None:
    """The upstream, which answers with what it got, got what is expected."""
    assert is_passed_on(answer), answer.text
    lines = (line.partition(": ") for line in answer.text.splitlines())
    seen = {name.lower(): value for name, _, value in lines}
    assert {name: seen.get(name) for name in expected.headers} == expected.headers
    for name, value in expected.response_headers.items():
        assert answer.headers.get(name) == value
    if expected.identity_token:
        token = jwt.decode(seen["x-identity-token"], options={"verify_signature": False})
        assert expected.identity_token.items() <= token.items()


def assert_denied(answer: httpx2.Response, expected: Expected, *, is_grpc: bool) -> None:
    shown = expected.shown or ExpectedAnswer()
    if is_grpc:
        assert (answer.status_code, answer.headers["grpc-status"]) == (200, "7")
        assert answer.headers["grpc-message"] == shown.body_contains
        return
    assert answer.status_code == (shown.status or expected.status)
    for name, value in shown.headers.items():
        assert answer.headers.get(name) == value
    if expected.shown is None:
        told = expected.reason or "no_rule_allows"
        assert answer.json()["reason"] == told
