"""RateLimit objects of a cluster: the domains that they claim, and how deep they may be."""

from __future__ import annotations

from typing import Any

import pytest

from meshwarden.core.object_verdicts import ACCEPTED, CONFLICT, REFUSED
from meshwarden.core.offered_objects import object_bundle, offered_object
from meshwarden.core.partial_acceptance import PartialAcceptance
from ratelimit_service.core.compile import compile_limits
from ratelimit_service.core.model import Rules
from ratelimit_service.core.object_rules import object_rules


def limits(space: str, domain: str, *keys: str) -> dict[str, Any]:
    """Limits on `keys`, each below the one before."""
    rule: dict[str, Any] = {"rate_limit": {"unit": "hour", "requests_per_unit": 1}}
    for key in reversed(keys):
        rule = {"key": key} | (rule if "key" not in rule else {"descriptors": [rule]})
    return {
        "apiVersion": "meshwarden.io/v1alpha1",
        "kind": "RateLimit",
        "metadata": {"name": f"{domain}-{keys[0]}", "namespace": space},
        "spec": {"domain": domain, "descriptors": [rule]},
    }


def taken(*objects: Any, merges: bool = False) -> tuple[Rules, list[str]]:
    """What is taken, and each object's reason in the order of names."""
    rules = object_rules(merges_domains=merges)
    acceptance = PartialAcceptance(
        lambda bundle: compile_limits(bundle, merges_domains=merges, takes_every_file=True), rules
    )
    offered = [
        offered_object("RateLimit", one, rules=rules, shared_namespace="platform")
        for one in objects
    ]
    snapshot = acceptance.compiled(object_bundle(offered, {}, {}))
    verdicts = sorted(acceptance.verdicts, key=lambda verdict: verdict.object)
    return snapshot, [verdict.reason for verdict in verdicts]


@pytest.mark.parametrize("merges", [False, True])
def test_a_domain_is_one_namespaces_also_where_domains_are_merged(merges):
    _, reasons = taken(limits("bank", "d", "a"), limits("shop", "d", "b"), merges=merges)
    assert reasons == [ACCEPTED, CONFLICT]
    _, reasons = taken(limits("bank", "d", "a"), limits("bank", "d", "b"), merges=merges)
    assert reasons == [ACCEPTED, ACCEPTED if merges else CONFLICT]


def test_what_is_deeper_than_the_schema_reads_is_refused_alone():
    rules, reasons = taken(limits("bank", "deep", *"abcdef"), limits("shop", "d", *"abcde"))
    assert reasons == [REFUSED, ACCEPTED]
    assert set(rules.domains) == {"d"}
