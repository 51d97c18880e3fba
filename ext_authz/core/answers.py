"""A denial as the caller reads it: problem details (RFC 9457), with the reason as a member."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus

from ext_authz.core.model import Request, Verdict

PROBLEM_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Shown:
    """What the caller of a denied request sees."""

    status: int
    headers: Mapping[str, str]
    body: str


def is_grpc(request: Request) -> bool:
    """Whether the caller speaks gRPC, as Envoy tells: gRPC-Web is something else."""
    content_type = request.headers.get("content-type", "")
    return content_type == "application/grpc" or content_type.startswith("application/grpc+")


def qualified_principal(verdict: Verdict) -> str:
    """The principal as metadata tells it, with its namespace where the policy is a namespace's:
    limits by principal must not span namespaces.
    """
    namespace, separator, _ = verdict.policy.rpartition("/")
    return f"{namespace}{separator}{verdict.principal.name}"


def shown(verdict: Verdict, *, to_grpc: bool = False) -> Shown:
    """How a denial is shown: as the policy says, else as problem details.

    Of a denial Envoy makes a gRPC status where the request is gRPC, its body the message: for
    `to_grpc` that is words and no JSON.
    """
    part = verdict.denial
    headers = {"content-type": PROBLEM_TYPE, "cache-control": "no-store"}
    if verdict.challenges:
        # One line for all: Envoy drops headers that are to be appended to a denial.
        headers["www-authenticate"] = ", ".join(verdict.challenges)
    if verdict.status in (429, 503):
        headers["retry-after"] = "1"
    if to_grpc:
        body = f"{verdict.reason}: {verdict.detail}"
    elif part is None or part.body is None:
        body = problem_body(verdict)
    else:
        body = part.body
        headers["content-type"] = part.content_type
    if part is not None:
        headers |= dict(part.headers)
    kept = {name: value for name, value in headers.items() if value}
    return Shown(verdict.status if part is None else part.status, kept, body)


def problem_body(verdict: Verdict) -> str:
    """The body of a denial: `type`, `title`, `status`, `detail`, `reason`. Holds nothing of the
    request.
    """
    return _problem_body(verdict.status, str(verdict.reason), verdict.detail)


@lru_cache(maxsize=512)
def _problem_body(status: int, reason: str, detail: str) -> str:
    return json.dumps(
        {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
            "reason": reason,
        }
    )
