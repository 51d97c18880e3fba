"""What Kubernetes says of a token and of a caller's access: believed, remembered, and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ext_authz.core.compile import Options, compile_policies
from ext_authz.core.explain import explain
from ext_authz.core.failure_budget import FailureBudget
from ext_authz.core.kubernetes_access import Access
from ext_authz.core.lookups import (
    FAILED,
    AccessAttributes,
    AccessReviewLookup,
    Answers,
    TokenReviewLookup,
)
from ext_authz.core.model import Kind, Principal, Reason, Request, Verdict
from ext_authz.core.review_memory import ReviewBounds, ReviewMemory
from ext_authz.core.revocations import Revocation, Revocations
from meshwarden.core.faults import InvalidInput
from meshwarden.core.snapshot import Bundle
from tests.support.check_requests import HOST, Authorizer, access_policy, configured
from tests.support.tokens import NOW, ec_signer

WEB = "system:serviceaccount:shop:web"
GROUPS = ["system:authenticated", "system:serviceaccounts", "system:serviceaccounts:shop"]
SAID = {
    "authenticated": True,
    "audiences": ["orders"],
    "user": {
        "username": WEB,
        "uid": "7",
        "groups": GROUPS,
        "extra": {"authentication.kubernetes.io/pod-name": ["web-1"]},
    },
}
WAYS = [{"kubernetesToken": {"audiences": ["orders"]}}]
ANY = {"name": "any"}
MAY_GET = {
    "name": "may-get",
    "paths": ["/{team}/orders/{order}"],
    "kubernetesAccess": {
        **{"verb": "get", "group": "shop.example.com", "resource": "orders"},
        **{"namespace": "{team}", "name": "{order}"},
    },
}
YES, NO = {"allowed": True}, {"allowed": False}


def authorizer(*rules: Any, **spec: Any) -> Authorizer:
    return Authorizer(access_policy(*(rules or (ANY,)), **{"identify": WAYS, **spec}))


def ask(
    made: Authorizer, target: str = "/a/orders/7", *said: Any, token: str = "opaque", **options: Any
) -> Verdict:
    """The verdict; `said` answers the questions that are asked, one after the other."""
    answers: dict[Any, Any] = {}
    verdict = made.ask(target, token=token, **options)
    for answer in said:
        assert verdict.lookup is not None, verdict
        answers[verdict.lookup] = answer
        verdict = made.ask(target, token=token, answers=answers, **options)
    return verdict


def own_token(**changes: Any) -> str:
    """A ServiceAccount's token, but for who signed it: that, Kubernetes alone judges."""
    return ec_signer().token({"aud": ["orders"], "sub": WEB, "exp": NOW + 600, **changes})


# --- whose token it is


def test_a_token_is_reviewed_once_and_names_its_user_and_groups():
    made = authorizer({"name": "web", "principals": [f"kubernetes:{WEB}"], "groups": GROUPS[2:]})
    assert ask(made).lookup == TokenReviewLookup("opaque", ("orders",))
    verdict = ask(made, "/", SAID)
    assert (verdict.rule, verdict.principal.name) == ("web", f"kubernetes:{WEB}")
    assert verdict.principal.groups == frozenset(GROUPS)
    assert verdict.principal.claims["extra"] == {"authentication.kubernetes.io/pod-name": ["web-1"]}
    assert ask(made).is_allowed
    assert "opaque" not in repr(ask(made, token="opaque2").lookup)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"authenticated": False, "error": "invalid bearer token"}, Reason.REFUSED_TOKEN),
        ({"authenticated": "true"}, Reason.REFUSED_TOKEN),
        ({"audiences": []}, Reason.WRONG_AUDIENCE),
        ({"audiences": None}, Reason.WRONG_AUDIENCE),
        ({"audiences": ["https://kubernetes.default.svc"]}, Reason.WRONG_AUDIENCE),
        ({"audiences": ["orders", "x"]}, Reason.ALLOWED),
        ({"user": None}, Reason.INVALID_SUBJECT),
        ({"user": {"username": ""}}, Reason.INVALID_SUBJECT),
        ({"user": {"username": "a\nb"}}, Reason.INVALID_SUBJECT),
        ({"user": {"username": "a", "groups": ["x,y"]}}, Reason.INVALID_CLAIMS),
        (
            {"user": {"username": "a", "groups": [str(n) for n in range(201)]}},
            Reason.INVALID_CLAIMS,
        ),
        ({"user": {"username": "a"}}, Reason.ALLOWED),
    ],
)
def test_what_kubernetes_says_is_judged_strictly(changes, reason):
    """A review without one of our audiences is of a token for the API server."""
    verdict = ask(authorizer(), "/", {**SAID, **changes})
    assert verdict.reason is reason


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (own_token(exp=NOW), Reason.EXPIRED),
        (own_token(exp="soon"), Reason.EXPIRED),
        (own_token(aud=["https://kubernetes.default.svc"]), Reason.WRONG_AUDIENCE),
        (own_token(aud="others"), Reason.WRONG_AUDIENCE),
        ("a b", Reason.MALFORMED_TOKEN),
        ("x" * 9000, Reason.TOKEN_TOO_LARGE),
    ],
)
def test_what_refuses_itself_is_never_sent_to_kubernetes(token, reason):
    verdict = ask(authorizer(), token=token)
    assert (verdict.reason, verdict.lookup) == (reason, None)


def test_nothing_that_a_token_says_itself_lets_it_in():
    assert ask(authorizer(), "/", NO, token=own_token()).reason is Reason.REFUSED_TOKEN


@pytest.mark.parametrize(("exp", "until"), [(NOW + 600, NOW + 60), (NOW + 20, NOW + 20)])
def test_a_good_token_is_believed_for_a_minute_and_never_past_its_end(exp, until):
    made, token = authorizer(), own_token(exp=exp)
    assert ask(made, "/", SAID, token=token).is_allowed
    made.now = until - 0.1
    assert ask(made, token=token).is_allowed
    made.now = until
    assert not ask(made, token=token).is_allowed


def test_a_refused_token_is_remembered_for_less_and_no_answer_by_nobody():
    made = authorizer()
    failed = ask(made, "/", FAILED)
    assert (failed.reason, failed.status) == (Reason.KUBERNETES_UNAVAILABLE, 503)
    assert ask(made, "/", NO).reason is Reason.REFUSED_TOKEN
    made.now = NOW + 4.9
    assert ask(made).lookup is None
    made.now = NOW + 5
    assert ask(made).lookup is not None


def test_a_token_that_was_reviewed_for_others_is_asked_about_again():
    made = authorizer()
    assert ask(made, "/", SAID).is_allowed
    made.configure(access_policy(ANY, identify=[{"kubernetesToken": {"audiences": ["billing"]}}]))
    assert ask(made).lookup == TokenReviewLookup("opaque", ("billing",))


@pytest.mark.parametrize(
    ("way", "status", "is_fault"),
    [("deny", 503, False), ("fault", 503, True), ("skip", 503, False)],
)
def test_no_answer_is_told_as_the_policy_says(way, status, is_fault):
    made = authorizer(identify=[{**WAYS[0], "onUnavailable": way}])
    verdict = ask(made, "/", FAILED)
    assert (verdict.status, verdict.is_fault, verdict.is_allowed) == (status, is_fault, False)


def test_a_flood_of_wrong_tokens_stops_being_asked_about():
    made = authorizer()
    made.keys.budget = FailureBudget(at_once=2, per_second=0.1)
    assert [ask(made, "/", NO, token=f"t{n}").status for n in (1, 2)] == [401, 401]
    assert ask(made, token="t3").reason is Reason.TOO_MANY_FAILURES


def test_a_workloads_token_can_be_revoked_by_its_jti():
    made, token = authorizer(), own_token(iss="https://cluster", jti="x")
    assert ask(made, "/", SAID, token=token).is_allowed
    record = Revocation(id="a", issuer="https://cluster", jti="x", expires_at=NOW)
    made.keys.revocations = Revocations([record])
    assert ask(made, token=token).reason is Reason.REVOKED


# --- what it may


def question(name: str = "7", namespace: str = "a") -> AccessReviewLookup:
    attributes = AccessAttributes("get", "shop.example.com", "orders", "", namespace, name)
    return AccessReviewLookup(WEB, tuple(GROUPS), attributes)


def test_access_is_asked_with_the_paths_variables_and_remembered():
    made = authorizer(MAY_GET)
    assert ask(made, "/a/orders/7", SAID).lookup == question()
    assert ask(made, "/a/orders/7", YES).rule == "may-get"
    assert ask(made, "/a/orders/7").is_allowed
    assert ask(made, "/b/orders/7", NO).reason is Reason.NO_RULE_ALLOWS
    made.now = NOW + 9.9
    assert ask(made, "/b/orders/7").lookup is None
    made.now = NOW + 10
    assert ask(made, "/b/orders/7").lookup == question(namespace="b")
    made.now = NOW + 59.9
    assert ask(made, "/a/orders/7").is_allowed
    made.now = NOW + 60
    assert ask(made, "/a/orders/7", SAID).lookup == question()


@pytest.mark.parametrize(
    "path", ["/A/orders/7", "/-a/orders/7", "/a/orders/7+8", "/a/orders/%C3%A4"]
)
def test_a_variable_that_can_be_no_name_is_never_asked_about(path):
    """An empty one would mean all of them. No path walks round a rule that denies."""
    assert ask(authorizer(MAY_GET), path, SAID).reason is Reason.NO_RULE_ALLOWS
    made = authorizer({**MAY_GET, "effect": "deny"}, ANY)
    assert ask(made, path, SAID).reason is Reason.CONDITION_FAILED


def test_kubernetes_is_asked_only_when_all_else_holds():
    held = {**MAY_GET, "methods": ["GET"], "when": "request.path_variables.team == 'a'"}
    made = authorizer(held, {**ANY, "roles": []})
    assert ask(made, "/b/orders/7", SAID).rule == "any"
    assert ask(made, "/a/orders/7", method="POST").rule == "any"
    assert ask(made, "/a/orders/7", token="").reason is Reason.MISSING_CREDENTIAL


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (FAILED, Reason.KUBERNETES_UNAVAILABLE),
        ({"allowed": False, "evaluationError": "webhook"}, Reason.KUBERNETES_UNAVAILABLE),
        ({"allowed": "true"}, Reason.KUBERNETES_UNAVAILABLE),
        ({"allowed": True, "evaluationError": "one of two"}, Reason.ALLOWED),
        (NO, Reason.NO_RULE_ALLOWS),
    ],
)
def test_only_a_clear_yes_allows(answer, reason):
    made = authorizer(MAY_GET)
    verdict = ask(made, "/a/orders/7", SAID, answer)
    assert (verdict.reason, verdict.is_allowed) == (reason, reason is Reason.ALLOWED)
    if reason is Reason.KUBERNETES_UNAVAILABLE:
        assert (verdict.status, verdict.rule) == (503, "may-get")
        assert ask(made, "/a/orders/7").lookup is not None, "it is remembered by nobody"


def test_no_answer_leaves_it_to_other_rules_and_a_deny_rule_denies():
    other = {"name": "other", "groups": GROUPS[:1]}
    assert ask(authorizer(MAY_GET, other), "/a/orders/7", SAID, FAILED).rule == "other"
    closed = {**MAY_GET, "effect": "deny"}
    made = authorizer(closed, other)
    verdict = ask(made, "/a/orders/7", SAID, FAILED)
    assert (verdict.rule, verdict.reason) == ("may-get", Reason.KUBERNETES_UNAVAILABLE)
    assert ask(made, "/a/orders/7", YES).reason is Reason.DENIED_BY_RULE
    assert ask(made, "/a/orders/8", NO).rule == "other"


def test_no_answer_is_a_fault_where_the_rule_says_so():
    asked = {**MAY_GET["kubernetesAccess"], "onUnavailable": "fault"}
    verdict = ask(authorizer({**MAY_GET, "kubernetesAccess": asked}), "/a/orders/7", SAID, FAILED)
    assert (verdict.is_fault, verdict.status) == (True, 503)


def test_questions_that_come_out_as_no_are_bounded():
    made = authorizer(MAY_GET)
    assert ask(made, "/a/orders/0", SAID, YES).is_allowed
    made.keys.budget = FailureBudget(at_once=2, per_second=0.1)
    assert [ask(made, f"/a/orders/{n}", NO).status for n in (1, 2)] == [403, 403]
    verdict = ask(made, "/a/orders/3")
    assert (verdict.reason, verdict.status) == (Reason.TOO_MANY_FAILURES, 429)
    assert ask(made, "/a/orders/0").is_allowed


def test_who_may_be_asked_about_is_said_by_the_rule():
    """A group of a token's must not become a group of the cluster's."""
    plain = {"verb": "get", "resource": "pods"}
    mapped = {**plain, "trustDomains": ["cluster.local"], "userPrefix": "mesh:"}
    way = [{"spiffe": {"trustDomains": ["cluster.local", "other"]}, "onInvalid": "skip"}]

    def lookup(access: dict[str, Any], principal: str) -> Any:
        made = authorizer({**ANY, "kubernetesAccess": access}, identify=way)
        found = made.decide(Request("GET", HOST, "/", {}, source_principal=principal)).lookup
        return (found.user, found.groups) if isinstance(found, AccessReviewLookup) else found

    workload = "spiffe://cluster.local/ns/shop/sa/web"
    assert lookup(plain, workload) is None
    assert lookup(mapped, workload) == (WEB, tuple(GROUPS))
    other = "spiffe://other/ns/shop/sa/web"
    assert lookup(mapped, other) == (f"mesh:{other}", ())
    odd = "spiffe://cluster.local/ns/shop/sa/web/x"
    assert lookup(mapped, odd) == (f"mesh:{odd}", ())


@pytest.mark.parametrize("prefix", ["mesh:", ""])
def test_what_an_issuer_writes_is_no_user_or_group_of_the_cluster(prefix):
    access = Access(AccessAttributes("get", resource="pods"), user_prefix=prefix)
    rita = Principal(Kind.JWT, "system:admin", groups=frozenset({"system:masters"}))
    found = access.question(rita, {})
    if not prefix:
        assert found is None
    else:
        assert found is not None
        assert (found.user, found.groups) == ("mesh:jwt:system:admin", ("mesh:system:masters",))


def test_a_path_of_the_api_server_can_be_asked_about():
    rule = {
        **{"name": "x", "paths": ["/at/{place}"]},
        "kubernetesAccess": {"verb": "get", "nonResourcePath": "/meshwarden/{place}"},
    }
    found = ask(authorizer(rule), "/at/home", SAID).lookup
    assert isinstance(found, AccessReviewLookup)
    assert str(found.attributes) == "get /meshwarden/home"


def test_what_is_remembered_is_bounded_and_bad_answers_push_out_no_good_one():
    memory = ReviewMemory(ReviewBounds(entries_at_most=3))
    memory.remember_access(question("good"), is_allowed=True, now=NOW)
    for number in range(9):
        memory.remember_access(question(str(number)), is_allowed=False, now=NOW)
    assert (len(memory), memory.access(question("good"), NOW)) == (4, True)
    memory.remember_access(question("good"), is_allowed=False, now=NOW)
    assert memory.access(question("good"), NOW) is False


# --- configuration, and explaining


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (
            access_policy(
                ANY,
                identify=[{"kubernetesToken": {"audiences": ["https://kubernetes.default.svc"]}}],
            ),
            "is the API server's own audience",
        ),
        (access_policy(ANY, identify=[{"kubernetesToken": {}}]), "audiences' is missing"),
        (access_policy({**MAY_GET, "paths": []}, identify=WAYS), "has a segment '{order}'"),
        (access_policy({**MAY_GET, "callers": "anyone"}, identify=WAYS), "an identified caller"),
        (
            access_policy({**ANY, "kubernetesAccess": {"verb": "get"}}, identify=WAYS),
            "exactly one of resource, nonResourcePath",
        ),
        (
            access_policy(
                {**ANY, "kubernetesAccess": {"verb": "get", "nonResourcePath": "/x", "name": "y"}},
                identify=WAYS,
            ),
            "a nonResourcePath has no group",
        ),
        (
            access_policy(
                {
                    **ANY,
                    "kubernetesAccess": {
                        **{"verb": "get", "resource": "x"},
                        "userPrefix": "system:",
                    },
                },
                identify=WAYS,
            ),
            "can't begin with 'system:'",
        ),
    ],
)
def test_a_configuration_that_would_let_in_or_never_match_is_refused(policy, told):
    with pytest.raises(InvalidInput, match=told.replace("{", r"\{")):
        configured(policy)


def test_a_service_that_can_not_ask_refuses_policies_that_need_it():
    content = json.dumps(access_policy(MAY_GET, identify=WAYS)).encode()
    with pytest.raises(InvalidInput) as caught:
        compile_policies(Bundle({"p.yaml": content}), Options())
    told = [problem for problem in caught.value.problems if "ask Kubernetes" in problem.what]
    assert len(told) == 2


def test_an_explanation_says_what_would_be_asked():
    made = authorizer(MAY_GET)
    request = Request("GET", HOST, "/a/orders/7", {"authorization": "Bearer opaque"})
    lookup = TokenReviewLookup("opaque", ("orders",))

    def told(answers: Answers) -> dict[str, Any]:
        return explain(request, made.policies, made.keys, made.now, answers)

    assert told({})["verdict"]["needs"] == "TokenReviewLookup"
    found = told({lookup: SAID})
    assert found["verdict"]["needs"] == "AccessReviewLookup"
    asks = f"whether {WEB} may get orders.shop.example.com/7 in a"
    assert found["steps"][-1]["asks"] == asks
    below = replace(question().attributes, subresource="status", name="")
    assert str(below) == "get orders.shop.example.com subresource status in a"
