"""The service as a process of its own: its ports, its stores cut, its files changed, its end."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from redis import Redis

from tests.support.limit_service import METHOD, Request, Response, Served, request, served
from tests.support.ports import free_ports
from tests.support.processes import running, wait_until
from tests.support.redis_server import RedisServer, running_redis

LIMITS = """
domain: domain
descriptors:
- {key: one, rate_limit: {unit: year, requests_per_unit: 1, name: single}}
- {key: many, rate_limit: {unit: year, requests_per_unit: 1000000}}
- {key: ten, rate_limit: {unit: year, requests_per_unit: 10}}
"""


@pytest.fixture(scope="module")
def limits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("limits")
    (folder / "limits.yaml").write_text(LIMITS)
    return folder


@pytest.fixture(scope="module")
def service(limits: Path) -> Iterator[Served]:
    with served(limits) as running_service:
        yield running_service


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


def test_a_limit_of_one_admits_one(service: Served):
    first, second = service.ask("one", "grpc"), service.ask("one", "grpc")
    assert (first.overall_code, second.overall_code) == (1, 2)
    assert first.statuses[0].current_limit.name == "single"
    assert second.statuses[0].duration_until_reset.seconds > 0


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        (Request(), "UNKNOWN", "rate limit domain must not be empty"),
        (Request(domain="d"), "UNKNOWN", "rate limit descriptor list must not be empty"),
        (
            Request(domain="domain", descriptors=[{"limit": {"requests_per_unit": 1}}]),
            "INVALID_ARGUMENT",
            "the descriptor's own limit has no known unit: 0",
        ),
    ],
)
def test_bad_requests_are_told_so_and_the_service_goes_on(
    service: Served, message: Any, code: str, words: str
):
    with grpc.insecure_channel(f"127.0.0.1:{service.grpc_port}") as channel:
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(METHOD)(message.SerializeToString(), timeout=5)
        assert (refused.value.code().name, refused.value.details()) == (code, words)
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(METHOD)(b"\xff\xff", timeout=5)
        assert refused.value.code().name == "INVALID_ARGUMENT"
    assert service.ask("many").overall_code == 1


@pytest.mark.parametrize("method", ["POST", "GET", "PUT"])
def test_json_answers_any_method_as_the_reference_does(service: Served, method: str):
    body = {
        "domain": "domain",
        "descriptors": [{"entries": [{"key": "one", "value": method}]}],
        "hitsAddend": 1,
    }
    answers = [httpx2.request(method, f"{service.http}/json", json=body) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert answers[1].json()["overallCode"] == "OVER_LIMIT"
    limit = {"requestsPerUnit": 1, "unit": "YEAR", "name": "single"}
    assert answers[0].json()["statuses"][0]["currentLimit"] == limit


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff",
        b"{}",
        b'{"domain": "d"}',
        b'{"unknown": 1}',
        b'{"domain": 5}',
        b"[" * 100_000,
        b'{"domain": "' + b"x" * (2 << 20) + b'"}',
        b'{"domain": "domain", "descriptors": [{"limit": {"requestsPerUnit": 1}}]}',
    ],
    ids=lambda body: body[:12].decode("latin-1"),
)
def test_json_that_cannot_be_answered_is_400(service: Served, body: bytes):
    assert httpx2.post(f"{service.http}/json", content=body).status_code == 400
    assert httpx2.get(f"{service.http}/healthcheck").text == "OK"


def test_the_debug_port_shows_the_limits_and_the_statistics(service: Served):
    service.ask("one", "debug")
    assert service.lines("/rlconfig")[0] == (
        "domain.one: unit=YEAR requests_per_unit=1, shadow_mode: false, quota_mode: false"
    )
    shown = dict(line.split(": ") for line in service.lines("/stats"))
    assert int(shown["ratelimit.service.rate_limit.domain.one.total_hits"]) >= 1
    assert shown["ratelimit.service.config_load_success"] == "1"
    assert service.lines("/")


def test_a_limit_that_is_over_stands_in_the_log_without_the_clients_value(service: Served):
    for _ in range(3):
        service.ask("one", "value-of-a-client")
    lines = service.process.output.splitlines()
    told = [json.loads(line) for line in lines if '"over_limit"' in line]
    assert [(line["domain"], line["rule"], line["name"], line["limit"]) for line in told[:1]] == [
        ("domain", "domain.one", "single", 1)
    ]
    assert "value-of-a-client" not in service.process.output


def test_health_is_told_under_the_references_name(service: Served):
    assert service.health() == service.health("") == "SERVING"


@pytest.mark.parametrize("store", ["memory", "redis"])
async def test_of_a_thousand_at_once_a_limit_of_one_admits_exactly_one(
    store: str, service: Served, limits: Path, redis: RedisServer
):
    if store == "memory":
        assert await admitted(service.grpc_port, "memory") == {1: 1, 2: 999}
        return
    arguments = ("--store.kind", "redis", "--redis.url", redis.url)
    arguments += ("--redis.time-limit-seconds", "5")
    with (
        served(limits, *arguments, is_measured=False) as first,
        served(limits, *arguments, is_measured=False) as second,
    ):
        halves = await asyncio.gather(
            admitted(first.grpc_port, "redis", count=500),
            admitted(second.grpc_port, "redis", count=500),
        )
    assert sum(halves, Counter()) == {1: 1, 2: 999}


async def admitted(port: int, value: str, count: int = 1000) -> Counter[int]:
    """The overall codes of `count` requests at once."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(METHOD)
        message = request("one", value)
        answers = await asyncio.gather(*(call(message, timeout=20) for _ in range(count)))
    return Counter(Response.FromString(answer).overall_code for answer in answers)


@pytest.mark.parametrize("on_store_failure", ["error", "allow", "deny"])
def test_a_redis_that_is_cut_is_answered_as_the_setting_says(limits: Path, on_store_failure: str):
    """Stuck, killed, and back: the answer is the setting's until Redis counts again."""
    with running_redis() as cut:
        arguments = ("--redis.url", cut.url, "--store.kind", "redis")
        arguments += ("--on-store-failure", on_store_failure)
        with served(limits, *arguments, is_measured=on_store_failure == "error") as service:
            assert service.ask("many").overall_code == 1
            cut.pause()
            expect_failure(service, on_store_failure, r"redis: no answer within 0\.1 s")
            cut.kill()
            expect_failure(service, on_store_failure, "redis: .*")
            assert service.metric(
                f'ratelimit_store_failures_total{{answer="{on_store_failure}"}} 2.0'
            )
            wait_until(lambda: service.metric("ratelimit_store_is_up 0.0"), "the outage is seen")
            assert service.is_ready()
            cut.start()
            wait_until(lambda: counts(service), "requests are counted again")
            assert service.process.output.count("Traceback") == 0


def test_while_redis_is_away_each_replica_gives_away_its_part_of_a_limit(limits: Path):
    """Of ten with two replicas five; the other replica is played by an entry among the living."""
    with running_redis() as cut:
        arguments = ("--redis.url", cut.url, "--store.kind", "redis")
        with served(limits, *arguments, "--on-store-failure", "approximate") as service:
            with Redis(port=cut.port) as client:
                client.zadd("rl:replicas", {"another": time.time() + 3600})
            wait_until(lambda: service.metric("ratelimit_replicas 2.0"), "both are counted")
            assert service.ask("ten").statuses[0].limit_remaining == 9
            cut.kill()
            answers = [service.ask("ten") for _ in range(8)]
            assert [answer.overall_code for answer in answers] == [1] * 5 + [2] * 3
            assert answers[0].statuses[0].current_limit.requests_per_unit == 10
            assert answers[0].statuses[0].limit_remaining == 4
            assert service.metric('ratelimit_store_failures_total{answer="approximate"} 8.0')
            cut.start()
            wait_until(lambda: counts(service), "Redis counts again")


def expect_failure(service: Served, on_store_failure: str, words: str) -> None:
    if on_store_failure == "error":
        with pytest.raises(grpc.RpcError) as failed:
            service.ask("many")
        assert failed.value.code() is grpc.StatusCode.UNKNOWN
        assert re.fullmatch(words, failed.value.details())
    else:
        answer = service.ask("many")
        assert answer.overall_code == {"allow": 1, "deny": 2}[on_store_failure]


def counts(service: Served) -> bool:
    """Whether Redis counts: what is left shrinks."""
    try:
        first, second = (service.ask("many").statuses[0].limit_remaining for _ in range(2))
    except grpc.RpcError:
        return False
    return bool(second == first - 1)


def test_a_service_whose_redis_is_absent_starts_says_so_and_recovers(limits: Path):
    with running_redis(started=False) as late:
        environment = {"RATELIMIT_REDIS__URL": late.url, "RATELIMIT_STORE__KIND": "redis"}
        with served(limits, environment=environment, waits_for_ready=False) as service:
            wait_until(lambda: service.health() == "NOT_SERVING", "health is told")
            assert httpx2.get(f"{service.http}/healthcheck").status_code == 500
            assert "redis" in httpx2.get(f"{service.http}/readyz").json()["reasons"]["store"]
            with pytest.raises(grpc.RpcError) as failed:
                service.ask("one")
            assert failed.value.code() is grpc.StatusCode.UNKNOWN
            late.start()
            wait_until(lambda: service.health() == "SERVING", "Redis has answered once")
            assert service.ask("one").overall_code == 1
            assert service.ask("one").overall_code == 2


def test_a_changed_file_takes_effect_and_a_bad_one_changes_nothing(tmp_path: Path):
    file = tmp_path / "limits.yaml"
    file.write_text(LIMITS)
    with served(tmp_path) as service:
        file.write_text(LIMITS.replace("requests_per_unit: 1,", "requests_per_unit: 7,"))
        wait_until(lambda: "requests_per_unit=7," in service.lines("/rlconfig")[0], "it is taken")
        file.write_text(LIMITS.replace("unit: year", "unit: fortnight"))
        wait_until(lambda: "configuration_refused" in service.process.output, "it is refused")
        assert "invalid rate limit unit 'fortnight'" in service.process.output
        status = httpx2.get(f"{service.http}/readyz?verbose").json()
        assert status["ready"]
        assert "fortnight" in status["configuration"]["refused"]["problems"][0]
        assert service.ask("one").statuses[0].limit_remaining == 6
        assert "ratelimit.service.config_load_error: 1" in service.lines("/stats")


def test_without_a_valid_configuration_nothing_is_answered_but_the_process_waits(tmp_path: Path):
    (tmp_path / "limits.yaml").write_text("domain: ''")
    with served(tmp_path, waits_for_ready=False) as service:
        with pytest.raises(grpc.RpcError) as failed:
            service.ask("one")
        assert failed.value.details() == "no rate limit configuration loaded"
        assert service.lines("/rlconfig") == []
        (tmp_path / "limits.yaml").write_text(LIMITS)
        wait_until(service.is_ready, "the repaired configuration is taken")
        assert service.ask("one").overall_code == 1


async def test_calls_in_flight_are_answered_when_the_service_is_told_to_stop(limits: Path):
    """Redis is stuck while SIGTERM comes: the call gets its answer, and the process ends with 0."""
    with running_redis() as slow:
        arguments = ("--store.kind", "redis", "--redis.url", slow.url)
        arguments += ("--redis.time-limit-seconds", "5")
        with served(limits, *arguments) as service:
            slow.pause()
            async with grpc.aio.insecure_channel(f"127.0.0.1:{service.grpc_port}") as channel:
                call = channel.unary_unary(METHOD)(request("many", "x"), timeout=20)
                await asyncio.to_thread(
                    wait_until,
                    lambda: service.metric("grpc_calls_in_flight 1.0"),
                    "the call is in flight",
                )
                service.process.child.terminate()
                await asyncio.to_thread(
                    service.process.wait_until,
                    lambda: '"draining"' in service.process.output,
                    "the service drains",
                )
                slow.resume()
                assert Response.FromString(await call).overall_code == 1
            assert await asyncio.to_thread(service.process.child.wait, 10) == 0
            assert '"stopped"' in service.process.output


def test_two_workers_on_one_redis_admit_no_more_than_the_limit(limits: Path, redis: RedisServer):
    """A hundred requests over as many connections, which the kernel spreads over both workers."""
    arguments = ("--workers", "2", "--store.kind", "redis", "--redis.url", redis.url)
    arguments += ("--store.key-prefix", "workers:")
    with served(limits, *arguments, is_measured=False) as service:
        service.process.wait_until(
            lambda: service.process.output.count('"event": "ready"') == 2, "both are ready"
        )
        options = [("grpc.use_local_subchannel_pool", 1)]

        def ask_anew(_number: int) -> int:
            address = f"127.0.0.1:{service.grpc_port}"
            with grpc.insecure_channel(address, options) as channel:
                answer = channel.unary_unary(METHOD)(request("one", "workers"), timeout=10)
            return int(Response.FromString(answer).overall_code)

        with ThreadPoolExecutor(10) as pool:
            codes = list(pool.map(ask_anew, range(100)))
        assert codes.count(1) == 1
        assert codes.count(2) == 99


def test_several_workers_find_every_taken_port_before_they_start(limits: Path, redis: RedisServer):
    """The debug port, too: shared, it would hide whoever else listens there."""
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as stranger:
        taken = str(stranger.getsockname()[1])
        command = [sys.executable, "-m", "ratelimit_service", "--workers", "2"]
        command += ["--configuration.folder", str(limits), "--debug.host", "127.0.0.1"]
        command += ["--debug.port", taken, "--store.kind", "redis", "--redis.url", redis.url]
        for name, port in zip(
            ("grpc.port", "grpc.streaming-port", "http.port"), free_ports(3), strict=True
        ):
            command += [f"--{name}", str(port)]
        with running(command) as process:
            assert process.child.wait(20) == 2
            assert f"port {taken} on 127.0.0.1 can't be bound" in process.errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers", "2"], "can't share the memory store: use Redis"),
        (["--store.kind", "memcache"], "store.kind"),
        ([], "configuration.folder"),
    ],
)
def test_settings_that_cannot_work_end_the_process_with_words(arguments: list[str], words: str):
    with running([sys.executable, "-m", "ratelimit_service", *arguments]) as process:
        assert process.child.wait(20) == 2
        assert words in process.errors


def test_help_documents_the_settings():
    with running([sys.executable, "-m", "ratelimit_service", "--help"]) as process:
        assert process.child.wait(20) == 0
        for name in ("--store.kind", "--on-store-failure", "--redis.time-limit-seconds"):
            assert name in process.output
