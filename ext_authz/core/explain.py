"""Why a verdict is as it is: the same decision, step by step, as plain values to print."""

from __future__ import annotations

from typing import Any

from ext_authz.core.credentials import find_credential
from ext_authz.core.engine import decide, examine
from ext_authz.core.facts import Facts
from ext_authz.core.hosts import normalized_host
from ext_authz.core.identify import identify
from ext_authz.core.keys import Keys
from ext_authz.core.known import NO_ANSWERS, Known
from ext_authz.core.lookups import AccessReviewLookup, Answers
from ext_authz.core.model import Identified, Request, Unidentified, Verdict
from ext_authz.core.paths import InvalidPath, normalized, split_target
from ext_authz.core.policies import Policy, PolicySet
from meshwarden.core.secret import redacted_text


def explain(
    request: Request,
    policies: PolicySet,
    keys: Keys,
    now: float,
    answers: Answers = NO_ANSWERS,
) -> dict[str, Any]:
    """`verdict`, and under `steps` what each step saw. Holds no credential."""
    verdict = decide(request, policies, keys, now, answers)
    steps: list[dict[str, Any]] = []
    policy = policies.policies.find(normalized_host(request.host))
    steps.append({"step": "host", "host": request.host, "policy": policy.name if policy else None})
    if policy is not None:
        raw_path, query = split_target(request.target)
        path = normalized(raw_path)
        if isinstance(path, InvalidPath):
            steps.append({"step": "path", "refused": path.why})
        else:
            steps.append({"step": "path", "normalised": path})
            known = Known(policy, keys, now, answers, policy.client_address(request))
            identity = identify(request, query, known)
            facts = Facts(
                request, path, query, identity=identity, policy=policy, now=now, known=known
            )
            steps.append(_caller(facts, policy))
            steps.extend(_rules(facts, policy))
    return {"verdict": described(verdict), "steps": steps}


def _caller(facts: Facts, policy: Policy) -> dict[str, Any]:
    credential = find_credential(facts.request, policy, facts.query)
    found = None
    if not isinstance(credential, Unidentified):
        found = f"{credential.source.place} {credential.source.name}"
    step: dict[str, Any] = {"step": "caller", "credential": found}
    if isinstance(facts.identity, Identified):
        principal = facts.principal
        return step | {
            "principal": principal.name,
            "roles": sorted(facts.roles),
            "scopes": sorted(principal.scopes),
            "groups": sorted(principal.groups),
        }
    return step | {"reason": str(facts.identity.reason), "detail": facts.identity.detail}


def _rules(facts: Facts, policy: Policy) -> list[dict[str, Any]]:
    steps = []
    for effect, rules in (("deny", policy.deny_rules), ("allow", policy.allow_rules)):
        for rule in rules:
            outcome = examine(rule, facts)
            step: dict[str, Any] = {
                "step": "rule",
                "rule": rule.name,
                "effect": effect,
                "matches": outcome.matches,
            }
            if not outcome.matches:
                step["unmet"] = outcome.unmet + (" (failed)" if outcome.has_failed else "")
            if outcome.open is not None:
                step["unmet"] += f" ({outcome.open.detail})"
                if isinstance(asked := outcome.open.lookup, AccessReviewLookup):
                    step["asks"] = f"whether {asked.user} may {asked.attributes}"
            steps.append(step)
    return steps


def described(verdict: Verdict) -> dict[str, Any]:
    """The verdict as plain values; a token that we signed is masked."""
    told: dict[str, Any] = {
        "allowed": verdict.is_allowed,
        "status": verdict.status,
        "reason": str(verdict.reason),
        "detail": verdict.detail,
        "principal": verdict.principal.name,
        "policy": verdict.policy,
        "rule": verdict.rule,
        "needs": type(verdict.lookup).__name__ if verdict.lookup is not None else None,
        "headers": {header.name: redacted_text(header.value) for header in verdict.headers},
        "headers_to_remove": list(verdict.headers_to_remove),
        "query_parameters_to_set": dict(verdict.query_parameters_to_set),
        "query_parameters_to_remove": list(verdict.query_parameters_to_remove),
        "response_headers": {header.name: header.value for header in verdict.response_headers},
        "metadata": dict(verdict.metadata),
    }
    if verdict.denial is not None:
        told["shown"] = {
            "status": verdict.denial.status,
            "headers": dict(verdict.denial.headers),
            "body": verdict.denial.body,
        }
    return told
