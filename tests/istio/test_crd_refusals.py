"""What the API server refuses of our kinds, in which words, and that it is never stricter than
we are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ratelimit_service.core.grammar import TEXT_KEYS
from tests.support.cluster_resources import FULL, judged, resource
from tests.support.strict_api import StrictApi

ABSENT = object()
Path = tuple[str | int, ...]
RULE: Path = ("rules", 0)
LIMIT: Path = ("descriptors", 0, "rate_limit")


def changed(name: str, path: Path, value: Any) -> dict[str, Any]:
    """The resource `name` of `FULL` with `value` at `path` of its spec."""
    result = copy.deepcopy(FULL[name])
    holder = result["spec"]
    for part in path[:-1]:
        holder = holder[part]
    if value is ABSENT:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return result


def our_judgement(name: str, odd: dict[str, Any]) -> list[str]:
    """What our services find wrong with `odd` in the place of the resource `name`."""
    return judged({**FULL, name: odd}.values())


REFUSED: list[tuple[str, Path, Any, str]] = [
    ("policy", ("identify", 0, "jwt", "sources", 0), {"header": "a", "cookie": "b"},
     "exactly one of header, cookie, query is needed"),
    ("policy", ("identify", 0, "jwt", "sources", 0), {"cookie": "a", "scheme": "Bearer"},
     "a scheme goes with a header"),
    ("policy", ("identify", 0), {"apiKey": {}, "clientCertificate": {}},
     "exactly one of jwt, introspection, apiKey, kubernetesToken, spiffe, clientCertificate is"),
    ("policy", ("identify", 0), {"onInvalid": "skip"},
     "exactly one of jwt, introspection, apiKey, kubernetesToken, spiffe, clientCertificate is"),
    ("policy", (*RULE, "callers"), "anyone",
     "a rule for anyone can't ask for roles, permissions, scopes, groups or principals"),
    ("policy", ("rules", 2, "callers"), "anyone",
     "kubernetesAccess asks about an identified caller, not about anyone"),
    ("policy", ("rules", 2, "kubernetesAccess", "nonResourcePath"), "/x",
     "exactly one of resource, nonResourcePath is needed"),
    ("policy", ("rules", 3, "kubernetesAccess", "name"), "x",
     "a nonResourcePath has no group, subresource, namespace or name"),
    ("policy", ("rules", 1, "name"), "orders", 'Duplicate value: {"name":"orders"}'),
    ("policy", (*RULE, "role"), ["a"], 'unknown field "spec.rules[0].role"'),
    ("policy", (*RULE, "methods"), ["get"], "should match '^[A-Z]+$'"),
    ("policy", (*RULE, "paths"), ["orders"], "should match '^/'"),
    ("policy", (*RULE, "principals"), ["a"], "should match '^((jwt|opaque|key|cert|kubernetes):."),
    ("policy", (*RULE, "roles"), "reader", "must be of type array"),
    ("policy", (*RULE, "callers"), "nobody", "should match '^(identified|anyone)$'"),
    ("policy", ("rules",), ABSENT, "Required value"),
    ("policy", ("hosts",), [], "should have at least 1 items"),
    ("policy", ("hosts", 0), "shop.example.com:80",
     "'shop.example.com:80' is no host pattern: write a name, '*.' and a name, or '*'; no port"),
    ("policy", ("identityHeaders",), {"host": "subject"}, "'host' can't be an identity header"),
    ("policy", ("identityHeaders", "x-a"), "subjects", 'Unsupported value: "subjects"'),
    ("policy", ("upstream", "headers", 0), {"name": "a", "value": "a", "expression": "b"},
     "exactly one of value, expression is needed"),
    ("policy", ("upstream", "query", 0), {"name": "a"},
     "exactly one of value, expression is needed"),
    ("policy", ("metadata", 0, "value"), "x", "exactly one of value, expression is needed"),
    ("policy", ("upstream", "headers", 0, "name"), "host", "'host' can't be changed"),
    ("policy", ("downstream", "headers", 0, "name"), "upgrade", "'upgrade' can't be changed"),
    ("policy", ("upstream", "removeHeaders"), ["te"], "'te' can't be changed"),
    ("policy", ("denied", "forbidden", "headers"), {"connection": "a"},
     "'connection' can't be changed"),
    ("policy", ("metadata", 0, "name"), "rule", "the metadata 'rule' is ours"),
    ("policy", ("identityToken", "header"), "host", "'host' can't be changed"),
    ("policy", ("identityToken", "claims"), {"sub": "'a'"}, "the claim 'sub' is ours"),
    ("policy", ("denied", "forbidden", "status"), 200, "greater than or equal to 400"),
    ("policy", ("denied", "unauthenticated", "redirect", "status"), 301,
     'supported values: "302", "303", "307"'),
    ("issuer", ("jwks",), {"url": "https://a/", "file": "a"},
     "exactly one of inline, file, url, discovery, development is needed"),
    ("issuer", ("jwks",), {"refreshSeconds": 60},
     "exactly one of inline, file, url, discovery, development is needed"),
    ("issuer", ("jwks",), ABSENT, "at least one of jwks, introspection is needed"),
    ("issuer", ("jwks", "timeoutSeconds"), 0, "should be greater than 0"),
    ("issuer", ("issuer",), "company",
     "an issuer whose document is to be discovered must be a URL"),
    ("issuer", ("algorithms",), ["none"], 'Unsupported value: "none"'),
    ("issuer", ("tokenType",), 'a"b', "should match"),
    ("opaque", ("introspection", "discovery"), "oidc", "exactly one of url, discovery is needed"),
    ("binding", ("subjects", 0, "group"), "g", "exactly one of principal, group is needed"),
    ("binding", ("subjects", 0, "principal"), "a", "should match"),
    ("binding", ("subjects",), [], "should have at least 1 items"),
    ("role", ("permissions",), ["a b"], "should match"),
    ("limits", ("domain",), "", "at least 1 chars long"),
    ("limits", ("descriptors", 0, "key"), "", "at least 1 chars long"),
    ("limits", ("descriptors", 0, "limit"), {}, 'unknown field "spec.descriptors[0].limit"'),
    ("limits", (*LIMIT, "unit"), "fortnight", "(?i:second|minute|hour|day|month|year|week)"),
    ("limits", (*LIMIT, "unit"), ABSENT, "rate_limit.unit: Required value"),
    ("limits", (*LIMIT, "unlimited"), True, "must not validate the schema (not)"),
    ("limits", (*LIMIT, "requests_per_unit"), 2**32, "less than or equal to 4294967295"),
    ("limits", ("descriptors", 0, "descriptors", 0, "rate_limit", "replaces"), [{"name": ""}],
     "at least 1 chars long"),
]  # fmt: skip


def _ids(table: list[tuple[str, Path, Any, str]]) -> list[str]:
    return [f"{name}-{'.'.join(map(str, path))}-{said[:24]}" for name, path, _, said in table]


@pytest.mark.parametrize(("name", "path", "value", "said"), REFUSED, ids=_ids(REFUSED))
def test_the_api_server_refuses(ask: StrictApi, name: str, path: Path, value: Any, said: str):
    odd = changed(name, path, value)
    told = ask.refusals(odd)
    assert any(said in each for each in told), told
    assert our_judgement(name, odd) != []


def test_a_name_that_is_too_long_for_us_is_refused(ask: StrictApi):
    long = resource("AccessRole", {}, "x" * 64)
    assert "may not be more than 63" in ask.refusals(long)[0]
    assert judged([long]) != []


OURS_ALONE: list[tuple[str, Path, Any, str]] = [
    ("policy", (*RULE, "roles"), None, "should be a valid list"),
    ("policy", (*RULE, "headers", "x-kind"), None, "should be a valid list"),
    ("policy", (*RULE, "paths"), ["/a/**/b"], "'**' may stand only at the end"),
    ("policy", (*RULE, "when"), "request.nonsense", "when:"),
    ("policy", (*RULE, "clientAddresses"), ["10.0.0.300"], "is no address and no network"),
    ("policy", (*RULE, "times", 0, "timeZone"), "Europe/Atlantis", "there is no time zone"),
    ("policy", (*RULE, "headers"), {"X-Kind": ["a"]}, "String should match pattern"),
    ("policy", ("identityHeaders",), {"X-User": "subject"}, "String should match pattern"),
    ("policy", ("identityHeaders",), {"x-api-key": "subject"},
     "brings the credential and the identity"),
    ("policy", ("denied", "forbidden", "body", "text"), "${nobody}", "nobody"),
    ("policy", ("identify", 3, "kubernetesToken", "audiences"), ["https://kubernetes.default.svc"],
     "is the API server's own audience"),
    ("policy", ("trustedProxies",), ["gateway"], "is no address and no network"),
    ("policy", ("identify", 0, "jwt", "issuers"), ["unknown"], "unknown"),
    ("issuer", ("jwks",), {"inline": {"keys": "none"}}, ""),
    ("binding", ("role",), "unknown", "unknown"),
    ("limits", ("descriptors",), [{"key": "a"}, {"key": "a"}], "duplicate descriptor"),
    ("limits", (*LIMIT, "replaces"), [{"name": "a"}], "name of same descriptor"),
    ("limits", ("descriptors", 0, "share_threshold"), True, "wildcard values"),
]  # fmt: skip
"""What the API server takes and we refuse, with a status: CEL can't say it, or not within its cost,
or it takes more than the one object to see.
"""


@pytest.mark.parametrize(("name", "path", "value", "said"), OURS_ALONE, ids=_ids(OURS_ALONE))
def test_only_we_can_refuse(ask: StrictApi, name: str, path: Path, value: Any, said: str):
    odd = changed(name, path, value)
    assert ask.refusals(odd) == []
    told = our_judgement(name, odd)
    assert any(said in each for each in told), told


def _paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every place in `value`, the value itself not."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in keys:
        yield (*path, key)
        yield from _paths(value[key], (*path, key))


ODD = st.sampled_from(
    [
        *(None, True, False, 0, -1, 1, 5, 1.5, 301, 2**32, 2**40),
        *(
            "",
            "x",
            "X",
            "*",
            "/",
            "/x",
            "a b",
            "größe",
            "\u017fecond",
            "DAY",
            "GET",
            "\u212a",
            "x" * 9000,
        ),
        *("jwt:a", "jwt:\n", "https://a/b", "a:b", "a/*", "00:00", "line\n", "[::1]", "$$"),
        *([], {}, [[]], [{}], ["x"], [None], {"x": "x"}, {"X y": ["x"]}, {"name": "x"}),
        *({"unit": "x", "unlimited": True}, {"unlimited": False}, {"host": "x"}, ABSENT),
    ]
)
PLACES = st.sampled_from([(name, path) for name, r in FULL.items() for path in _paths(r["spec"])])


@settings(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=PLACES, value=ODD, extra=st.sampled_from(["", "", "odd", "twice"]))
def test_what_the_api_server_refuses_we_refuse(
    ask: StrictApi, place: tuple[str, Path], value: Any, extra: str
):
    """The law: it is never stricter. A value is changed, or a field is added, or an item stands
    twice.
    """
    name, path = place
    # The exception has a test of its own.
    assume(name != "limits" or path[-1] not in TEXT_KEYS or not isinstance(value, (int, float)))
    odd = copy.deepcopy(FULL[name]) if extra else changed(name, path, value)
    holder = odd["spec"]
    for part in path[:-1]:
        holder = holder[part]
    if extra == "odd" and isinstance(holder, dict):
        holder[extra] = None if value is ABSENT else value
    if extra == "twice" and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[path[-1]]))
    refusals = ask.refusals(odd)
    if refusals:
        assert our_judgement(name, odd) != [], refusals


@pytest.mark.parametrize("value", [5, True])
def test_a_text_of_limits_must_be_one_in_an_object(ask: StrictApi, value: Any):
    """The one place where the API server is stricter: in a file of limits, `value: 5` is a text."""
    odd = changed("limits", ("descriptors", 0, "value"), value)
    assert any("must be of type string" in told for told in ask.refusals(odd))
    assert our_judgement("limits", odd) == []


def test_the_law_begins_with_what_both_take(ask: StrictApi):
    assert judged(FULL.values()) == []
    assert [ask.refusals(found) for found in FULL.values()] == [[]] * len(FULL)


@pytest.mark.parametrize("name", FULL)
def test_no_null_gets_lost(ask: StrictApi, name: str):
    """`roles:` with nothing after it, dropped, would be a rule that asks for no role. What is
    stored has it, and is refused by us unless it means that the field is not there.
    """
    for path in _paths(FULL[name]["spec"]):
        odd = changed(name, path, None)
        refusals = ask.refusals(odd)
        if refusals:
            assert our_judgement(name, odd) != [], (path, refusals)
        else:
            assert ask.taken(odd)["spec"] == odd["spec"], path
