"""`meshwarden check --istio` and `render resilience`, as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from meshwarden.adapters.envoy.typed_patches import typed_faults
from tests.support.command_line import Command, command_line

LUA = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"
OPEN = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec:
  mtls:
    mode: PERMISSIVE
"""


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command_line(monkeypatch, capsys)


def test_a_finding_is_told_with_its_place_and_an_error_ends_with_one(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh/peers.yaml").write_text(OPEN)
    done = command("check", "--istio", "mesh")
    assert done.status == 1
    assert done.output == (
        "mesh/peers.yaml:7: error MW-ISTIO-031: the mode is PERMISSIVE (set the mode to STRICT)\n"
        "faults: 1 object, 1 error, 0 warnings (docs/reference/istio_mistakes.md explains them)\n"
    )
    (told,) = command("check", "--istio", "mesh", "--json").value["findings"]
    assert (told["line"], told["rule"], told["severity"]) == (7, "MW-ISTIO-031", "error")


def test_standard_input_and_folders_are_checked_together(command: Command, tmp_path: Path):
    """The mesh configuration of a folder is that of the policies on standard input."""
    (tmp_path / "values.yaml").write_text("meshConfig: {extensionProviders: []}")
    policy = (
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\n"
        "spec: {action: CUSTOM, provider: {name: x}, rules: [{}]}\n"
    )
    alone = command("check", "--istio", "-", "--json", stdin=policy.encode())
    assert [one["rule"] for one in alone.value["findings"]] == ["MW-ISTIO-003"]
    assert alone.status == 0, "a warning alone is no fault"
    both = command("check", "--istio", "-", "--istio", tmp_path, "--json", stdin=policy.encode())
    assert [one["rule"] for one in both.value["findings"]] == ["MW-ISTIO-002"]


def test_what_is_no_yaml_is_told_beside_the_findings(command: Command, tmp_path: Path):
    (tmp_path / "peers.yaml").write_text(OPEN)
    (tmp_path / "broken.yaml").write_text("a: [1")
    done = command("check", "--istio", tmp_path)
    assert (done.status, "broken.yaml" in done.output, "031" in done.output) == (1, True, True)


def test_what_is_no_folder_is_said(command: Command):
    done = command("check", "--istio", "/nowhere")
    assert (done.status, "/nowhere is not a folder" in done.errors) == (2, True)


def test_resilience_is_rendered_for_a_host(command: Command, tmp_path: Path):
    words = ("render", "resilience", "--set", "name=pay", "--set", "timeout_seconds=9")
    kinds = [one["kind"] for one in yaml.safe_load_all(command(*words).output)]
    assert kinds == ["DestinationRule", "VirtualService"]
    external = command(*words, "--external").output
    assert [one["kind"] for one in yaml.safe_load_all(external)] == ["ServiceEntry", *kinds]
    assert "timeout: 9s" in external
    assert "timeout_seconds=2" in command("render", "resilience", "--options").output
    assert command("render", "resilience", "--examples", tmp_path).status == 0
    assert (tmp_path / "faults/service.yaml").exists()


@pytest.mark.parametrize(
    ("applies_to", "value", "expected"),
    [
        ("HTTP_FILTER", {"name": "x", "typedConfig": {"@type": LUA, "inlineCode": ""}}, []),
        ("HTTP_FILTER", {"typed_config": {"@type": LUA, "nope": 1, "nor": 2}}, ["field"] * 2),
        ("HTTP_FILTER", {"typed_config": {"@type": f"{LUA}s"}}, ["type"]),
        ("HTTP_FILTER", {"typed_config": {"@type": "x/istio.http.Nobody", "nope": 1}}, []),
        ("HTTP_FILTER", {"typed_config": {"@type": LUA}, "name": ["x"]}, ["field"]),
        ("FILTER_CHAIN", {"filters": [{"typed_config": {"@type": "x/istio.Nobody"}}]}, []),
        ("LISTENER", {"filter_chains": [{"nope": 1}, {"name": "x", "nope": 2}]}, ["field"] * 2),
        ("HTTP_FILTER", {"typed_config": {"@type": "x/envoy.config.nowhere.v3.X"}}, ["type"]),
        ("CLUSTER", {"connect_timeout": "soon"}, ["field"]),
        ("CLUSTER", {"lb_policy": "ANY", "nope": 1}, ["field"]),
        ("CLUSTER", None, []),
        ("NOTHING", {"nope": 1}, []),
    ],
)
def test_envoys_types_say_what_they_do_not_take(
    applies_to: str, value: object, expected: list[str]
):
    assert [kind for kind, _, _ in typed_faults(applies_to, value)] == expected


def test_of_two_places_with_a_name_the_wrong_one_is_told():
    """`timeout` is a field of an ext_authz filter's service, and none of a route's match."""
    value = {"route": {"timeout": "1s"}, "match": {"prefix": "/", "timeout": "1s"}}
    ((_, path, what),) = typed_faults("HTTP_ROUTE", value)
    assert path == ("match", "timeout")
    assert "RouteMatch has no field 'timeout'" in what
