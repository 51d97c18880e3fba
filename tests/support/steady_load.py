"""Requests at a steady rate through a gateway while a test breaks something, each one kept.

A closed loop of callers would send less while answers are late; here each caller has its own beat,
and an answer that is late is seen as late.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread

import httpx2

CALLERS = 8
LATE_SECONDS = 5.0


@dataclass(frozen=True)
class Answer:
    """`status` is 0 where there was none; `replica` is who answered, if a workload did."""

    at: float
    seconds: float
    status: int
    replica: str


@dataclass
class SteadyLoad:
    """What was answered so far, in the order of the answers."""

    answers: list[Answer] = field(default_factory=list)
    _over: Event = field(default_factory=Event)

    def since(self, moment: float) -> list[Answer]:
        """Of the requests that were sent after `moment`."""
        return [answer for answer in list(self.answers) if answer.at >= moment]

    def statuses(self, moment: float = 0) -> dict[int, int]:
        """How often each status was answered since then."""
        return dict(sorted(Counter(answer.status for answer in self.since(moment)).items()))

    def call(self, url: str, headers: Mapping[str, str], period: float, offset: float) -> None:
        with httpx2.Client(headers=dict(headers), timeout=LATE_SECONDS) as client:
            next_at = time.monotonic() + offset
            while not self._over.wait(max(next_at - time.monotonic(), 0)):
                next_at += period
                began, at = time.monotonic(), time.time()
                try:
                    answer = client.get(url)
                    status, replica = answer.status_code, answer.headers.get("x-replica", "")
                except httpx2.TransportError:
                    status, replica = 0, ""
                self.answers.append(Answer(at, time.monotonic() - began, status, replica))

    def end(self) -> None:
        self._over.set()


@contextmanager
def steady_load(
    url: str, headers: Mapping[str, str], *, per_second: float, callers: int = CALLERS
) -> Iterator[SteadyLoad]:
    """GET `url` so many times a second for the length of the block, at most `callers` at once."""
    load = SteadyLoad()
    period = callers / per_second
    threads = [
        Thread(target=load.call, args=(url, headers, period, period * number / callers))
        for number in range(callers)
    ]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.end()
        for thread in threads:
            thread.join()
