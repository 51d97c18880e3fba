"""`meshwarden test`: its callers, and each kind of expectation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Command, Done, command_line
from tests.support.policy_folder import write_policies

JWT = {"kind": "jwt", "issuer": "main", "subject": "rita"}
Run = Callable[..., Done]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command_line(monkeypatch, capsys)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_policies(tmp_path)
    return tmp_path


@pytest.fixture
def run(command: Command, folder: Path) -> Run:
    """Runs one test, of which these are the parts."""

    def one(expect: Any, path: str = "/own", *options: str, caller: Any = None, **request: Any):
        asked = {"host": "api.example.com", "path": path, **request}
        test = {"name": "the one", "request": asked, "as": caller, "expect": expect}
        (folder / "a.test.yaml").write_text(json.dumps({"tests": [test]}, indent=1))
        return command("test", folder, *options)

    return one


# --- callers


@pytest.mark.parametrize(
    ("caller", "principal"),
    [
        (None, "anonymous"),
        (JWT, "jwt:rita"),
        ({**JWT, "issuer": "rsa"}, "jwt:rsa/rita"),
        ({**JWT, "issuer": "edwards"}, "jwt:ed/rita"),
        ({**JWT, "kind": "opaque", "issuer": "opaque"}, "opaque:opaque/rita"),
        ({"kind": "key", "name": "batch"}, "key:batch"),
        ({"kind": "spiffe", "id": "spiffe://cluster.local/web"}, "spiffe://cluster.local/web"),
        ({"kind": "cert", "name": "web.example.com"}, "cert:web.example.com"),
    ],
)
def test_each_kind_of_caller_is_identified_as_in_the_service(run: Run, caller, principal):
    done = run({"allowed": True, "principal": principal}, "/open", caller=caller)
    assert (done.status, done.output) == (0, "1 passed, 0 failed\n")


@pytest.mark.parametrize(
    "caller", [JWT, {**JWT, "issuer": "rsa"}, {**JWT, "kind": "opaque", "issuer": "opaque"}]
)
def test_what_a_token_brings_stands_where_its_issuer_has_it(run: Run, caller):
    brought = {"roles": ["a", "b"], "scopes": ["read", "write"], "groups": ["staff"]}
    headers = {"x-roles": "a,b", "x-scopes": "read,write", "x-groups": "staff"}
    assert run({"headers": headers}, caller={**caller, **brought}).output.startswith("1 passed")


def test_what_a_key_brings_and_whose_it_is_counts(run: Run):
    caller = {"kind": "key", "name": "batch", "roles": ["a"], "scopes": ["s"], "groups": ["g"]}
    headers = {"x-roles": "a", "x-scopes": "s", "x-groups": "g", "x-api-key": None}
    assert run({"headers": headers}, caller=caller).status == 0
    theirs = {**caller, "namespace": "tenant"}
    assert run({"reason": "invalid_api_key"}, caller=theirs).status == 0
    expected = {"allowed": True, "policy": "tenant/api"}
    assert run(expected, "/x", caller=theirs, host="tenant.example.com").status == 0


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": 1}, "expired"),
        ({"exp": None}, "invalid_claims"),
        ({"aud": "others"}, "wrong_audience"),
        ({"sub": None}, "invalid_subject"),
        ({"nbf": 9_999_999_999}, "not_yet_valid"),
        ({"iss": "https://evil.example.com"}, "unknown_issuer"),
    ],
)
def test_a_token_goes_through_the_issuers_real_checks(run: Run, claims, reason):
    assert run({"reason": reason}, caller={**JWT, "claims": claims}).status == 0


def test_an_opaque_token_may_be_inactive(run: Run):
    caller = {**JWT, "kind": "opaque", "issuer": "opaque", "claims": {"active": False}}
    assert run({"reason": "inactive_token"}, caller=caller).status == 0


@pytest.mark.parametrize(
    ("source", "request_part"),
    [
        (None, {"headers": {"cookie": "theme=dark"}}),
        ({"cookie": "session"}, {}),
        ({"query": "token"}, {"path": "/own?a=1"}),
    ],
)
def test_a_credential_stands_where_the_test_or_the_policy_says(run: Run, source, request_part):
    caller = JWT if source is None else {**JWT, "source": source}
    expect = {"principal": "jwt:rita", "query": {"token": None, "tenant": "t"}}
    assert run(expect, **{"path": "/own", "caller": caller, **request_part}).status == 0


def test_a_credential_in_the_wrong_place_is_none(run: Run):
    caller = {**JWT, "source": {"header": "authorization", "scheme": "Bearer"}}
    # There the opaque issuer's tokens stand, and nobody answers about this one.
    assert run({"reason": "issuer_unavailable", "status": 503}, caller=caller).status == 0
    caller = {**JWT, "source": {"header": "x-elsewhere"}}
    assert run({"reason": "missing_credential"}, caller=caller).status == 0


def test_a_credential_that_the_request_brings_itself_is_judged(run: Run):
    headers = {"x-api-key": "mwk_nobody"}
    assert run({"reason": "invalid_api_key"}, headers=headers).status == 0
    assert run({"reason": "multiple_credentials"}, headers=headers, caller=JWT).status == 0


def test_hosts_without_a_policy_or_a_way_like_it_get_the_credential_all_the_same(run: Run):
    for caller in (JWT, {"kind": "key", "name": "k"}):
        expected = {"reason": "no_policy_for_host"}
        assert run(expected, caller=caller, host="nowhere.example.com").status == 0
    assert run({"status": 401}, caller=JWT, host="tenant.example.com").status == 0


# --- expectations


def test_everything_that_can_be_expected_can_be_met(run: Run):
    allowed = {
        "allowed": True, "status": 200, "reason": "allowed", "policy": "api", "rule": "own",
        "principal": "jwt:rita",
        "headers": {"X-Subject": "rita", "x-list": "theirs,ours", "cookie": None},
        "query": {"tenant": "t", "debug": None, "a": "1"},
        "identity_token": {"sub": "jwt:rita", "plan": "gold", "absent": None},
        "response_headers": {"X-Served": "yes", "x-absent": None},
        "metadata": {"path": "/own", "absent": None},
    }  # fmt: skip
    caller = {**JWT, "claims": {"plan": "gold"}}
    done = run(allowed, "/own?a=1&debug=1", caller=caller, headers={"x-list": "theirs"})
    assert done.output == "1 passed, 0 failed\n"
    denied = {
        "allowed": False, "status": 403, "reason": "no_rule_allows", "rule": None,
        "shown": {
            "status": 404,
            "headers": {"x-why": "no_rule_allows", "content-type": "application/problem+json"},
            "body_contains": "no rule allows",
        },
    }  # fmt: skip
    assert run(denied, "/nothing", caller=JWT).output == "1 passed, 0 failed\n"


@pytest.mark.parametrize(
    ("expect", "told"),
    [
        ({"allowed": False}, "allowed: expected false, got true"),
        ({"status": 403}, "status: expected 403, got 200"),
        ({"reason": "expired"}, "reason: expected expired, got allowed"),
        ({"policy": "other"}, "policy: expected other, got api"),
        ({"rule": None}, "rule: expected none, got own"),
        ({"principal": "jwt:otto"}, "principal: expected jwt:otto, got jwt:rita"),
        ({"headers": {"x-subject": "otto"}}, "headers.x-subject: expected otto, got rita"),
        ({"headers": {"x-subject": None}}, "headers.x-subject: expected none, got rita"),
        ({"headers": {"x-absent": "a"}}, "headers.x-absent: expected a, got none"),
        ({"query": {"tenant": None}}, "query.tenant: expected none, got t"),
        ({"identity_token": {"plan": "gold"}}, "identity_token.plan: expected gold, got none"),
        ({"response_headers": {"x-served": "no"}}, "response_headers.x-served: expected no, got"),
        ({"metadata": {"path": "/"}}, "metadata.path: expected /, got /own"),
        ({"shown": {"status": 403}}, "shown: expected a denial, got the upstream's answer"),
    ],
)
def test_what_is_not_met_of_an_allowed_request_is_told(run: Run, expect, told):
    done = run(expect, caller=JWT)
    assert done.status == 1
    assert told in done.output
    assert done.output.endswith("0 passed, 1 failed\n")


@pytest.mark.parametrize(
    ("expect", "told"),
    [
        ({"allowed": True}, "allowed: expected true, got false"),
        ({"headers": {"a": None}}, "headers: expected a request that reaches the upstream, got"),
        ({"query": {"a": None}}, "query: expected a request that reaches the upstream, got"),
        ({"identity_token": {"sub": "x"}}, "identity_token: expected a token, got none"),
        ({"shown": {"status": 403}}, "shown.status: expected 403, got 404"),
        ({"shown": {"headers": {"x-why": None}}}, "shown.headers.x-why: expected none, got denied"),
        ({"shown": {"body_contains": "<p>"}}, 'shown.body_contains: expected <p>, got {"type"'),
    ],
)
def test_what_is_not_met_of_a_denied_request_is_told(run: Run, expect, told):
    done = run(expect, "/closed", caller=JWT)
    assert done.status == 1
    assert told in done.output


def test_a_failure_names_its_line_the_verdict_and_each_rule_that_was_tried(run: Run, folder: Path):
    done = run({"rule": "open"}, "/nothing", caller=JWT)
    file = folder / "a.test.yaml"
    line = file.read_text().splitlines().index('    "rule": "open"') + 1
    assert done.output.splitlines() == [
        f"{file}:3: FAILED: the one",
        f"  {file}:{line}: rule: expected open, got none",
        "  denied: no_rule_allows (no rule allows this request); policy api, principal jwt:rita",
        "    deny  not-here: does not match: paths",
        "    allow open: does not match: paths",
        "    allow own: does not match: paths",
        "    allow posted: does not match: paths",
        "    allow at-night: does not match: paths",
        "0 passed, 1 failed",
    ]
    done = run({"status": 401}, host="nowhere.example.com")
    assert "    no rule was tried\n" in done.output


def test_a_failure_shows_no_credential(run: Run):
    done = run({"headers": {"x-identity-token": "x"}}, caller=JWT)
    assert "headers.x-identity-token: expected x, got [redacted]" in done.output
    told = run({"headers": {"x-identity-token": "x"}}, "/own", "--json", caller=JWT).output
    assert "eyJ" not in told


def test_passed_tests_are_listed_when_asked_for(run: Run, folder: Path):
    done = run({"allowed": True}, "/open", "--verbose")
    file = folder / "a.test.yaml"
    assert done.output == f"{file}:3: passed: the one\n1 passed, 0 failed\n"


def test_programs_get_one_json_value(run: Run, folder: Path):
    value = run({"rule": "open"}, "/own", "--json", caller=JWT).value
    assert (value["passed"], value["failed"]) == (0, 1)
    (test,) = value["tests"]
    assert (test["name"], test["line"], test["passed"]) == ("the one", 3, False)
    (failure,) = test["failures"]
    assert (failure["what"], failure["expected"], failure["came"]) == ("rule", "open", "own")
    assert test["verdict"]["rule"] == "own"
    assert [step["rule"] for step in test["steps"] if step.get("matches")] == ["own"]


# --- requests, times and defaults


def test_bodies_and_the_connection_are_as_in_a_request_of_explain(run: Run):
    sent = {"headers": {"content-type": "application/json"}, "method": "POST"}
    assert run({"rule": "posted"}, "/posted", body='{"item": "tea"}', **sent).status == 0
    assert run({"allowed": False}, "/posted", body='{"item": "rum"}', **sent).status == 0
    shown = {"source_principal": "spiffe://cluster.local/web"}
    assert run({"principal": "spiffe://cluster.local/web"}, **shown).status == 0


def test_a_document_gives_its_tests_their_time_request_and_caller(command: Command, folder: Path):
    (folder / "below").mkdir()
    (folder / "below" / "b.test.yml").write_text("""
now: 2026-03-02T23:00:00Z
request: {host: api.example.com, path: /night, headers: {X-List: theirs, x-a: "1"}}
as: {kind: jwt, issuer: main, subject: rita}
tests:
  - {name: default, expect: {rule: at-night, principal: "jwt:rita"}}
  - {name: own time, now: 2026-03-02T12:00:00+01:00, expect: {allowed: false}}
  - {name: own caller, as: {kind: key, name: k}, expect: {principal: "key:k"}}
  - {name: nobody, as: null, expect: {principal: anonymous}}
  - {name: own headers, request: {headers: {x-list: mine}},
     expect: {headers: {x-list: "mine,ours", x-a: "1"}}}
---
tests:
  - {name: a second document, request: {host: api.example.com, path: /open}, expect: {rule: open}}
""")
    done = command("test", folder)
    assert done.output == "6 passed, 0 failed\n"


# --- what Kubernetes is asked

REVIEWED = """
apiVersion: meshwarden.io/v1alpha1
kind: AccessPolicy
metadata: {name: reviewed}
spec:
  hosts: [reviewed.example.com]
  identify: [{kubernetesToken: {audiences: [orders]}}]
  rules:
  - {name: shop, paths: [/shop], groups: ["system:serviceaccounts:shop"]}
  - name: may-get
    paths: ["/{team}/orders/{order}"]
    kubernetesAccess: {verb: get, resource: orders, namespace: "{team}", name: "{order}"}
"""
REVIEWED_TESTS = """
request: {host: reviewed.example.com, path: /a/orders/7}
as: {kind: kubernetes, user: "system:serviceaccount:shop:web"}
kubernetesAllows: [{verb: get, resource: orders, namespace: a, name: "7"}]
tests:
  - {name: granted, expect: {rule: may-get, principal: "kubernetes:system:serviceaccount:shop:web"}}
  - {name: another order, request: {path: /a/orders/8}, expect: {reason: no_rule_allows}}
  - {name: nothing, kubernetesAllows: [], expect: {reason: no_rule_allows}}
  - {name: away, kubernetesAllows: null, expect: {reason: kubernetes_unavailable, status: 503}}
  - {name: its groups, request: {path: /shop}, expect: {rule: shop}}
  - {name: own groups, request: {path: /shop}, as: {kind: kubernetes, user: rita, groups: []},
     expect: {principal: "kubernetes:rita", allowed: false}}
  - {name: no groups, request: {path: /shop}, as: {kind: kubernetes, user: rita},
     expect: {allowed: false}}
  - {name: elsewhere, request: {host: api.example.com, path: /own}, expect: {allowed: false}}
"""


def test_a_test_says_what_kubernetes_would_answer(command: Command, folder: Path):
    (folder / "reviewed.yaml").write_text(REVIEWED)
    (folder / "reviewed.test.yaml").write_text(REVIEWED_TESTS)
    done = command("test", folder)
    assert (done.status, done.output) == (0, "8 passed, 0 failed\n")


def test_explain_says_what_is_not_known_offline(command: Command, folder: Path):
    (folder / "reviewed.yaml").write_text(REVIEWED)
    asked = {"host": "reviewed.example.com", "headers": {"authorization": "Bearer abc"}}
    done = command(
        "explain",
        "-",
        "--config",
        folder,
        "--state",
        folder / "none",
        stdin=json.dumps(asked).encode(),
    )
    assert done.status == 1
    assert "needs   TokenReviewLookup: the service asks; here it is not known" in done.output
