"""The decision: who is calling, and may they.

    decide(request, policies, keys, now) -> Verdict

    host -> policy -> path in its one form -> caller -> deny rules -> allow rules -> verdict

Deny overrides: one deny rule that matches, or whose condition fails, denies. A condition that fails
in an allow rule makes that rule not match. Kubernetes is asked about a rule's caller last, when all
else holds; where it does not answer, a deny rule denies, and an allow rule leaves it to the others.
Nothing that allows: denied, 401 for an unknown caller and 403 for a known one. `decide` awaits
nothing, locks nothing, reads no clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from ext_authz.core import carrying
from ext_authz.core.access_review import review
from ext_authz.core.addresses import covers
from ext_authz.core.facts import Facts
from ext_authz.core.hosts import normalized_host
from ext_authz.core.identify import identify
from ext_authz.core.keys import Keys
from ext_authz.core.known import NO_ANSWERS, Known
from ext_authz.core.kubernetes_access import Access
from ext_authz.core.lookups import Answers
from ext_authz.core.model import (
    Reason,
    Request,
    Unidentified,
    Verdict,
)
from ext_authz.core.paths import InvalidPath, normalized, split_target
from ext_authz.core.policies import CompiledRule, Policy, PolicySet
from ext_authz.core.variables import values_for


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one rule stands to the request: `unmet` names the first thing that does not hold, empty
    when all do. `open`: the denial that holds as long as it is not known whether the rule matches.
    """

    unmet: str = ""
    has_failed: bool = False
    open: Verdict | None = None

    @property
    def matches(self) -> bool:
        return not self.unmet


_MATCH = Outcome()
_WHEN_FAILED = Outcome("when", has_failed=True)
_QUERY_FAILED = Outcome("query", has_failed=True)
_ACCESS_FAILED = Outcome("kubernetesAccess", has_failed=True)


@cache
def _unmet(name: str) -> Outcome:
    return Outcome(name)


def examine(rule: CompiledRule, facts: Facts) -> Outcome:
    """Hold one rule against the request, the cheapest questions first."""
    if rule.methods and facts.method not in rule.methods:
        return _unmet("methods")
    pattern = None
    if rule.patterns:
        pattern = next((found for found in rule.patterns if found.matches(facts.path)), None)
        if pattern is None:
            return _unmet("paths")
    unmet = _first_unmet_of_caller(rule, facts) or _first_unmet_of_request(rule, facts)
    if unmet:
        return _unmet(unmet)
    if rule.query:
        outcome = _examine_query(rule, facts)
        if outcome is not _MATCH:
            return outcome
    if rule.condition is None and rule.access is None:
        return _MATCH
    variables = pattern.variables(facts.path) if pattern is not None and pattern.names else {}
    if rule.condition is not None:
        result = rule.condition.holds(values_for(rule.condition, facts, variables))
        if result is None:
            return _WHEN_FAILED
        if not result:
            return _unmet("when")
    return _MATCH if rule.access is None else _examine_access(rule.access, facts, variables)


def _first_unmet_of_caller(rule: CompiledRule, facts: Facts) -> str:
    """The first thing that `rule` asks of the caller and that does not hold."""
    if not (rule.is_for_anyone or facts.is_identified):
        return "callers"
    if rule.roles and rule.roles.isdisjoint(facts.roles):
        return "roles"
    if rule.permissions and not rule.permissions <= facts.permissions:
        return "permissions"
    if not rule.scopes <= facts.principal.scopes:
        return "scopes"
    if rule.groups and rule.groups.isdisjoint(facts.principal.groups):
        return "groups"
    if rule.principals and facts.principal.name not in rule.principals:
        return "principals"
    return ""


def _first_unmet_of_request(rule: CompiledRule, facts: Facts) -> str:
    """The first thing that `rule` asks of the request, besides its method, path, query and
    condition, and that does not hold.
    """
    for name, values in rule.headers:
        given = facts.request.headers.get(name)
        if given is None or not _is_met([given], values, rule):
            parts = [] if given is None else [part.strip() for part in given.split(",")]
            if not _is_met(parts, values, rule):
                return "headers"
    if rule.grpc:
        service, method = facts.grpc
        wanted = rule.grpc
        if not service or ((service, method) not in wanted and (service, "") not in wanted):
            return "grpc"
    if rule.client_networks and not covers(rule.client_networks, facts.client_address):
        return "clientAddresses"
    if rule.times and not any(window.covers(facts.now) for window in rule.times):
        return "times"
    return ""


def _examine_query(rule: CompiledRule, facts: Facts) -> Outcome:
    try:
        parameters = facts.query_parameters
    except ValueError:
        return _QUERY_FAILED
    is_met = all(_is_met(parameters.get(name, []), values, rule) for name, values in rule.query)
    return _MATCH if is_met else _unmet("query")


def _examine_access(access: Access, facts: Facts, variables: Mapping[str, str]) -> Outcome:
    try:
        question = access.question(facts.principal, variables)
    except ValueError:
        return _ACCESS_FAILED
    if question is None or facts.known is None:
        return _unmet("kubernetesAccess")
    found = review(access, question, facts.known)
    if isinstance(found, Verdict):
        return Outcome("kubernetesAccess", open=found)
    return _MATCH if found else _unmet("kubernetesAccess")


def _is_met(given: Sequence[str], wanted: frozenset[str], rule: CompiledRule) -> bool:
    """Whether values that were sent are those that a rule names. Which of several the upstream
    reads nobody knows: all of them must be named to allow, and one is enough to deny.
    """
    if rule.is_denial:
        return not wanted.isdisjoint(given)
    return bool(given) and wanted.issuperset(given)


def decide(
    request: Request,
    policies: PolicySet,
    keys: Keys,
    now: float,
    answers: Answers = NO_ANSWERS,
) -> Verdict:
    """The verdict over one request. `now`: seconds since the epoch. `answers` to what an earlier
    verdict over it lacked. Never raises for any request.
    """
    if (request.header_count or len(request.headers)) > policies.headers_at_most:
        told = f"there are more than {policies.headers_at_most} header lines, the proxy's included"
        return _denied(431, Reason.TOO_MANY_HEADERS, told)
    host = normalized_host(request.host)
    if not host:
        return _denied(403, Reason.INVALID_HOST, "the host is not one name or address")
    policy = policies.policies.find(host)
    if policy is None:
        return _denied(403, Reason.NO_POLICY_FOR_HOST, "no policy covers this host")
    raw_path, query = split_target(request.target)
    path = normalized(raw_path)
    if isinstance(path, InvalidPath):
        return replace(
            _denied(403, Reason.INVALID_PATH, f"the path {path.why}"), policy=policy.name
        )
    known = Known(policy, keys, now, answers, policy.client_address(request))
    identity = identify(request, query, known)
    if isinstance(identity, Unidentified) and identity.lookup is not None:
        # Rules are not asked before it is known who is calling: one may deny that caller.
        return _unidentified(identity, policy, ())
    facts = Facts(request, path, query, identity=identity, policy=policy, now=now, known=known)
    return judge(facts, policy, policies, keys)


def judge(facts: Facts, policy: Policy, policies: PolicySet, keys: Keys) -> Verdict:
    """The verdict that the policy's rules come to."""
    denied = _denied_by_rule(facts, policy)
    if denied is not None:
        return carrying.denied(denied, facts, policy)
    failed: tuple[str, ...] = ()
    left_open: Verdict | None = None
    for rule in policy.allow_index.candidates(facts.path):
        outcome = examine(rule, facts)
        if outcome.matches:
            return carrying.allowed(
                facts, policy, rule, policies=policies, keys=keys, failed=failed
            )
        if outcome.has_failed:
            failed += (rule.name,)
        if outcome.open is not None:
            if outcome.open.lookup is not None:
                return _of_rule(outcome.open, rule, facts, policy)
            left_open = left_open or _of_rule(outcome.open, rule, facts, policy)
    if left_open is not None:
        denied = replace(left_open, failed_conditions=failed)
    elif isinstance(facts.identity, Unidentified) and policy.methods:
        denied = _unidentified(facts.identity, policy, failed)
    else:
        denied = replace(
            _denied(403, Reason.NO_RULE_ALLOWS, "no rule allows this request"),
            policy=policy.name,
            principal=facts.principal,
            failed_conditions=failed,
        )
    return carrying.denied(denied, facts, policy)


def _denied_by_rule(facts: Facts, policy: Policy) -> Verdict | None:
    """The denial of the first deny rule that matches, or whose condition fails."""
    for rule in policy.deny_index.candidates(facts.path):
        outcome = examine(rule, facts)
        if outcome.open is not None:
            return _of_rule(outcome.open, rule, facts, policy)
        if outcome.has_failed:
            reason, told = Reason.CONDITION_FAILED, "a deny rule's condition failed"
        elif outcome.matches:
            reason, told = Reason.DENIED_BY_RULE, "a rule denies this request"
        else:
            continue
        return replace(
            _denied(403, reason, told),
            policy=policy.name,
            rule=rule.name,
            principal=facts.principal,
            failed_conditions=(rule.name,) if outcome.has_failed else (),
        )
    return None


def _of_rule(verdict: Verdict, rule: CompiledRule, facts: Facts, policy: Policy) -> Verdict:
    return replace(verdict, policy=policy.name, rule=rule.name, principal=facts.principal)


def _denied(status: int, reason: Reason, detail: str) -> Verdict:
    return Verdict(is_allowed=False, reason=reason, status=status, detail=detail)


def _unidentified(identity: Unidentified, policy: Policy, failed: tuple[str, ...]) -> Verdict:
    """401, with a challenge for each way to identify (RFC 9110 section 11.6.1, RFC 6750 section
    3); 503 where the caller can't be identified now.
    """
    error = ""
    if identity.reason not in (Reason.MISSING_CREDENTIAL, Reason.UNSUPPORTED_SCHEME):
        error = f', error="invalid_token", error_description="{identity.detail}"'
    challenges = tuple(
        challenge + error if challenge.startswith("Bearer ") else challenge
        for challenge in policy.challenges
    )
    return Verdict(
        is_allowed=False,
        reason=identity.reason,
        status=identity.status,
        detail=identity.detail,
        policy=policy.name,
        challenges=challenges if identity.status == 401 else (),
        lookup=identity.lookup,
        is_fault=identity.is_fault,
        failed_conditions=failed,
    )
