"""A denial as the caller reads it: problem details (RFC 9457), with the reason as a member."""

from __future__ import annotations

import json
from functools import lru_cache
from http import HTTPStatus

from ext_authz.core.model import Verdict

PROBLEM_TYPE = "application/problem+json"


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
