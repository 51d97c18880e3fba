"""`meshwarden test`: files and folders that can't be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command_line import Command, command_line
from tests.support.policy_folder import write_policies


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command_line(monkeypatch, capsys)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_policies(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tests: [", ":2: not YAML"),
        ("# nothing\n", ": holds no document"),
        ("tests: []", ":1: tests: List should have at least 1 item"),
        ("test: []", ":1: unknown field 'test' (did you mean 'tests'?)"),
        ("tests:\n- {name: a, expect: {}}", ":2: tests.0.expect: nothing is expected"),
        ("tests:\n- {name: a}", ":2: 'tests.0.expect' is missing"),
        ("tests:\n- name: a\n  expect: {alowed: true}", ":3: unknown field 'tests.0.expect.alowed'"
         " (did you mean 'allowed'?)"),
        ("tests:\n- name: a\n  request: {paht: /}\n  expect: {rule: a}",
         ":3: unknown field 'tests.0.request.paht' (did you mean 'path'?)"),
        ("tests:\n- name: a\n  as: {kind: jtw}\n  expect: {rule: a}", ":3: tests.0.as: Input tag"),
        ("tests:\n- name: a\n  as: {kind: key, name: a, rolse: []}\n  expect: {rule: a}",
         ":3: unknown field 'tests.0.as.key.rolse' (did you mean 'roles'?)"),
        ("tests:\n- name: a\n  expect:\n    status: '403'", ":4: tests.0.expect.status"),
        ("tests:\n- name: a\n  expect:\n    reason: no_reason", ":4: tests.0.expect.reason"),
        ("now: 2026-03-02T12:00:00\ntests:\n- {name: a, expect: {rule: a}}", ":1: now: "),
        ("tests:\n- name: a\n  as: {kind: jwt, issuer: mian, subject: r}\n  expect: {rule: a}",
         ":3: there is no TokenIssuer 'mian' (did you mean 'main'?)"),
        ("as: {kind: jwt, issuer: mian, subject: r}\ntests:\n- {name: a, expect: {rule: a}}",
         ":1: there is no TokenIssuer 'mian' (did you mean 'main'?)"),
        ("tests:\n- name: a\n  as: {kind: jwt, issuer: opaque, subject: r}\n  expect: {rule: a}",
         ":3: TokenIssuer 'opaque' has no jwks, so its tokens are not jwt (kind: opaque)"),
        ("tests:\n- name: a\n  as: {kind: opaque, issuer: main, subject: r}\n  expect: {rule: a}",
         ":3: TokenIssuer 'main' has no introspection"),
    ],
)  # fmt: skip
def test_a_file_that_can_not_be_used_is_told_with_its_line(
    command: Command, folder: Path, text: str, told: str
):
    (folder / "a.test.yaml").write_text(text)
    done = command("test", folder)
    assert (done.status, done.output) == (2, "")
    assert f"a.test.yaml{told}" in done.errors


def test_every_fault_of_every_file_is_told(command: Command, folder: Path):
    (folder / "a.test.yaml").write_text("tests: []\n---\ntest: 1\n")
    (folder / "b.test.yaml").write_text("tests: {}\n")
    errors = command("test", folder).errors
    assert {"a.test.yaml:1", "a.test.yaml:3", "b.test.yaml:1"} <= {
        ":".join(Path(line.split(": ")[1]).name.split(":")[:2]) for line in errors.splitlines()
    }


def test_a_folder_without_tests_or_with_faults_is_not_tested(
    command: Command, folder: Path, tmp_path: Path
):
    done = command("test", folder)
    assert (done.status, "holds no *.test.yaml file" in done.errors) == (2, True)
    (folder / "config.yaml").write_text("kind: AccessPolicy\n")
    (folder / "a.test.yaml").write_text("tests:\n- {name: a, expect: {allowed: true}}\n")
    done = command("test", folder)
    assert (done.status, done.output) == (2, "")
    assert "apiVersion must be" in done.errors
    assert command("test", tmp_path / "nowhere").status == 2


def test_services_pass_over_test_files(command: Command, folder: Path):
    (folder / "a.test.yaml").write_text("tests: []")
    assert command("check", folder).status == 0


def test_a_file_that_can_not_be_read_is_told(command: Command, folder: Path):
    (folder / "a.test.yaml").symlink_to(folder / "gone")
    done = command("test", folder)
    assert (done.status, "a.test.yaml: can't be read" in done.errors) == (2, True)
