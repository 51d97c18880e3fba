"""Asks the Kubernetes API server to review tokens and access, each question once at a time.

Many requests with one question share it, and an answer is kept for a moment, for those who came
just after it or gave up waiting; at most `QUESTIONS_AT_MOST` are under way, and after
`FAILURES_AT_MOST` failures in a row the API server is left alone, save one trial a pause: who comes
then is told that it is unavailable, and waits for nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from ext_authz.core.lookups import AccessReviewLookup, TokenReviewLookup
from meshwarden.adapters.kubernetes_client import ApiFailure, KubernetesClient
from meshwarden.adapters.logs import logger
from meshwarden.adapters.telemetry import Metrics
from meshwarden.core.breaker import Breaker
from meshwarden.core.faults import Unavailable
from meshwarden.core.secret import redacted_text

QUESTIONS_AT_MOST = 100
FAILURES_AT_MOST = 5
PAUSE_SECONDS = 0.5
KEPT_SECONDS = 0.5
REVIEWS_OF_TOKENS = "/apis/authentication.k8s.io/v1/tokenreviews"
REVIEWS_OF_ACCESS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"

_FORBIDDEN = 403
_OF_THE_QUESTION = frozenset({400, 413, 422})
"""Refusals of one question, which a caller may have made: they say nothing of the next one."""
Question = TokenReviewLookup | AccessReviewLookup
Status = Mapping[str, Any]


class KubernetesReviewer:
    """Asks by `client`, which it closes; the client's time limit is that of a question."""

    def __init__(
        self,
        client: KubernetesClient,
        *,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._clock = clock
        self._breaker = Breaker(failures_at_most=FAILURES_AT_MOST, pause_seconds=PAUSE_SECONDS)
        self._under_way: dict[Question, asyncio.Task[Status]] = {}
        self._kept: dict[Question, asyncio.Task[Status]] = {}
        self._last_error: str | None = None
        self._reviews = metrics.tally(
            "kubernetes_reviews", "Questions to Kubernetes.", ["review", "outcome"]
        )

    def status(self) -> dict[str, object]:
        """For `/readyz?verbose`: how the last question went."""
        return {"last_error": self._last_error, "is_left_alone": self._breaker.is_open}

    async def ask(self, question: Question) -> Status:
        """The `status` of the review. Raises `Unavailable`."""
        task = self._under_way.get(question) or self._kept.get(question)
        if task is None:
            self._require_room(question)
            task = asyncio.create_task(self._ask(question))
            self._under_way[question] = task
            task.add_done_callback(lambda task: self._keep(question, task))
        # Shielded: others wait for the same answer.
        return await asyncio.shield(task)

    async def close(self) -> None:
        for task in list(self._under_way.values()):
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)
        await self._client.close()

    def _keep(self, question: Question, task: asyncio.Task[Status]) -> None:
        self._under_way.pop(question, None)
        if not task.cancelled() and task.exception() is None:
            self._kept[question] = task
            task.get_loop().call_later(KEPT_SECONDS, self._kept.pop, question, None)

    def _require_room(self, question: Question) -> None:
        if len(self._under_way) >= QUESTIONS_AT_MOST:
            self._reviews.add(_kind(question), "too_many")
            raise Unavailable(f"more than {QUESTIONS_AT_MOST} questions to Kubernetes are open")
        if not self._breaker.permits(self._clock()):
            self._reviews.add(_kind(question), "left_alone")
            raise Unavailable("Kubernetes has not answered lately")

    async def _ask(self, question: Question) -> Status:
        path, body = _review(question)
        try:
            answer = await self._client.call("POST", path, body=body)
        except ApiFailure as error:
            hint = "; bind our ServiceAccount to the ClusterRole system:auth-delegator"
            if error.status not in _OF_THE_QUESTION:
                self._breaker.failed(self._clock())
            told = f"{error}{hint if error.status == _FORBIDDEN else ''}"
            raise self._failed(question, told) from None
        status = answer.get("status") if isinstance(answer, dict) else None
        if not isinstance(status, dict):
            raise self._failed(question, "the answer is no review: it has no status")
        self._breaker.succeeded()
        self._last_error = None
        self._reviews.add(_kind(question), _outcome(status))
        return status

    def _failed(self, question: Question, what: str) -> Unavailable:
        told = redacted_text(what)
        self._reviews.add(_kind(question), "failed")
        if self._last_error != told:
            logger().warning("kubernetes_review_failed", review=_kind(question), error=told)
        self._last_error = told
        return Unavailable(told)


def _review(question: Question) -> tuple[str, dict[str, Any]]:
    """Where a question is posted, and the object that asks it."""
    if isinstance(question, TokenReviewLookup):
        spec: dict[str, Any] = {"token": question.token, "audiences": list(question.audiences)}
        return REVIEWS_OF_TOKENS, _object("authentication.k8s.io/v1", "TokenReview", spec)
    asked = question.attributes
    spec = {"user": question.user, "groups": list(question.groups)}
    if asked.path:
        spec["nonResourceAttributes"] = {"path": asked.path, "verb": asked.verb}
    else:
        named = ("verb", "group", "resource", "subresource", "namespace", "name")
        spec["resourceAttributes"] = {name: getattr(asked, name) for name in named}
    return REVIEWS_OF_ACCESS, _object("authorization.k8s.io/v1", "SubjectAccessReview", spec)


def _object(version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {}, "spec": spec}


def _kind(question: Question) -> str:
    return "token" if isinstance(question, TokenReviewLookup) else "access"


def _outcome(status: Status) -> str:
    if "allowed" in status:
        return "allowed" if status["allowed"] else "denied"
    return "authenticated" if status.get("authenticated") else "refused"
