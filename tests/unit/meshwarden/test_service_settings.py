"""Settings: where they come from, what is wrong with them all at once, and their reference page."""

from __future__ import annotations

import os

import pytest
from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

import ext_authz.settings
import ratelimit_service.settings
from meshwarden.adapters.settings import (
    GrpcSettings,
    HttpSettings,
    Section,
    ServiceSettings,
    leaves,
    load,
    reference_page,
    variable,
)
from meshwarden.core.faults import Misconfigured


class Vault(Section):
    pin: SecretStr = Field(SecretStr(""), min_length=4, description="Opens it.")


class Settings(ServiceSettings):
    """A service of these tests."""

    model_config = SettingsConfigDict(env_prefix="TESTED_")

    grpc: GrpcSettings = GrpcSettings(port=7001)
    http: HttpSettings = HttpSettings(port=7002)
    vault: Vault = Vault()


SERVICES = [
    (Settings, "tested"),
    (ext_authz.settings.Settings, "ext_authz"),
    (ratelimit_service.settings.Settings, "ratelimit_service"),
]


@pytest.fixture(autouse=True)
def no_settings_around_us(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("TESTED_", "EXT_AUTHZ_", "RATELIMIT_")):
            monkeypatch.delenv(name)


def told(*arguments: str) -> list[str]:
    with pytest.raises(Misconfigured) as caught:
        load(Settings, arguments, "tested")
    return [str(problem) for problem in caught.value.problems]


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_default(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("TESTED_GRPC__PORT", "1")
    monkeypatch.setenv("TESTED_HTTP__PORT", "2")
    settings = load(Settings, ["--grpc.port", "3", "--stop-seconds", "4"], "tested")
    assert (settings.grpc.port, settings.http.port, settings.stop_seconds) == (3, 2, 4)
    assert settings.grpc.host == "0.0.0.0"
    assert load(Settings, [], "tested").grpc.port == 1


def test_every_fault_is_told_at_once_with_its_flag_and_its_variable(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("TESTED_GRPC__PROT", "1")
    monkeypatch.setenv("TESTED_GRCP__PORT", "1")
    monkeypatch.setenv("TESTED_LOG", "debug")
    monkeypatch.setenv("TESTED_DRAIN_SECONDS", "soon")
    assert told("--workers", "0", "--http.port", "65536") == [
        "drain_seconds: Input should be a valid number, unable to parse string as a number "
        "(--drain-seconds or TESTED_DRAIN_SECONDS)",
        "grpc.prot: there is no such setting (did you mean 'grpc.port'?)",
        "http.port: Input should be less than or equal to 65535 (--http.port or TESTED_HTTP__PORT)",
        "log: is a group of settings (set its fields, such as TESTED_LOG__LEVEL)",
        "the environment variable TESTED_GRCP__PORT is no setting (see --help)",
        "workers: Input should be greater than or equal to 1 (--workers or TESTED_WORKERS)",
    ]


def test_an_unknown_flag_is_refused_as_command_lines_do(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        load(Settings, ["--grpc.prot", "1"], "tested")
    assert caught.value.code == 2
    assert "--grpc.prot" in capsys.readouterr().err


def test_what_kubernetes_puts_into_the_environment_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    """A Kubernetes Service named like us adds variables to every pod beside it."""
    for name, value in {
        "TESTED_PORT": "tcp://10.0.0.1:9001",
        "TESTED_SERVICE_HOST": "10.0.0.1",
        "TESTED_SERVICE_PORT_GRPC": "9001",
        "TESTED_PORT_9001_TCP_ADDR": "10.0.0.1",
        "TESTED_GRPC_PORT": "tcp://10.0.0.1:9001",
    }.items():
        monkeypatch.setenv(name, value)
    assert load(Settings, [], "tested") == Settings()


def test_an_empty_variable_is_no_setting(monkeypatch: pytest.MonkeyPatch):
    """An empty folder would be the working directory, whatever is in it."""
    monkeypatch.setenv("TESTED_CONFIGURATION__FOLDER", "")
    monkeypatch.setenv("TESTED_WORKERS", "")
    assert load(Settings, [], "tested").configuration.folder is None


def test_a_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TESTED_VAULT__PIN", "123")
    assert "123" not in "".join(told())
    monkeypatch.setenv("TESTED_VAULT__PIN", "12345")
    settings = load(Settings, [], "tested")
    assert settings.vault.pin.get_secret_value() == "12345"
    assert "12345" not in f"{settings!r} {settings.model_dump_json()}"


def test_help_names_every_setting_and_what_it_does(capsys: pytest.CaptureFixture[str]):
    for model, program in SERVICES:
        with pytest.raises(SystemExit) as caught:
            load(model, ["--help"], program)
        assert caught.value.code == 0
        shown = capsys.readouterr().out
        for name, info in leaves(model):
            assert f"--{name.replace('_', '-')}" in shown
            assert (info.description or "no description").split(",")[0].split()[0] in shown


@pytest.mark.parametrize(("model", "program"), SERVICES)
def test_the_reference_page_has_one_row_for_each_setting(
    model: type[ServiceSettings], program: str
):
    page = reference_page(model, program)
    for name, info in leaves(model):
        (row,) = [line for line in page.splitlines() if f"`{variable(model, name)}`" in line]
        assert f"`--{name.replace('_', '-')}`" in row
        assert info.description, f"{name} says what it does"
        assert info.description in row
    rows = [line for line in page.splitlines() if line.startswith("| `--")]
    assert len(rows) == len(list(leaves(model)))


def test_the_reference_page_shows_defaults_bounds_and_choices_and_no_secret():
    page = reference_page(Settings, "tested")
    assert "| `--grpc.port` | `TESTED_GRPC__PORT` | `7001` | ≥ 0 ≤ 65535 |" in page
    assert "| `--log.format` | `TESTED_LOG__FORMAT` | `json` | json, console |" in page
    assert "| `--vault.pin` | `TESTED_VAULT__PIN` | (secret) |" in page


@pytest.mark.parametrize(("model", "program"), SERVICES)
def test_every_variable_of_the_reference_page_is_obeyed(
    model: type[ServiceSettings], program: str, monkeypatch: pytest.MonkeyPatch
):
    """Each one, set to what it can't be, is named by the refusal: so each is read."""
    for name, info in leaves(model):
        if info.annotation in (int, float, bool):
            monkeypatch.setenv(variable(model, name), "no number")
    with pytest.raises(Misconfigured) as caught:
        load(model, [], program)
    expected = {n for n, info in leaves(model) if info.annotation in (int, float, bool)}
    assert {problem.what.partition(":")[0] for problem in caught.value.problems} == expected
