"""The commands as a user types them: what they print, what they keep, how they exit."""

from __future__ import annotations

import json
import re
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jwt
import pytest
import yaml

from meshwarden.cli import reference_check
from tests.support.command_line import Command, command_line
from tests.support.processes import CHECKOUT
from tests.support.quickstart import meshwarden

COMMANDS = (
    *(["up"], ["check"], ["test"], ["explain"], ["limits", "explain"], ["token"], ["doctor"]),
    *(["keys", "create"], ["keys", "list"], ["keys", "revoke"]),
    *(["render", "envoy"], ["render", "envoy-secrets"], ["render", "reference"]),
)


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs `meshwarden` in this process, from the checkout, with a state folder of its own."""
    monkeypatch.chdir(CHECKOUT)
    monkeypatch.setenv("MESHWARDEN_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    return command_line(monkeypatch, capsys)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


# --- check


def test_check_takes_the_quickstart(command: Command):
    done = command("check", "examples/quickstart")
    found = "1 issuer, 3 roles, 1 binding, 1 policy (6 rules), 1 limit"
    assert (done.status, done.output) == (0, f"examples/quickstart: ok: {found}\n")
    assert command("check", "examples/quickstart", "--json").value == {"ok": True, "problems": []}


def test_check_tells_every_fault_of_every_file_with_its_line_and_a_hint(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Faults of both services' kinds, each once; the file as it can be opened from here."""
    folder = tmp_path / "faulty"
    folder.mkdir()
    (folder / "policy.yaml").write_text(
        "apiVersion: meshwarden.io/v1alpha1\n"
        "kind: AccessPolicy\n"
        "metadata: {name: p}\n"
        "spec:\n"
        "  hosts: ['*']\n"
        "  rules:\n"
        "    - {name: r, paths: [/x], rolse: [reader]}\n"
    )
    (folder / "limits.yaml").write_text(
        "apiVersion: meshwarden.io/v1alpha1\n"
        "kind: RateLimit\n"
        "metadata: {name: l}\n"
        "spec:\n"
        "  domain: d\n"
        "  descriptors:\n"
        "    - {key: k, rate_limit: {unit: fortnight, requests_per_unit: 1}}\n"
    )
    (folder / "broken.yaml").write_text("a: [1\nb: 2\n")
    (folder / "unknown.yaml").write_text(
        "apiVersion: meshwarden.io/v1alpha1\nkind: AcessPolicy\nmetadata: {name: x}\nspec: {}\n"
    )
    monkeypatch.chdir(tmp_path)
    done = command("check", "faulty")
    assert done.status == 1
    assert done.errors == ""
    *lines, count = done.output.splitlines()
    assert "faulty/policy.yaml:7: unknown field 'spec.rules.0.rolse' (did you mean 'roles'?)" in (
        lines
    )
    assert "faulty/unknown.yaml:2: unknown kind 'AcessPolicy' (did you mean 'AccessPolicy'?)" in (
        lines
    )
    assert any(re.match(r"faulty/limits\.yaml:7: .*fortnight", line) for line in lines)
    assert any(line.startswith("faulty/broken.yaml:") for line in lines)
    assert len(lines) == len(set(lines))
    assert count == f"{len(lines)} faults in faulty"
    listed = command("check", "faulty", "--json")
    assert listed.status == 1
    assert not listed.value["ok"]
    assert {
        "file": "faulty/policy.yaml",
        "line": 7,
        "problem": "unknown field 'spec.rules.0.rolse'",
        "hint": "did you mean 'roles'?",
    } in listed.value["problems"]


@pytest.mark.parametrize("words", [["check"], ["explain", "-", "--config"]])
def test_a_folder_that_is_none_is_told_so(command: Command, words: list[str], tmp_path: Path):
    for folder in (tmp_path / "nowhere", Path(__file__)):
        done = command(*words, folder, stdin=b"{}")
        assert done.status == 2
        assert str(folder) in done.errors
        assert "Traceback" not in done.errors


def test_check_takes_the_flags_of_the_references_check_and_prints_its_lines(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """As tried beside the real one."""
    (tmp_path / "b.yml").write_text("domain: a")
    (tmp_path / "a").write_text("domain: a\ndescriptors: []")
    told = f"checking rate limit configs...\nloading config directory: {tmp_path}\n"
    told += "".join(f"opening config file: {tmp_path / name}\n" for name in ("a", "b.yml"))
    done = command("check", "-config_dir", tmp_path)
    twice = (
        f"error loading rate limit configs: {tmp_path}/b.yml: duplicate domain 'a' in config file"
    )
    assert (done.status, done.output) == (1, f"{told}{twice}\n")
    done = command("check", f"-config_dir={tmp_path}", "-merge_domain_configs")
    assert (done.status, done.output) == (0, f"{told}all rate limit configs ok\n")
    for words in ("-merge_domain_configs", "--merge_domain_configs=T", "-merge_domain_configs=0"):
        monkeypatch.setattr("sys.argv", ["check", "-config_dir", str(tmp_path), words])
        with pytest.raises(SystemExit) as ended:
            reference_check.main()
        assert ended.value.code == int(words.endswith("=0"))
    capsys.readouterr()
    (tmp_path / "c").mkdir()
    done = command("check", "--config_dir", tmp_path)
    assert (done.status, done.errors) == (1, "")
    path = tmp_path / "c"
    assert done.output.endswith(f"error reading file {path}: read {path}: is a directory\n")
    done = command("check", "-config_dir", tmp_path / "no")
    assert done.status == 1
    told = f"error opening directory {tmp_path}/no: open {tmp_path}/no: no such file or directory\n"
    assert done.output.endswith(told)


# --- explain


def test_explain_says_who_is_allowed_and_by_which_rule(command: Command):
    token = command("token", "--subject", "rita", "--role", "reader").output.strip()
    request = {"path": "/orders/7", "headers": {"Authorization": f"Bearer {token}"}}
    done = command("explain", "-", stdin=json.dumps(request).encode())
    assert done.status == 0
    assert done.output.startswith("allowed\n")
    assert "principal jwt:rita, policy quickstart, rule orders-read" in done.output
    assert token not in done.output
    assert token.rpartition(".")[2] not in done.output
    value = command("explain", "-", "--json", stdin=json.dumps(request).encode()).value
    assert value["verdict"]["allowed"] is True
    assert value["verdict"]["rule"] == "orders-read"
    assert token.rpartition(".")[2] not in json.dumps(value)


def test_explain_says_who_is_denied_and_why(command: Command, tmp_path: Path):
    key = command("keys", "create", "guest", "--json").value["key"]
    file = tmp_path / "request.json"
    file.write_text(json.dumps({"path": "/admin/reports", "headers": {"x-api-key": key}}))
    done = command("explain", file)
    assert done.status == 1
    assert done.output.startswith("denied with 403: ")
    assert "principal key:guest" in done.output
    assert key not in done.output
    file.write_text(json.dumps({"path": "/whoami", "headers": {"x-api-key": "mwk_secretsecret"}}))
    denied = command("explain", file, "--json")
    assert (denied.status, denied.value["verdict"]["reason"]) == (1, "invalid_api_key")
    assert "mwk_secretsecret" not in denied.output


def test_explain_tells_why_a_request_can_not_be_read(command: Command):
    command("token", "--subject", "rita")
    done = command("explain", "-", stdin=b'{"paht": "/"}')
    assert (done.status, done.output) == (2, "")
    assert done.errors == "meshwarden: -: there is no field 'paht' (did you mean 'path'?)\n"
    assert command("explain", "/nowhere.json").status == 2


# --- token


def claims_of(token: str, state: Path) -> dict[str, Any]:
    """The claims, the signature verified with the JWKS that the services get."""
    keys = jwt.PyJWKSet.from_json((state / "jwks.json").read_text())
    key = keys[jwt.get_unverified_header(token)["kid"]]
    found: dict[str, Any] = jwt.decode(
        token, key, algorithms=["ES256"], options={"verify_aud": False, "verify_exp": False}
    )
    return found


def test_token_prints_a_signed_token_alone(command: Command, state: Path):
    words = ["--subject", "rita", "--role", "a", "--role", "b", "--expires-in", "60"]
    done = command("token", *words)
    assert (done.status, done.errors) == (0, f"made a new development issuer in {state}\n")
    assert command("token", *words).errors == ""
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", done.output)
    claims = claims_of(done.output.strip(), state)
    assert (claims["sub"], claims["roles"]) == ("rita", ["a", "b"])
    assert 0 < claims["exp"] - time.time() <= 60
    assert (state / "issuer.pem").stat().st_mode & 0o777 == 0o600
    assert (state / "pepper").stat().st_mode & 0o777 == 0o600
    assert state.stat().st_mode & 0o777 == 0o700


def test_claims_are_merged_last_and_null_removes_one(command: Command, state: Path):
    further = {"sub": "other", "roles": None, "scope": "x y", "aud": ["one", "two"]}
    done = command("token", "--subject", "rita", "--role", "a", "--claims", json.dumps(further))
    claims = claims_of(done.output.strip(), state)
    assert (claims["sub"], claims["scope"], claims["aud"]) == ("other", "x y", ["one", "two"])
    assert "roles" not in claims


def test_a_negative_time_makes_an_expired_token(command: Command, state: Path):
    token = command("token", "--subject", "rita", "--expires-in", "-5").output.strip()
    claims = claims_of(token, state)
    assert claims["iat"] <= claims["exp"] < time.time()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--claims", "{"], "--claims is not JSON"),
        (["--claims", "[]"], "--claims is not a JSON object"),
        (["--expires-in", "nan"], "no time that can be kept"),
        (["--expires-in", "1e300"], "no time that can be kept"),
        (["--expires-in", "soon"], "not a number of seconds"),
    ],
)
def test_a_token_that_can_not_be_made_is_told_why(command: Command, words: list[str], told: str):
    done = command("token", "--subject", "rita", *words)
    assert (done.status, done.output) == (2, "")
    assert told in done.errors


def test_a_state_folder_that_is_broken_is_told_so(command: Command, state: Path):
    command("token", "--subject", "rita")
    (state / "issuer.pem").write_text("no key")
    done = command("token", "--subject", "rita")
    assert (done.status, done.errors.count("\n")) == (2, 1)
    assert "issuer.pem is not a private key; remove it" in done.errors
    (state / "api_keys.json").write_text("{")
    assert command("keys", "list").status == 2


# --- keys


def test_a_key_is_shown_once_and_its_digest_never(command: Command, state: Path):
    made = command("keys", "create", "billing", "--role", "r", "--expires-in", "60", "--json")
    key, key_id = made.value["key"], made.value["id"]
    assert made.value["principal"] == "key:billing"
    assert (state / "api_keys.json").stat().st_mode & 0o777 == 0o600
    (record,) = json.loads((state / "api_keys.json").read_text())["keys"]
    for listing in (command("keys", "list"), command("keys", "list", "--json")):
        assert listing.status == 0
        assert key_id in listing.output
        assert "key:billing" in listing.output or '"billing"' in listing.output
        assert key not in listing.output
        assert record["digest"] not in listing.output
    assert key not in (state / "api_keys.json").read_text()
    alone = command("keys", "create", "plain")
    assert re.fullmatch(r"mwk_\S+\n", alone.output)
    assert "principal key:plain" in alone.errors


def test_a_revoked_key_is_shown_as_such_and_refused(command: Command):
    made = command("keys", "create", "billing", "--json").value
    request = json.dumps({"path": "/whoami", "headers": {"x-api-key": made["key"]}}).encode()
    assert command("explain", "-", stdin=request).status == 0
    assert command("keys", "revoke", made["id"]).output == f"revoked {made['id']} (key:billing)\n"
    assert command("explain", "-", stdin=request).status == 1
    (record,) = command("keys", "list", "--json").value
    assert record["revoked_at"] is not None
    assert "revoked" in command("keys", "list").output
    unknown = command("keys", "revoke", "nosuch")
    assert unknown.status == 2
    assert "there is no key with the id 'nosuch'" in unknown.errors
    wrong = command("keys", "create", "bad name!")
    assert (wrong.status, wrong.output) == (2, "")
    assert "the name can't be used (it starts with a letter or digit" in wrong.errors


def test_the_ids_of_keys_are_whole_on_a_narrow_terminal(
    command: Command, monkeypatch: pytest.MonkeyPatch
):
    """They are what `keys revoke` takes."""
    words = ["--role", "order-writer", "--role", "reader", "--expires-in", "60", "--json"]
    made = command("keys", "create", "a-service-with-a-long-name", *words).value
    monkeypatch.setenv("COLUMNS", "80")
    assert made["id"] in command("keys", "list").output


# --- render


def test_render_envoy_is_the_bootstrap_in_the_checkout(command: Command):
    done = command("render", "envoy")
    assert (done.status, done.output) == (0, (CHECKOUT / "envoy" / "bootstrap.yaml").read_text())


def test_an_option_of_envoy_is_set_by_name(command: Command):
    done = command("render", "envoy", "--set", "listen_port=12345", "--set", "upstream_port=8")
    yaml.safe_load(done.output)
    assert "12345" in done.output
    assert "listen_port=" in command("render", "envoy", "--options").output


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("listen_port", "NAME=VALUE is needed"),
        ("listen_prot=1", "there is no such option (did you mean 'listen_port'?)"),
        ("foo=1", "there is no such option (`--options` lists them)"),
        ("listen_port=x", "must be a valid integer (`--options` lists them)"),
        ("listen_port=70000", "must be less than or equal to 65535 (`--options` lists them)"),
    ],
)
def test_a_wrong_option_of_envoy_is_named(command: Command, text: str, told: str):
    done = command("render", "envoy", "--set", text)
    name = text if told.startswith(("NAME", "must")) else text.partition("=")[0]
    assert (done.status, done.output) == (2, "")
    assert done.errors == f"meshwarden: --set {name}: {told}\n"


def test_the_reference_pages_in_the_checkout_are_current(command: Command, tmp_path: Path):
    done = command("render", "reference", tmp_path / "reference")
    assert done.status == 0
    made, kept = tmp_path / "reference", CHECKOUT / "docs" / "reference"
    files = {path.relative_to(made) for path in made.rglob("*") if path.is_file()}
    assert {Path("ext_authz_settings.md"), Path("schemas/RateLimit.json")} <= files
    for name in files:
        assert (kept / name).read_text() == (made / name).read_text(), (
            f"docs/reference/{name} is out of date: run `meshwarden render reference`"
        )


def test_reference_pages_that_can_not_be_written_are_told_so(command: Command, tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("kept")
    for folder in (file, file / "below", Path("/proc/nowhere")):
        done = command("render", "reference", folder)
        assert (done.status, done.output, done.errors.count("\n")) == (2, "", 1)
        assert done.errors.startswith(f"meshwarden: {folder}/")
        assert "can't be written" in done.errors
    assert file.read_text() == "kept"


# --- help


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_help_of_each_command_has_an_example(command: Command, words: list[str]):
    done = command(*words, "--help")
    assert done.status == 0
    assert command(*words, "-h").output == done.output
    assert "Example: " in done.output
    assert " ".join(["meshwarden", *words]) in " ".join(done.output.split())


def test_the_version_is_the_packages(command: Command):
    done = command("--version")
    assert (done.status, done.output) == (0, f"meshwarden {version('meshwarden')}\n")


def test_without_a_command_the_commands_are_listed(command: Command):
    done = command()
    for words in COMMANDS:
        assert words[0] in done.output + done.errors
    assert command("nosuch").status == 2


def test_the_shell_completes_commands():
    """Run as a program, as the shell does."""
    script = meshwarden("--show-completion", "bash")
    assert script.returncode == 0, script.stderr
    assert "COMPLETE" in script.stdout
