"""What `up` waits for, and what it says while and when it waits in vain."""

from __future__ import annotations

import sys

import httpx2
import pytest
from structlog.testing import capture_logs

from meshwarden.adapters.telemetry import Metrics
from meshwarden.cli import probes, readiness
from meshwarden.cli.processes import Children
from meshwarden.core.faults import Misconfigured, Unavailable
from ratelimit_service.adapters.redis_watch import RedisWatch

URL = "http://127.0.0.1:1"


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> list[httpx2.Response]:
    """What the probes get next; nothing where it is empty."""
    answers: list[httpx2.Response] = []
    monkeypatch.setattr(probes, "fetch", lambda _url, **_: answers.pop() if answers else None)
    return answers


def test_what_is_missing_is_told_by_url_status_and_expectation(answering: list[httpx2.Response]):
    ready = readiness.answers_200(f"{URL}/readyz")
    assert ready() == f"{URL}/readyz gave no answer, not 200"
    answering.append(httpx2.Response(404, text="<html>"))
    assert ready() == f"{URL}/readyz gave 404, not 200"
    reasons = {"store": "redis: refused", "configuration": "none yet"}
    answering.append(httpx2.Response(503, json={"ready": False, "reasons": reasons}))
    told = f"{URL}/readyz gave 503, not 200: store: redis: refused; configuration: none yet"
    assert ready() == told
    answering.append(httpx2.Response(200))
    assert ready() == ""


@pytest.mark.parametrize("status", [200, 401, 403, 404, 429])
def test_any_answer_but_a_503_is_a_verdict(answering: list[httpx2.Response], status: int):
    answering.append(httpx2.Response(status))
    assert readiness.gives_a_verdict(URL)() == ""
    answering.append(httpx2.Response(503))
    assert readiness.gives_a_verdict(URL)().startswith(f"{URL}/ gave 503, not an answer of")


def test_a_cluster_that_is_not_healthy_is_named(answering: list[httpx2.Response]):
    healthy = readiness.clusters_are_healthy(URL)
    assert "no list of clusters" in healthy()
    hosts = [{"health_status": {"failed_active_health_check": True}}]
    clusters = [{"name": "upstream", "host_statuses": hosts}, {"name": "ratelimit"}]
    answering.append(httpx2.Response(200, json={"cluster_statuses": clusters}))
    assert healthy() == "cluster upstream: failed_active_health_check; cluster ratelimit: no hosts"


async def test_waiting_in_vain_ends_with_what_was_missing():
    with pytest.raises(Unavailable, match="waited 0 s in vain until it is up: nobody is there"):
        await Children().wait_until(lambda: "nobody is there", "it is up", limit_seconds=0)


async def test_a_program_that_can_not_be_run_is_named():
    with pytest.raises(Misconfigured, match=r"/nowhere can't be run: No such file"):
        await Children().start("nothing", ["/nowhere"])


async def test_what_a_process_is_told_by_environment_is_not_in_its_command():
    children = Children()
    program = "import os, sys; sys.exit(os.environ['RATELIMIT_REDIS__URL'] != 'redis://u:p@h')"
    environment = {"RATELIMIT_REDIS__URL": "redis://u:p@h"}
    await children.start("child", [sys.executable, "-c", program], environment)
    with pytest.raises(Unavailable, match="child ended with status 0"):
        await children.wait_until(lambda: "its end", "it ended")
    await children.stop()


async def test_a_redis_that_stays_away_is_told_once():
    answers = [True, True, True, False, False, True, True, False]

    async def ping() -> None:
        if answers.pop(0):
            raise Unavailable("redis: refused")

    async def no_pause(_seconds: float) -> None:
        return None

    watch = RedisWatch(ping, metrics=Metrics(), pause=no_pause)
    with capture_logs() as lines:
        while answers:
            await watch.check()
    told = [line["event"] for line in lines]
    assert told == ["store_is_down", "store_is_up", "store_is_down", "store_is_up"]
