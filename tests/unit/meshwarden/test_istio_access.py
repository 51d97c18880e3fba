"""What a service may do at the API server: its own kinds, and Secrets by name alone."""

from typing import Any

import pytest

from ext_authz.core.object_rules import RULES
from meshwarden.adapters.istio.access import RESOURCES, Access, NamedFiles, access
from meshwarden.adapters.kubernetes_source import plural

FILES = {
    "meshwarden-system": NamedFiles(["keys"], ["ownership"]),
    "shop": NamedFiles(["idp"]),
    "bank": NamedFiles(),
}


def rules(manifests: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Each rule with the namespace that it holds in, empty for all."""
    return [
        (manifest["metadata"].get("namespace", ""), rule)
        for manifest in manifests
        for rule in manifest.get("rules", ())
    ]


WRITTEN = {
    "replicareports": {"create", "patch", "delete"},
    "leases": {"create", "update"},
}
"""In the installation's namespace alone."""


@pytest.mark.parametrize("namespaces", [(), ("shop",)])
@pytest.mark.parametrize("service", ["ext-authz", "ratelimit"])
def test_core_objects_are_only_read_and_only_by_name(service, namespaces):
    made = access(Access(service, namespaces=namespaces, files=FILES))
    for namespace, rule in rules(made):
        if rule["apiGroups"] == [""]:
            assert rule["verbs"] == ["get", "list", "watch"]
            assert namespace
            assert rule["resourceNames"]
    everywhere = [rule for namespace, rule in rules(made) if not namespace]
    assert len(everywhere) == (0 if namespaces else 2)
    assert made[0]["kind"] == "ServiceAccount"


@pytest.mark.parametrize("namespaces", [(), ("shop",)])
@pytest.mark.parametrize("service", ["ext-authz", "ratelimit"])
def test_nothing_is_written_but_statuses_and_what_reporting_needs(service, namespaces):
    """Of its own kinds the status alone; of Leases only its own is changed."""
    statuses = {f"{resource}/status" for resource in RESOURCES[service]}
    for namespace, rule in rules(access(Access(service, namespaces=namespaces, files=FILES))):
        written = set(rule["verbs"]) - {"get", "list", "watch"}
        if not written:
            continue
        if namespace == "meshwarden-system" and set(rule["resources"]) <= WRITTEN.keys():
            assert written <= WRITTEN[rule["resources"][0]]
        else:
            assert (set(rule["resources"]), written) == (statuses, {"patch"})
        if "update" in written:
            assert rule["resourceNames"] == [f"meshwarden-{service}"]


def test_every_role_is_bound_to_the_account():
    made = access(Access("ext-authz", files=FILES))
    roles = {
        (m["metadata"].get("namespace"), m["metadata"]["name"]) for m in made if m.get("rules")
    }
    bindings = [m for m in made if m["kind"].endswith("Binding")]
    assert {(b["metadata"].get("namespace"), b["roleRef"]["name"]) for b in bindings} == roles
    assert {b["subjects"][0]["namespace"] for b in bindings} == {"meshwarden-system"}


def test_what_is_granted_is_what_is_watched():
    assert {plural(kind) for kind in RULES.kinds} == set(RESOURCES["ext-authz"])
    assert plural("RateLimit") in RESOURCES["ratelimit"]
