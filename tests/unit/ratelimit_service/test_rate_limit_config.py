"""What a RateLimitConfig means: the same as the file that says the same."""

from __future__ import annotations

import pytest
from google.protobuf import any_pb2
from google.protobuf.message import Message

from meshwarden.core.faults import InvalidInput
from meshwarden.core.snapshot import Bundle
from ratelimit_service.adapters.rate_limit_config import (
    MESSAGE,
    TYPE_URL,
    bundle_of,
    compile_discovered,
    rate_limit_config,
)
from ratelimit_service.core.model import Rules
from tests.support.limits import rules

FILE = """
domain: edge
descriptors:
- key: path
  value: /a/*
  shadow_mode: true
  detailed_metric: true
  rate_limit: {unit: week, requests_per_unit: 4294967295, name: a, replaces: [{name: b}]}
  descriptors:
  - key: user
    quota_mode: true
    metadata: {team: edge, levels: [1, 2.5, true, null], deep: {x: deeper}}
    rate_limit: {unit: second}
- key: free
  rate_limit: {unlimited: true}
- key: open
"""

RESOURCE = {
    "name": "edge-config",
    "domain": "edge",
    "descriptors": [
        {
            "key": "path",
            "value": "/a/*",
            "shadow_mode": True,
            "detailed_metric": True,
            "rate_limit": {
                "unit": "WEEK",
                "requests_per_unit": 2**32 - 1,
                "name": "a",
                "replaces": [{"name": "b"}],
            },
            "descriptors": [
                {
                    "key": "user",
                    "quota_mode": True,
                    "metadata": {
                        "team": "edge",
                        "levels": [1, 2.5, True, None],
                        "deep": {"x": "deeper"},
                    },
                    "rate_limit": {"unit": "SECOND"},
                }
            ],
        },
        {"key": "free", "rate_limit": {"unlimited": True}},
        {"key": "open"},
    ],
}


def made(**fields: object) -> Message:
    message: Message = rate_limit_config()(**fields)
    return message


def packed(*resources: Message, type_url: str = TYPE_URL) -> Bundle:
    return bundle_of(
        [any_pb2.Any(type_url=type_url, value=one.SerializeToString()) for one in resources]
    )


def compiled(*resources: Message, merges_domains: bool = False) -> Rules:
    return compile_discovered(packed(*resources), merges_domains=merges_domains)


def refusal(*resources: Message) -> list[str]:
    with pytest.raises(InvalidInput) as refused:
        compiled(*resources)
    return [str(problem) for problem in refused.value.problems]


def test_a_resource_is_the_same_rules_as_its_file():
    assert compiled(made(**RESOURCE)) == rules(FILE)


def test_the_wire_is_the_references():
    """Bytes by hand from the numbers in rls_conf.proto."""
    limit = b"\x08\x02\x10\x05\x18\x01\x22\x01n\x2a\x03\x0a\x01r"
    descriptor = b"\x0a\x01k\x12\x01v\x1a" + bytes([len(limit)]) + limit + b"\x22\x03\x0a\x01c"
    descriptor += b"\x28\x01\x30\x01\x38\x01\x42\x07\x0a\x05\x0a\x01m\x12\x00"
    content = b"\x0a\x01f\x12\x01d\x1a" + bytes([len(descriptor)]) + descriptor
    read = rate_limit_config().FromString(content)
    (first,) = read.descriptors
    assert (read.name, read.domain, first.key, first.value) == ("f", "d", "k", "v")
    policy = first.rate_limit
    assert (policy.unit, policy.requests_per_unit, policy.unlimited, policy.name) == (2, 5, 1, "n")
    assert (policy.replaces[0].name, first.descriptors[0].key) == ("r", "c")
    assert (first.shadow_mode, first.detailed_metric, first.quota_mode) == (True, True, True)
    assert "m" in first.metadata.fields


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"name": "f"}, "f: config file cannot have empty domain"),
        ({"domain": "d", "descriptors": [{}]}, "descriptor has empty key"),
        (
            {"name": "f", "domain": "d", "descriptors": [{"key": "k"}, {"key": "k"}]},
            "f: duplicate descriptor composite key 'd.k'",
        ),
        (
            {"name": "f", "domain": "d", "descriptors": [{"key": "k", "rate_limit": {}}]},
            "f: invalid rate limit unit 'UNKNOWN'",
        ),
        (
            {"name": "f", "domain": "d", "descriptors": [{"key": "k", "rate_limit": {"unit": 9}}]},
            "f: invalid rate limit unit '9'",
        ),
    ],
)
def test_faults_are_worded_as_in_a_file(fields: dict[str, object], told: str):
    assert refusal(made(**fields)) == [told]


def test_every_fault_of_every_resource_is_told():
    bad = made(name="a", domain="one", descriptors=[{"key": ""}])
    assert refusal(bad, made(name="b", domain="two"), made(name="c", domain="two")) == [
        "a: descriptor has empty key",
        "c: duplicate domain 'two' in config file",
    ]


def test_resources_are_taken_in_the_order_of_their_names():
    """A server may send them in any order; a wildcard's place is its rank."""
    last = made(name="z", domain="d", descriptors=[{"key": "k", "value": "*"}])
    first = made(name="a", domain="d", descriptors=[{"key": "k", "value": "a*"}])
    assert packed(last, first).version == packed(first, last).version
    root = compiled(last, first, merges_domains=True).domains["d"]
    assert [wildcard.pattern for wildcard in root.wildcards] == ["k_a*", "k_*"]


def test_two_resources_of_one_name_are_both_taken():
    both = compiled(made(name="n", domain="a"), made(name="n", domain="b"))
    assert set(both.domains) == {"a", "b"}


def test_no_resources_are_no_limits():
    assert compiled().domains == {}


def test_what_is_no_rate_limit_config_is_unreadable():
    other = packed(made(), type_url="type.googleapis.com/envoy.config.cluster.v3.Cluster")
    (problem,) = other.unreadable
    assert f'got "{MESSAGE}", want "envoy.config.cluster.v3.Cluster"' in str(problem)
    rubbish = bundle_of([any_pb2.Any(type_url=TYPE_URL, value=b"\xff\xff")])
    assert "cannot parse invalid wire-format data" in str(rubbish.unreadable[0])


def test_metadata_that_is_no_json_is_refused():
    descriptor = {"key": "k", "metadata": {"x": float("nan")}}
    (told,) = refusal(made(name="f", domain="d", descriptors=[descriptor]))
    assert told.startswith("f: error parsing metadata")
