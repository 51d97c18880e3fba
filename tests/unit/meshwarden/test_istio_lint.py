"""Each rule of `meshwarden check --istio` finds its mistake, and nothing in manifests without."""

from __future__ import annotations

import random
from typing import Any

import pytest
import yaml

from meshwarden.adapters.envoy.typed_patches import typed_faults
from meshwarden.cli.istio_check import read_manifests
from meshwarden.core.documents import parse
from meshwarden.core.istio_lint.check import findings, mistakes_page
from meshwarden.core.istio_lint.findings import RULES, Finding, Severity, rule
from meshwarden.core.istio_lint.values import seconds
from tests.support.processes import CHECKOUT

MANIFESTS = CHECKOUT / "tests/support/manifests"
CLEAN = (MANIFESTS / "clean_mesh.yaml").read_text()
BROKEN = [
    (one["rule"], one["right"], one["wrong"])
    for one in yaml.safe_load((MANIFESTS / "broken_mesh.yaml").read_text())
]
ALSO = {
    # A policy that no longer covers its workload leaves it open.
    "028": {"030"},
    "035": {"030"},
    "029": {"030"},
    "034": {"030"},
}
WAYPOINT = """---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: way, namespace: istio-system}
spec: {gatewayClassName: istio-waypoint}
"""

NETWORKING = "apiVersion: networking.istio.io/v1\n"


def found_in(text: str, *, typed: bool = False) -> list[Finding]:
    """What is found, `typed` by Envoy's types as well, which takes four times as long."""
    documents = parse("mesh.yaml", text.encode(), takes_scalar_keys=True)
    return findings(documents, typed_faults if typed else None)


def rules_of(found: list[Finding]) -> set[str]:
    return {one.rule.removeprefix("MW-ISTIO-") for one in found}


def test_manifests_without_a_mistake_have_no_finding():
    assert found_in(CLEAN, typed=True) == []


def test_what_this_repository_applies_has_no_finding():
    """Envoy's types are asked for in tests/istio: they take seconds to load."""
    documents, problems = read_manifests([str(CHECKOUT / "istio")])
    assert (findings(documents), problems) == ([], [])
    assert len(documents) > 30


@pytest.mark.parametrize(("number", "right", "wrong"), BROKEN, ids=[one[0] for one in BROKEN])
def test_one_thing_broken_is_found_by_its_rule_alone(number: str, right: str, wrong: str):
    """With the line where it stands, and no other rule than those that follow from it."""
    assert right in CLEAN
    text = CLEAN.replace(right, wrong) + (WAYPOINT if number == "049" else "")
    found = found_in(text, typed=number.startswith("04"))
    assert number in rules_of(found)
    assert rules_of(found) <= {number} | ALSO.get(number, set()), found
    lines = text.count("\n") + 1
    assert all(1 < one.line <= lines and one.fix and one.what for one in found)


def test_every_rule_is_broken_here():
    told_below = {"012", "050"}
    assert {name.removeprefix("MW-ISTIO-") for name in RULES} == {
        one[0] for one in BROKEN
    } | told_below


SECOND = """---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: second, namespace: shop}
spec: {action: CUSTOM, provider: {name: other}, rules: [{}]}
"""


def test_two_providers_on_a_workload_need_istiods_switch():
    assert rules_of(found_in(CLEAN + SECOND)) == {"012"}
    switch = "PILOT_ENABLE_MULTIPLE_CUSTOM_AUTHZ_PROVIDERS: 'true'"
    assert found_in(f"{CLEAN}{SECOND}---\npilot: {{env: {{{switch}}}}}\n") == []


JOINED = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart, namespace: shop}
spec: {template: {metadata: {labels: {app: cart, meshwarden.io/limit: sidecar}}}}
"""


def test_limits_by_the_authorizers_word_need_an_authorizer_at_the_same_workload():
    """With what is rendered for the quickstart, whose limit is by rule and principal."""
    documents, _ = read_manifests([str(CHECKOUT / "istio/base")])

    def told(text: str) -> list[Finding]:
        joined = parse("cart.yaml", text.encode())
        found = findings([*documents, *joined])
        return [one for one in found if one.rule == "MW-ISTIO-050"]

    (finding,) = told(JOINED)
    assert "cart (shop) has limits by meshwarden-sidecar-ratelimit" in finding.what
    assert told(JOINED.replace("limit: s", "authorize: sidecar, meshwarden.io/limit: s")) == []
    assert told(JOINED.replace(", meshwarden.io/limit: sidecar", "")) == []


@pytest.mark.parametrize(
    ("spelling", "context", "more", "is_told"),
    [
        ("rate_limits metadata_key", "SIDECAR_INBOUND", "", True),
        ("rateLimits metadataKey", "ANY", "", True),
        ("rate_limits metadata_key", "GATEWAY", "", False),
        ("rate_limits metadata_key", "ANY", ", default_value: none", False),
    ],
)
def test_what_reads_the_authorizers_word_is_told_where_it_would_apply(
    spelling: str, context: str, more: str, is_told: bool
):
    limits, key = spelling.split()
    action = f"{{metadata: {{{key}: {{key: envoy.filters.http.ext_authz}}{more}}}}}"
    text = f"""
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {{name: mine, namespace: shop}}
spec:
  configPatches:
  - applyTo: VIRTUAL_HOST
    match: {{context: {context}}}
    patch: {{operation: MERGE, value: {{{limits}: [{{actions: [{action}]}}]}}}}
---
{JOINED}"""
    assert ("050" in rules_of(found_in(text))) == is_told


def test_everything_wrong_is_told_at_once_in_the_order_of_its_places():
    text = CLEAN
    broken = ("004", "009", "023", "031", "048", "070", "077")
    for number, right, wrong in BROKEN:
        if number in broken and right in text:
            text = text.replace(right, wrong)
    found = found_in(text, typed=True)
    assert rules_of(found) == set(broken)
    assert [one.line for one in found] == sorted(one.line for one in found)


def test_an_unknown_field_is_told_at_its_line():
    text = CLEAN.replace("          domain: edge", "          domains: edge")
    line = text.split("\n").index("          domains: edge") + 1
    (found,) = found_in(text, typed=True)
    assert (found.line, found.rule) == (line, "MW-ISTIO-048")
    assert "RateLimit has no field 'domains'" in str(found)


def test_several_unknown_fields_are_all_told():
    text = CLEAN.replace("          domain: edge", "          domains: edge\n          stages: 1")
    assert len(found_in(text, typed=True)) == 2


def test_the_line_of_mesh_configuration_is_that_in_its_config_map():
    text = CLEAN.replace("timeout: 0.2s", "timeout: 2s", 1)
    (found,) = found_in(text)
    assert text.split("\n")[found.line - 1].strip() == "timeout: 2s"


@pytest.mark.parametrize(
    "values",
    [
        "meshConfig: {}",
        "kind: IstioOperator\nspec: {profile: minimal, meshConfig: {accessLogFile: x}}",
    ],
)
def test_mesh_configuration_is_found_wherever_an_installation_keeps_it(values: str):
    policies = CLEAN.partition("---\n")[2]
    assert "002" in rules_of(
        found_in(f"{policies}---\n{values.replace('{}', '{rootNamespace: r}')}")
    )


ALLOWED = (
    "kind: PeerAuthentication\nmetadata:\n  name: x\n  namespace: istio-system\n  annotations: {}"
)


def test_an_annotation_with_a_reason_allows_a_finding_and_without_one_does_not():
    open_mode = CLEAN.replace("STRICT", "PERMISSIVE")
    place = "kind: PeerAuthentication\nmetadata: {name: default, namespace: istio-system"
    allowed = f"{place}, annotations: {{meshwarden.io/allow: 'MW-ISTIO-031'"
    reason = ", meshwarden.io/allow-reason: moving to the mesh until spring"
    assert found_in(open_mode.replace(place, allowed + reason + "}")) == []
    assert rules_of(found_in(open_mode.replace(place, allowed + "}"))) == {"031", "090"}


@pytest.mark.parametrize("seed", range(2))
def test_the_order_of_keys_changes_nothing(seed: int):
    """In a clean folder and in a broken one: only lines move."""
    broken = CLEAN.replace("STRICT", "DISABLE").replace("/open/*", "/open*")
    for text in (CLEAN, broken):
        documents = yaml.load_all(text, yaml.CSafeLoader)
        shuffled = yaml.dump_all(
            [_shuffled(one, random.Random(seed)) for one in documents],  # noqa: S311
            Dumper=yaml.CSafeDumper,
            sort_keys=False,
        )
        said = {(one.rule, one.what) for one in found_in(shuffled)}
        assert said == {(one.rule, one.what) for one in found_in(text)}


def _shuffled(value: Any, order: random.Random) -> Any:
    if isinstance(value, dict):
        keys = list(value)
        order.shuffle(keys)
        return {key: _shuffled(value[key], order) for key in keys}
    if isinstance(value, list):
        return [_shuffled(child, order) for child in value]
    return value


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_documents_changes_nothing_but_who_comes_second(seed: int):
    parts = CLEAN.replace("/open/*", "/open*").split("---\n")
    random.Random(seed).shuffle(parts)  # noqa: S311
    assert rules_of(found_in("---\n".join(parts))) == {"023"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a: 1",
        "- 1",
        "kind: AuthorizationPolicy",
        f"{NETWORKING}kind: EnvoyFilter\nspec: []",
        f"{NETWORKING}kind: EnvoyFilter\nspec: {{configPatches: [1, {{patch: 2}}]}}",
        f"{NETWORKING}kind: VirtualService\nspec: {{http: [1, {{retries: 3}}]}}",
        f"{NETWORKING}kind: VirtualService\nspec: {{http: [{{retries: {{attempts: x}}}}]}}",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nspec: {rules: [{to: 3}]}",
        "kind: ConfigMap\nmetadata: {name: istio}\ndata: {mesh: '{'}",
    ],
)
def test_documents_of_any_shape_stop_nothing(text: str):
    found_in(text)


def test_a_label_to_join_by_may_be_without_workloads():
    labels = "{matchLabels: {meshwarden.io/authorize: sidecar}}"
    assert rules_of(found_in(CLEAN.replace("{matchLabels: {app: orders}}", labels))) == {"030"}


def test_two_ways_to_install_may_name_the_same_provider():
    values = "---\nmeshConfig:\n" + "".join(
        f"  {line}\n" for line in CLEAN.split("mesh: |\n")[1].split("---")[0].splitlines()
    )
    assert found_in(CLEAN + values) == []


def test_the_patches_of_a_kustomization_are_no_objects():
    kustomization = "kind: Kustomization\npatches: [{path: open.yaml}]\n"
    patch = (
        "kind: PeerAuthentication\napiVersion: security.istio.io/v1\nspec: {mtls: {mode: DISABLE}}"
    )
    documents = [
        *parse("a/kustomization.yaml", kustomization.encode()),
        *parse("a/open.yaml", patch.encode()),
    ]
    assert findings(documents) == []
    assert rules_of(findings(documents[1:])) == {"031"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1m30s", 90), ("150ms", 0.15), ("0.2s", 0.2), ("5", None), ("", None), (None, None)],
)
def test_durations_are_read_as_go_writes_them(text: Any, expected: float | None):
    assert seconds(text) == (expected if expected is None else pytest.approx(expected))


def test_the_page_explains_every_rule():
    page = mistakes_page()
    assert all(f"## {name}: {one.title}" in page for name, one in RULES.items())
    assert page == (CHECKOUT / "docs/reference/istio_mistakes.md").read_text()


def test_an_id_stands_for_one_rule_only():
    with pytest.raises(ValueError, match="stands twice"):
        rule(1, Severity.ERROR, "", why="", fix="")(lambda _mesh: iter(()))
