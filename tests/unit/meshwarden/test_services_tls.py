"""Options that make the rendered Envoy speak TLS to our services, and the files it follows."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from meshwarden.cli import main

FILES = ("ca_file=/tls/ca", "certificate_file=/tls/crt", "key_file=/tls/key", "san=a")
Render = Callable[..., tuple[int, str, str]]


@pytest.fixture
def render(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Render:
    """Runs `meshwarden render` with `services_tls_*` set: status, output, errors."""

    def run(command: str, *words: str, given: tuple[str, ...] = FILES) -> tuple[int, str, str]:
        options = [part for text in given for part in ("--set", f"services_tls_{text}")]
        monkeypatch.setattr(sys, "argv", ["meshwarden", "render", command, *words, *options])
        status: object = 0
        try:
            main()
        except SystemExit as ended:
            status = ended.code
        assert isinstance(status, int | None)
        return (status or 0, *capsys.readouterr())

    return run


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("san=a",), "services_tls_ca_file and services_tls_san go together: set both or none"),
        (("ca_file=a",), "services_tls_ca_file and services_tls_san go together"),
        (("ca_file=a", "san=a", "key_file=a"), "and services_tls_key_file go together"),
        (("certificate_file=a", "key_file=a"), "need services_tls_ca_file"),
        (("secrets_folder=a",), "need services_tls_ca_file"),
    ],
)
def test_options_that_do_not_go_together_are_told(render: Render, given: tuple[str], told: str):
    status, output, errors = render("envoy", given=given)
    assert (status, output) == (2, "")
    assert told in errors


def test_the_secrets_are_written_as_the_bootstrap_names_them(render: Render, tmp_path: Path):
    status, output, _ = render("envoy-secrets", str(tmp_path))
    assert status == 0
    assert {Path(line).name for line in output.split()} == {
        "services_ca.yaml",
        "services_certificate.yaml",
    }
    _, rendered, _ = render("envoy", given=(*FILES, f"secrets_folder={tmp_path}"))
    assert "/tls/" not in rendered
    for path in output.split():
        assert f"path: {path}\n" in rendered
        [secret] = yaml.safe_load(Path(path).read_text())["resources"]
        assert f"name: {secret['name']}\n" in rendered


def test_without_tls_there_are_no_secrets_to_write(render: Render, tmp_path: Path):
    status, output, errors = render("envoy-secrets", str(tmp_path), given=())
    assert (status, output) == (2, "")
    assert "without services_tls_ca_file there are no secrets" in errors
