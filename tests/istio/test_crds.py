"""Our kinds at a real Kubernetes API server: served, shown, explained, and taking what we take."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshwarden.cli.render_crds import cluster_kinds
from ratelimit_service.core.levels import level_problems
from tests.support.cluster_resources import FULL, nested_limits, resource, written_resources
from tests.support.kubernetes_api import KubernetesApi
from tests.support.strict_api import PLURALS, StrictApi, placed

WRITTEN = list(written_resources())
NAMES_COUNT = 10_000


def test_every_kind_is_established_and_has_a_structural_schema(kinds_api: KubernetesApi):
    for kind in cluster_kinds():
        found = kinds_api.get("crd", f"{kind.plural}.meshwarden.io")
        conditions = {each["type"]: each["status"] for each in found["status"]["conditions"]}
        assert conditions == {"NamesAccepted": "True", "Established": "True"}, kind.name


def test_there_are_resources_of_every_kind_to_try():
    assert {found["kind"] for _, found in WRITTEN} == set(PLURALS)
    assert len(WRITTEN) > 40


@pytest.mark.parametrize(("where", "found"), WRITTEN, ids=[where for where, _ in WRITTEN])
def test_what_the_examples_and_pages_show_is_taken(
    ask: StrictApi, where: str, found: dict[str, Any]
):
    assert ask.refusals(found) == []


@pytest.mark.parametrize("name", FULL)
def test_a_resource_that_uses_every_field_is_taken(ask: StrictApi, name: str):
    assert ask.refusals(FULL[name]) == []


def test_nothing_is_written_into_the_users_object(kinds_api: KubernetesApi):
    """No default stands in it, and no field is lost."""
    for found in FULL.values():
        kinds_api.apply(placed(found))
        words = (PLURALS[found["kind"]], found["metadata"]["name"])
        assert kinds_api.get(*words)["spec"] == found["spec"]


def test_descriptors_below_the_fifth_level_reach_us_and_are_refused_by_us(kinds_api: KubernetesApi):
    assert level_problems(nested_limits(5)["spec"]) == []
    deep = nested_limits(7)
    kinds_api.apply(placed(deep))
    stored = kinds_api.get("ratelimits", "deep")["spec"]
    assert stored == deep["spec"]
    assert "more than 5 levels" in level_problems(stored)[0]


def test_an_object_at_the_bounds_is_taken_and_stored(ask: StrictApi):
    """The rules of 10,000 and their checks are within the cost that one request may have; the
    object within what the store takes.
    """
    rules = [
        {"name": f"r{n}", "callers": "anyone", "paths": [f"/p{n}"]} for n in range(NAMES_COUNT)
    ]
    hosts = [f"h{n}.{'x' * 200}.example.com" for n in range(1000)]
    policy = {
        "hosts": hosts,
        "identify": [{"apiKey": {"sources": [{"header": f"h{n}"} for n in range(10)]}}] * 10,
        "upstream": {"headers": [{"name": f"h{n}", "value": "x"} for n in range(20)]},
        "rules": rules,
    }
    large = resource("AccessPolicy", policy, "large")
    assert len(json.dumps(large)) > 800_000
    assert ask.refusals(large, stores=True) == []
    subjects = [{"principal": f"jwt:{'x' * 80}{n}"} for n in range(NAMES_COUNT)]
    binding = resource("AccessRoleBinding", {"role": "r", "subjects": subjects}, "large")
    assert ask.refusals(binding, stores=True) == []
    limits = [{"key": f"k{n}", "rate_limit": {"unit": "day"}} for n in range(20_000)]
    many = resource("RateLimit", {"domain": "d", "descriptors": limits}, "large")
    assert ask.refusals(many, stores=True) == []


def _status(accepted: str, reason: str) -> dict[str, Any]:
    condition = {
        "type": "Accepted",
        "status": accepted,
        "reason": reason,
        "message": "spec.hosts: claimed by shop/older",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-03-02T09:00:00Z",
    }
    return {
        "observedGeneration": 1,
        "conditions": [condition],
        "replicas": {"accepted": 2, "known": 3},
    }


def _columns(text: str) -> dict[str, str]:
    """What `kubectl get` shows of one object, by the columns' names."""
    head, row = text.splitlines()
    names = head.split()
    begins = [head.index(name) for name in names]
    ends = [*begins[1:], None]
    return {n: row[a:b].strip() for n, a, b in zip(names, begins, ends, strict=True)}


def test_kubectl_get_shows_whether_it_was_accepted_and_why_not(kinds_api: KubernetesApi):
    kinds_api.apply(placed(FULL["policy"]))
    patch = json.dumps({"status": _status("False", "Conflict")})
    words = ("patch", "ap", "x", "--subresource=status", "--type=merge", "-p", patch)
    kinds_api.kubectl(*words)
    shown = _columns(kinds_api.kubectl("get", "accesspolicies", "x"))
    assert shown.pop("AGE")
    assert shown == {
        "NAME": "x",
        "HOSTS": '["shop.example.com","*.Shop.example.com"]',
        "ACCEPTED": "False",
        "REASON": "Conflict",
        "REPLICAS": "2",
    }
    wide = kinds_api.kubectl("get", "accesspolicies", "x", "-o", "wide")
    assert "claimed by shop/older" in wide
    kinds_api.apply(placed(FULL["limits"]))
    assert _columns(kinds_api.kubectl("get", "rl", "x"))["DOMAIN"] == "shop"


def test_one_category_lists_them_all(kinds_api: KubernetesApi):
    kinds_api.apply(*map(placed, FULL.values()))
    listed = kinds_api.kubectl("get", "meshwarden", "-o", "name")
    assert {line.partition(".")[0] for line in listed.split()} == {
        kind.name.lower() for kind in cluster_kinds() if kind.has_status
    }


def test_who_writes_an_object_can_not_write_its_status(kinds_api: KubernetesApi):
    """The status is a subresource, for which a role gives rights of its own."""
    kinds_api.apply({**placed(FULL["reader"]), "status": _status("True", "Accepted")})
    assert "status" not in kinds_api.get("accessroles", "reader")


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("accesspolicies.spec.rules.callers", "Default: identified for allow, anyone for deny."),
        ("tokenissuers.spec.issuer", "The `iss` of its tokens, to the letter."),
        ("ratelimits.spec.descriptors.descriptors.rate_limit", "requests_per_unit"),
        ("accessroles.status.replicas", "How many replicas of the service took it"),
    ],
)
def test_kubectl_explain_tells_what_a_field_is(kinds_api: KubernetesApi, field: str, said: str):
    assert said in " ".join(kinds_api.kubectl("explain", field).split())
