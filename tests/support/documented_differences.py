"""What our answer is to be where the reference answers otherwise, and we mean to.

Each function turns an answer of the reference's into what ours must be then, by a rule of
docs/explanation/ratelimit_differences.md and by no other; whatever is left is compared as it is.
"""

from __future__ import annotations

import re
from typing import Any

from tests.support.random_limits import FREE, QUOTA
from tests.support.side_by_side import Answer

SECONDS = {
    "SECOND": 1,
    "MINUTE": 60,
    "HOUR": 3600,
    "DAY": 86_400,
    "WEEK": 604_800,
    "MONTH": 2_592_000,
    "YEAR": 31_536_000,
}


UNLIMITED = re.compile(rf"\.{FREE}(_[^.]*(\.(9|y))?)?$")
"""Ends the name of an unlimited limit's statistic; values of `random_limits` have those dots."""
SPLIT_HITS = {"within_limit", "near_limit", "over_limit", "shadow_mode"}
"""Statistics that the reference works out from hits that it left out, as if they were counted."""
LEFT_ALONE = {
    # A quota that is used up is over the limit with us alone, and let through by shadow mode then.
    "SHADOW_MODE": "quotas",
    # The reference goes on refusing what it remembers when another limit comes with the request.
    "LOCAL_CACHE_SIZE_IN_BYTES": "raises",
}
"""Variable to what random requests must not do where it is set."""


def expected(theirs: Answer, *, second: int, environment: dict[str, str]) -> Answer:
    """What we must answer where the reference answered `theirs` in the second `second`."""
    if theirs.get("status") == 400:
        return {"status": 400}
    if "answer" not in theirs:
        return theirs
    answer = _quotas_over(theirs["answer"], second, environment)
    _space_once(answer)
    status = 429 if answer["overallCode"] == "OVER_LIMIT" else 200
    return {**({"status": status} if "status" in theirs else {}), "answer": answer}


def shown(ours: Answer) -> Answer:
    """Ours, without what /json adds to `Bad Request`: the reason."""
    if ours.get("status") == 400:
        assert ours["body"].startswith("Bad Request\n")
        return {"status": 400}
    return ours


def _quotas_over(answer: dict[str, Any], second: int, environment: dict[str, str]) -> Any:
    """A quota that is used up is over the limit, and when all are, so is the request."""
    is_quota_mode = environment.get("QUOTA_MODE") == "true"
    statuses, quotas = [], []
    for status in answer.get("statuses", []):
        limit = status.get("currentLimit", {})
        is_hidden = limit and "durationUntilReset" not in status
        if is_hidden:
            length = SECONDS[limit["unit"]]
            reset = f"{length - second % length}s"
            statuses.append({**status, "code": "OVER_LIMIT", "durationUntilReset": reset})
        else:
            statuses.append(status)
        if is_quota_mode or limit.get("name", "").startswith(QUOTA):
            quotas.append(statuses[-1]["code"] == "OVER_LIMIT")
    is_over = answer["overallCode"] == "OVER_LIMIT" or (bool(quotas) and all(quotas))
    is_let_through = environment.get("SHADOW_MODE") == "true"
    code = "OVER_LIMIT" if is_over and not is_let_through else "OK"
    return {**answer, "overallCode": code, "statuses": statuses}


def _space_once(answer: dict[str, Any]) -> None:
    """Go's text of a message has one space between fields or two, as its build decides."""
    for descriptor in answer.get("dynamicMetadata", {}).get("descriptors", []):
        if "limit" in descriptor:
            descriptor["limit"] = " ".join(descriptor["limit"].split())


def is_compared(name: str, environment: dict[str, str]) -> bool:
    """Whether a statistic must be the same: not those of unlimited limits, which the reference
    lacks, and not where it counts hits that it left out.
    """
    place, _, kind = name.rpartition(".")
    if UNLIMITED.search(place):
        return False
    leaves_out = environment.get("STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT") == "true"
    return not (leaves_out and kind in SPLIT_HITS)
