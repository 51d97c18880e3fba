"""Ten minutes of traffic through two services on a Redis whose master is killed, paused and failed
over: no limit is exceeded beyond what the configuration allows.

What it allows, a counter and window: the limit; with `approximate` once more the greater of the
limit and the number of replicas; and, since Redis replicates after it has answered, what a master
admitted just before it was cut (LAG_SECONDS), or, in a planned change, until the next ping tells
that it is none any more (PLANNED_SECONDS).
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.limit_service import METHOD, Response, request, served
from tests.support.processes import PAUSE_SECONDS, until, wait_until
from tests.support.redis_sentinel import DOWN_AFTER_MILLISECONDS, RedisTrio, running_trio

SECONDS = float(os.environ.get("COUNTER_SOAK_SECONDS", "600")) / 2
CALLERS = 16
KEYS = 40
LIMIT = 50
WINDOW_SECONDS = 60
LAG_SECONDS = 1.0
PLANNED_SECONDS = 1.5
CALM_ANSWERS = 2000
RULES = f"""
domain: domain
descriptors:
- {{key: user, rate_limit: {{unit: minute, requests_per_unit: {LIMIT}}}}}
"""


Cuts = list[tuple[float, float]]
"""From when to when what a master admitted may be lost."""


@dataclass
class Ledger:
    """Who was admitted when, and what else was answered."""

    admitted: list[tuple[float, str, int]] = field(default_factory=list)
    """Time, key, and the end of the window."""
    answers: Counter[str] = field(default_factory=Counter)

    @property
    def answer_count(self) -> int:
        return self.answers["admitted"] + self.answers["over"]

    def note(self, key: str, answer: Any, began: float) -> None:
        status = answer.statuses[0]
        self.answers["admitted" if status.code == 1 else "over"] += 1
        if status.code == 1:
            end = began + status.duration_until_reset.seconds
            self.admitted.append((began, key, round(end / WINDOW_SECONDS)))

    def excess(self, *, allowed: int, cuts: Cuts) -> list[str]:
        """Each counter that admitted more than the configuration allows."""
        counts = Counter((key, window) for _, key, window in self.admitted)
        lost = Counter(
            (key, window)
            for at, key, window in self.admitted
            if any(began <= at <= ended for began, ended in cuts)
        )
        return [
            f"{key} in window {window}: {count} of {allowed} and {lost[key, window]} lost"
            for (key, window), count in counts.items()
            if count > allowed + lost[key, window]
        ]


async def call(port: int, ledger: Ledger, is_over: asyncio.Event) -> None:
    """One caller, one request after the other, of random keys."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = channel.unary_unary(METHOD)
        while not is_over.is_set():
            key = f"user-{random.randrange(KEYS)}"  # noqa: S311 - load, no secret
            began = time.time()
            try:
                answer = Response.FromString(await ask(request("user", key), timeout=5))
            except grpc.RpcError as error:
                ledger.answers[f"error {error.code().name}"] += 1
            else:
                ledger.note(key, answer, began)
            await asyncio.sleep(PAUSE_SECONDS)


def kill(trio: RedisTrio) -> Cuts:
    """It comes back, empty, when another has taken its place."""
    master = trio.master
    master.kill()
    cut = time.time()
    wait_until(lambda: trio.named_by_most() is not master, "another is master", limit_seconds=20)
    return [(cut - LAG_SECONDS, cut)]


def pause_shortly(trio: RedisTrio) -> Cuts:
    """Too short for the sentinels to act: nothing is lost."""
    master = trio.master
    master.pause()
    ends_at = time.monotonic() + DOWN_AFTER_MILLISECONDS / 2000
    wait_until(lambda: time.monotonic() > ends_at, "half the time is over")
    master.resume()
    return []


def pause_until_deposed(trio: RedisTrio) -> Cuts:
    """The old master comes back when another has taken its place, and answers who still asks it
    until the sentinels make it a replica.
    """
    master = trio.master
    master.pause()
    cut = time.time()
    wait_until(lambda: trio.named_by_most() is not master, "another is master", limit_seconds=20)
    master.resume()
    return [(cut - LAG_SECONDS, cut), (time.time(), time.time() + PLANNED_SECONDS)]


def fail_over(trio: RedisTrio) -> Cuts:
    master = trio.named_by_most()
    began = time.time()
    trio.fail_over()
    wait_until(lambda: trio.named_by_most() is not master, "another is master", limit_seconds=20)
    return [(began, time.time() + PLANNED_SECONDS)]


FAULTS: tuple[Callable[[RedisTrio], Cuts], ...] = (
    kill,
    pause_shortly,
    pause_until_deposed,
    fail_over,
)


async def break_and_mend(trio: RedisTrio, ledger: Ledger) -> tuple[int, Cuts]:
    """One fault after the other, each mended: how many, and when counts may have been lost."""
    ends_at = time.monotonic() + SECONDS
    faults, cuts = 0, Cuts()
    for number in range(1_000_000):
        if time.monotonic() > ends_at:
            break
        fault = FAULTS[number % len(FAULTS)]
        cuts += await asyncio.to_thread(fault, trio)
        faults += 1
        await asyncio.to_thread(trio.settle)
        answered = ledger.answer_count + CALM_ANSWERS
        await until(
            lambda count=answered: ledger.answer_count > count,  # type: ignore[misc]
            f"it is counted again after {fault.__name__}",
            limit_seconds=60,
        )
    return faults, cuts


@pytest.fixture(scope="module")
def trio() -> Iterator[RedisTrio]:
    with running_trio() as running:
        yield running


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("on_store_failure", "allowed"), [("error", LIMIT), ("approximate", 2 * LIMIT)]
)
async def test_no_limit_is_exceeded_whatever_befalls_redis(
    on_store_failure: str,
    allowed: int,
    trio: RedisTrio,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
):
    (tmp_path / "limits.yaml").write_text(RULES)
    arguments = ("--store.kind", "redis", "--redis.type", "sentinel", "--redis.url", trio.url)
    arguments += ("--on-store-failure", on_store_failure, "--store.key-prefix", on_store_failure)
    ledger = Ledger()
    is_over = asyncio.Event()
    with ExitStack() as stack:
        services = [stack.enter_context(served(tmp_path, *arguments)) for _ in range(2)]
        for service in services:  # Who is not known yet is not shared with.
            wait_until(partial(service.metric, "ratelimit_replicas 2.0"), "both are known")
        callers = [
            asyncio.create_task(call(services[number % 2].grpc_port, ledger, is_over))
            for number in range(CALLERS)
        ]
        try:
            faults, cuts = await break_and_mend(trio, ledger)
        finally:
            is_over.set()
            await asyncio.gather(*callers)
        assert all("Traceback" not in service.process.output for service in services)
    with capsys.disabled():
        print(f"\n{on_store_failure}: {faults} faults, {dict(ledger.answers)}")  # noqa: T201
    assert ledger.answers["over"] > 0
    assert not ledger.excess(allowed=allowed, cuts=cuts)
