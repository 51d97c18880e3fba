"""Whether Kubernetes lets a caller do what a rule asks for: remembered, answered, or to be asked.

A question whose answer is no costs the address one of its failures, so that no caller can have
Kubernetes asked without bound.
Source: authorization.k8s.io/v1 SubjectAccessReview. An `evaluationError` beside `allowed: false`
means that not every authorizer could be asked: that is no denial.
"""

from __future__ import annotations

from collections.abc import Mapping

from ext_authz.core.known import Known
from ext_authz.core.kubernetes_access import Access
from ext_authz.core.lookups import AccessReviewLookup
from ext_authz.core.model import Reason, Verdict

PENDING = "Kubernetes is asked whether the caller may"
UNAVAILABLE = "Kubernetes does not say whether the caller may"
TOO_MANY = "too many questions to Kubernetes that came out as no came from this address"


def review(access: Access, question: AccessReviewLookup, known: Known) -> bool | Verdict:
    """Whether it is allowed; else the denial that holds as long as that is not known."""
    keys, now = known.keys, known.now
    remembered = keys.reviews.access(question, now)
    if remembered is not None:
        return remembered
    if question not in known.answers:
        if not keys.budget.spend(known.address, now):
            return _denial(429, Reason.TOO_MANY_FAILURES, TOO_MANY)
        return _denial(503, Reason.PENDING, PENDING, lookup=question)
    is_allowed = _said(known.answers[question])
    if is_allowed is not False:
        keys.budget.give_back(known.address, now)
    if is_allowed is None:
        is_fault = access.is_fault_when_unavailable
        return _denial(503, Reason.KUBERNETES_UNAVAILABLE, UNAVAILABLE, is_fault=is_fault)
    keys.reviews.remember_access(question, is_allowed=is_allowed, now=now)
    return is_allowed


def _said(status: object) -> bool | None:
    """What the `status` of a SubjectAccessReview says; None where it can't be told."""
    if not isinstance(status, Mapping) or not isinstance(status.get("allowed"), bool):
        return None
    if not status["allowed"] and status.get("evaluationError"):
        return None
    return bool(status["allowed"])


def _denial(
    status: int,
    reason: Reason,
    detail: str,
    *,
    lookup: AccessReviewLookup | None = None,
    is_fault: bool = False,
) -> Verdict:
    return Verdict(
        is_allowed=False,
        reason=reason,
        status=status,
        detail=detail,
        lookup=lookup,
        is_fault=is_fault,
    )
