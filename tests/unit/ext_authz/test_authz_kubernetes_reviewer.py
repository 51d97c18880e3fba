"""Who asks Kubernetes, against an API server that holds its answers back or answers nonsense.

What the real one does is in `tests/istio/test_reviews.py`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from ext_authz.adapters import kubernetes_reviewer
from ext_authz.adapters.kubernetes_reviewer import KubernetesReviewer
from ext_authz.core.lookups import AccessAttributes, AccessReviewLookup, TokenReviewLookup
from meshwarden.adapters.kubernetes_client import KubernetesClient, connection
from meshwarden.adapters.telemetry import Metrics
from meshwarden.core.faults import Unavailable
from tests.support.processes import until

GOOD = TokenReviewLookup("good", ("orders",))
AUTHENTICATED = {"status": {"authenticated": True}}
ACCESS = AccessReviewLookup(
    "rita", ("staff",), AccessAttributes("get", "", "pods", "log", "a", "b")
)


class Asked:
    """A server that answers every review with `answer` and `code`, once `gate` is open."""

    def __init__(self, folder: Path) -> None:
        self.answer: Any = AUTHENTICATED
        self.code = 201
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[tuple[str, Any]] = []
        self.now = 0.0
        self.metrics = Metrics()
        self.folder = folder
        self.reviewer: KubernetesReviewer
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await self._answer(reader, writer)
        writer.close()
        await writer.wait_closed()
        self.connections -= 1

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readline():
            length = 0
            while (line := await reader.readline()).strip():
                name, _, value = line.decode().partition(":")
                length = int(value) if name.lower() == "content-length" else length
            self.asked.append(
                (head.decode().split()[1], json.loads(await reader.readexactly(length)))
            )
            await self.gate.wait()
            body = json.dumps(self.answer).encode()
            told = f"HTTP/1.1 {self.code} X\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(told.encode() + body)

    def counted(self, outcome: str) -> float:
        lines = self.metrics.exposition().decode().splitlines()
        wanted = f'outcome="{outcome}"'
        named = (line for line in lines if line.startswith("kubernetes_reviews_total{"))
        found = [line for line in named if wanted in line]
        return sum(float(line.rpartition(" ")[2]) for line in found)


@asynccontextmanager
async def asking(folder: Path) -> AsyncIterator[Asked]:
    made = Asked(folder)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
                "users": [{"name": "u", "user": {"token": "ours"}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    client = KubernetesClient(connection(kubeconfig), time_limit_seconds=5)
    made.reviewer = KubernetesReviewer(client, metrics=made.metrics, clock=lambda: made.now)
    try:
        yield made
    finally:
        made.gate.set()
        await made.reviewer.close()
        server.close()
        await until(lambda: not made.connections, "all connections are closed")


async def test_one_question_is_asked_once_and_who_comes_just_after_it_gets_its_answer(tmp_path):
    async with asking(tmp_path) as made:
        made.gate.clear()
        waiting = [asyncio.create_task(made.reviewer.ask(GOOD)) for _ in range(50)]
        await until(lambda: made.asked, "it is asked")
        for one in waiting[:49]:
            one.cancel()
        made.gate.set()
        assert await waiting[49] == AUTHENTICATED["status"]
        assert await made.reviewer.ask(GOOD) == AUTHENTICATED["status"]
        spec = {"token": "good", "audiences": ["orders"]}
        ((path, review),) = made.asked
        assert (path, review["kind"], review["spec"]) == (
            *("/apis/authentication.k8s.io/v1/tokenreviews", "TokenReview"),
            spec,
        )


async def test_access_is_asked_in_kubernetes_own_words(tmp_path):
    async with asking(tmp_path) as made:
        made.answer = {"status": {"allowed": False}}
        assert await made.reviewer.ask(ACCESS) == {"allowed": False}
        attributes = {
            **{"verb": "get", "group": "", "resource": "pods", "subresource": "log"},
            **{"namespace": "a", "name": "b"},
        }
        path, review = made.asked[0]
        assert path == "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        expected = {"user": "rita", "groups": ["staff"], "resourceAttributes": attributes}
        assert review["spec"] == expected
        assert made.counted("denied") == 1


@pytest.mark.parametrize("answer", [[], {"status": None}])
async def test_an_answer_that_is_no_review_is_none(tmp_path, answer):
    async with asking(tmp_path) as made:
        made.answer = answer
        with pytest.raises(Unavailable, match="no review"):
            await made.reviewer.ask(GOOD)
        assert made.reviewer.status()["last_error"]
        made.answer = AUTHENTICATED
        assert await made.reviewer.ask(GOOD)
        assert made.reviewer.status()["last_error"] is None


async def test_too_many_questions_at_once_are_refused_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(kubernetes_reviewer, "QUESTIONS_AT_MOST", 2)
    async with asking(tmp_path) as made:
        made.gate.clear()
        lookups = [TokenReviewLookup(str(number), ("orders",)) for number in range(3)]
        waiting = [asyncio.create_task(made.reviewer.ask(one)) for one in lookups[:2]]
        await until(lambda: len(made.asked) == 2, "two are asked")
        with pytest.raises(Unavailable, match="more than 2 questions"):
            await made.reviewer.ask(lookups[2])
        made.gate.set()
        await asyncio.gather(*waiting)
        assert (len(made.asked), made.counted("too_many")) == (2, 1)


async def test_a_server_that_fails_is_left_alone_but_for_a_trial_a_pause(tmp_path):
    async with asking(tmp_path) as made:
        made.code, made.answer = 500, {"message": "token eyJhbGciOiJSUzI1NiJ9.eyJzdWIi.c2ln"}
        for number in range(5):
            with pytest.raises(Unavailable, match="redacted"):
                await made.reviewer.ask(TokenReviewLookup(str(number), ("orders",)))
        with pytest.raises(Unavailable, match="not answered lately"):
            await made.reviewer.ask(GOOD)
        assert (len(made.asked), made.counted("left_alone")) == (5, 1)
        made.code, made.answer = 201, AUTHENTICATED
        made.now = kubernetes_reviewer.PAUSE_SECONDS
        assert await made.reviewer.ask(GOOD)
        assert made.reviewer.status() == {"last_error": None, "is_left_alone": False}


async def test_a_question_that_is_refused_for_what_it_asks_shuts_out_no_other(tmp_path):
    async with asking(tmp_path) as made:
        made.code, made.answer = 422, {"message": "invalid"}
        for number in range(9):
            with pytest.raises(Unavailable, match="422: invalid"):
                await made.reviewer.ask(TokenReviewLookup(str(number), ("orders",)))
        assert len(made.asked) == 9
