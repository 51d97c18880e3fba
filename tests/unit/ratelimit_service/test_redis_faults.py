"""Whatever the Redis library raises is one kind of fault, and Redis' health is told on change."""

from __future__ import annotations

import inspect

import pytest
from redis import exceptions

from meshwarden.adapters.redis_client import LIBRARY_ERRORS, translated
from meshwarden.adapters.telemetry import Metrics
from meshwarden.core.faults import Unavailable
from ratelimit_service.adapters.redis_watch import RedisWatch

EVERY = [
    found
    for _, found in inspect.getmembers(exceptions, inspect.isclass)
    if issubclass(found, Exception)
]


@pytest.mark.parametrize("kind", EVERY)
def test_every_exception_of_the_library_is_translated(kind: type[Exception]):
    """The list is the library's own, so a new exception in a later version shows here."""
    assert issubclass(kind, LIBRARY_ERRORS)
    error = kind.__new__(kind)
    error.args = ("told why",)
    fault = translated(error)
    assert isinstance(fault, Unavailable)
    assert str(fault).startswith("redis: ")


def test_faults_that_trying_again_does_not_mend_say_so():
    assert not translated(exceptions.AuthenticationError("no")).retryable
    assert not translated(exceptions.NoPermissionError("no")).retryable
    assert translated(exceptions.ConnectionError("gone")).retryable
    assert translated(exceptions.BusyLoadingError("loading")).retryable
    assert str(translated(OSError())) == "redis: OSError"


async def no_pause(_seconds: float) -> None:
    return None


async def test_the_service_is_not_ready_until_redis_answers_once():
    answers = [Unavailable("redis: refused"), None, Unavailable("redis: gone"), None]

    async def ping() -> None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    metrics = Metrics()
    watch = RedisWatch(ping, metrics=metrics, pause=no_pause)
    assert watch.unready_reason() == "redis has not answered yet"
    seen = []
    for _ in range(4):
        await watch.check()
        seen.append((watch.unready_reason(), watch.status()["is_up"]))
    assert seen == [("redis: refused", False), ("", True), ("", False), ("", True)]
    assert b"ratelimit_store_is_up 1.0" in metrics.exposition()


async def test_the_watch_goes_on_until_it_is_stopped():
    pauses = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise KeyboardInterrupt

    watch = RedisWatch(lambda: no_pause(0), metrics=Metrics(), pause=pause)
    with pytest.raises(KeyboardInterrupt):
        await watch.run()
    assert pauses == [1.0, 1.0, 1.0]
