"""What memory and a real Redis promise as counter stores: the contract of all, and Redis' own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import redis

from meshwarden.adapters.redis_settings import RedisSettings
from meshwarden.adapters.redis_topology import connect
from meshwarden.core.faults import Unavailable
from ratelimit_service.adapters import redis_line
from ratelimit_service.adapters.memory_store import MemoryStore
from ratelimit_service.adapters.redis_script import SCRIPT
from ratelimit_service.adapters.redis_store import Breaking, RedisStore
from ratelimit_service.core.model import Effect, Increment, LeftOut, Mode
from ratelimit_service.core.window import Unit, Window
from tests.support.counter_contract import NOW, WINDOW, AnyStore, Contract, hits
from tests.support.processes import until
from tests.support.redis_server import RedisServer, running_redis
from tests.support.redis_stores import redis_store, until_counted

JITTER = 7


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as running:
        yield running


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis(port=server.port, decode_responses=True) as connected:
        connected.flushall()
        yield connected


@pytest.fixture
async def redis_counters(server: RedisServer, client: redis.Redis) -> AsyncIterator[RedisStore]:
    del client
    store = redis_store(server.url, jitter=JITTER)
    yield store
    await store.close()


class TestMemory(Contract):
    @pytest.fixture
    def store(self) -> AnyStore:
        return AnyStore(MemoryStore(counters_at_most=10_000))


class TestRedis(Contract):
    @pytest.fixture
    def store(self, redis_counters: RedisStore) -> AnyStore:
        return AnyStore(redis_counters)


async def test_redis_forgets_a_counter_after_its_window_and_the_jitter(
    redis_counters: RedisStore, client: redis.Redis
):
    await redis_counters.add([hits(1)], now=NOW)
    await redis_counters.add([hits(-1, "none"), hits(0, "looked")], now=NOW)
    assert client.keys() == ["{tag}a"]
    assert client.ttl("{tag}a") in {WINDOW.seconds + JITTER, WINDOW.seconds + JITTER - 1}


async def test_one_request_is_one_call_of_one_script(
    redis_counters: RedisStore, client: redis.Redis
):
    await redis_counters.add([hits(1)], now=NOW)
    before = client.info("commandstats")
    await redis_counters.add([hits(1, "a"), hits(1, "b"), hits(1, "c")], now=NOW)
    after = client.info("commandstats")
    calls = {
        name: after[name]["calls"] - before.get(name, {"calls": 0})["calls"]
        for name in after
        if name != "cmdstat_info"
    }
    assert calls["cmdstat_evalsha"] == 1
    assert calls.get("cmdstat_eval", 0) == 0


async def test_requests_that_wait_together_share_a_call(
    redis_counters: RedisStore, client: redis.Redis
):
    await redis_counters.add([hits(1)], now=NOW)
    before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    await asyncio.gather(*(redis_counters.add([hits(1)], now=NOW) for _ in range(500)))
    assert client.info("commandstats")["cmdstat_evalsha"]["calls"] - before <= 2


async def test_a_redis_that_lost_the_script_gets_it_again(
    redis_counters: RedisStore, client: redis.Redis
):
    await redis_counters.add([hits(1)], now=NOW)
    client.script_flush()
    assert await redis_counters.add([hits(1)], now=NOW) == [2]


async def test_a_key_that_is_no_counter_fails_its_own_request_alone(
    redis_counters: RedisStore, client: redis.Redis
):
    client.rpush("{tag}odd", "x")
    client.set("{tag}text", "x")
    for key, count in (("odd", 1), ("odd", 0), ("text", 0), ("text", -1), ("text", 1)):
        sound, refused = await asyncio.gather(
            redis_counters.add([hits(0, "sound")], now=NOW),
            redis_counters.add([hits(count, key)], now=NOW),
            return_exceptions=True,
        )
        assert sound == [0]
        assert isinstance(refused, Unavailable)
        assert str(refused).startswith("redis: ")


async def test_a_silent_redis_costs_the_time_limit_and_no_more(server: RedisServer):
    limited = redis_store(server.url, time_limit_seconds=0.05)
    await limited.ping()
    server.pause()
    try:
        loop = asyncio.get_running_loop()
        began = loop.time()
        answers = await asyncio.gather(
            *(limited.add([hits(1, "silent")], now=NOW) for _ in range(50)), return_exceptions=True
        )
        assert loop.time() - began < 1
        assert {str(answer) for answer in answers} == {"redis: no answer within 0.05 s"}
    finally:
        server.resume()
    await limited.close()


async def test_who_waits_behind_a_call_waits_no_longer_than_the_limit(server: RedisServer):
    """The call before it takes the whole limit; one of its own is not waited for."""
    limited = redis_store(server.url, time_limit_seconds=0.5)
    await limited.ping()
    server.pause()
    try:
        sent = asyncio.ensure_future(limited.add([hits(1)], now=NOW))
        await until(lambda: not limited.waiting_count, "the first is under way")
        behind = asyncio.ensure_future(limited.add([hits(1)], now=NOW))
        with pytest.raises(Unavailable, match="no answer within"):
            await sent
        with pytest.raises(Unavailable, match="no answer within"):
            await asyncio.wait_for(behind, 0.25)
    finally:
        server.resume()
    await limited.close()


async def test_a_request_given_up_while_it_waits_is_not_counted(
    server: RedisServer, client: redis.Redis
):
    patient = redis_store(server.url, time_limit_seconds=5)
    await patient.ping()
    server.pause()
    try:
        sent = asyncio.ensure_future(patient.add([hits(1, "sent")], now=NOW))
        for _ in range(3):  # the call's own turn, the sender's, and one to spare
            await asyncio.sleep(0)
        given_up = asyncio.ensure_future(patient.add([hits(1, "given up")], now=NOW))
        await until(lambda: patient.waiting_count, "the second request waits")
        given_up.cancel()
    finally:
        server.resume()
    assert await sent == [1]
    assert await patient.add([hits(0)], now=NOW) == [0]
    assert client.keys() == ["{tag}sent"]
    await patient.close()


async def test_an_answer_that_comes_too_late_is_not_taken_for_another_requests(
    server: RedisServer, client: redis.Redis
):
    """The connection that still owes an answer is not used again."""
    limited = redis_store(server.url, time_limit_seconds=0.1)
    await limited.ping()
    server.pause()
    try:
        with pytest.raises(Unavailable, match="no answer within"):
            await limited.add([hits(1, "late")], now=NOW)
    finally:
        server.resume()
    assert await limited.add([hits(5, "next"), hits(6, "next")], now=NOW) == [5, 11]
    await until(
        lambda: client.get("{tag}late") == "1", "the late request is counted: it costs a hit"
    )
    await limited.close()


async def test_a_redis_that_comes_back_counts_again():
    with running_redis() as own:
        counters = redis_store(own.url, time_limit_seconds=2)
        assert await counters.add([hits(1)], now=NOW) == [1]
        own.kill()
        with pytest.raises(Unavailable):
            await counters.add([hits(1)], now=NOW)
        with pytest.raises(Unavailable):
            await counters.ping()
        own.start()
        assert await counters.add([hits(1)], now=NOW) == [1]
        await counters.close()


async def test_a_wrong_password_is_a_lasting_fault():
    with running_redis(password="right") as own:
        wrong = redis_store(own.url, auth="wrong", time_limit_seconds=2)
        with pytest.raises(Unavailable) as refused:
            await wrong.add([hits(1)], now=NOW)
        assert not refused.value.retryable
        assert "wrong" not in str(refused.value).replace("wrong number", "")
        await wrong.close()
        right = redis_store(own.url, auth="right", time_limit_seconds=2)
        assert await right.add([hits(1)], now=NOW) == [1]
        await right.close()


async def test_a_full_line_is_refused_at_once(server: RedisServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(redis_line, "WAITING_AT_MOST", 3)
    crowded = redis_store(server.url, time_limit_seconds=2)
    waiting = [crowded.add([hits(1, "crowd")], now=NOW) for _ in range(3)]
    with pytest.raises(Unavailable, match="more than 3 requests wait"):
        crowded.add([hits(1, "crowd")], now=NOW)
    assert await asyncio.gather(*waiting) == [[1], [2], [3]]
    await crowded.close()


async def test_closing_the_store_answers_who_still_waits(server: RedisServer):
    closing = redis_store(server.url, time_limit_seconds=5)
    server.pause()
    try:
        sent = asyncio.ensure_future(closing.add([hits(1)], now=NOW))
        for _ in range(3):  # the call's own turn, the sender's, and one to spare
            await asyncio.sleep(0)
        in_line = asyncio.ensure_future(closing.add([hits(1)], now=NOW))
        await until(lambda: closing.waiting_count, "the second request waits")
        await closing.close()
        for task in (sent, in_line):
            with pytest.raises(Unavailable, match="closed"):
                await task
        with pytest.raises(Unavailable, match="closed"):
            closing.add([hits(1)], now=NOW)
    finally:
        server.resume()


def test_the_script_is_one_that_redis_accepts(client: redis.Redis):
    assert client.eval(SCRIPT, 1, "direct", 0, 1, 2, 60) == [2]


async def test_a_node_that_failed_several_times_is_left_alone_until_it_answers():
    """Open, nobody waits; then one call after each pause tries, and the first success closes."""
    with running_redis() as own:
        guarded = redis_store(
            own.url, time_limit_seconds=0.2, failures_at_most=2, pause_seconds=0.05
        )
        assert await guarded.add([hits(1)], now=NOW) == [1]
        own.pause()
        for _ in range(2):
            with pytest.raises(Unavailable, match="no answer within"):
                await guarded.add([hits(1)], now=NOW)
        await until(lambda: guarded.open_breaker_count == 1, "the breaker is open")
        with pytest.raises(Unavailable, match="not asked for the moment: no answer within"):
            await guarded.add([hits(1)], now=NOW)
        own.resume()
        await until_counted(guarded, hits(1, "back"))
        assert guarded.open_breaker_count == 0
        await guarded.close()


async def test_a_per_second_redis_has_a_time_limit_of_its_own(server: RedisServer):
    own = connect(RedisSettings(url=server.url, time_limit_seconds=0.1))
    with running_redis() as slow:
        per_second = connect(RedisSettings(url=slow.url, time_limit_seconds=5))
        store = RedisStore(
            own,
            breaking=Breaking(failures_at_most=5, pause_seconds=1),
            jitter=lambda: 0,
            monotonic=time.monotonic,
            per_second=per_second,
        )
        second = Increment("own", 1, Window(Unit.SECOND, NOW, 1), 10, Effect.DENIES)
        slow.pause()
        asked = asyncio.ensure_future(store.add([second], now=NOW))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asked), 0.3)
        slow.resume()
        assert await asked == [1]
        await store.close()


async def test_counters_per_second_stand_in_the_redis_that_is_theirs(
    server: RedisServer, client: redis.Redis
):
    """One request with counters in both: each stands in its own, answers in the order asked."""
    second = Window.of(Unit.SECOND, now=NOW)
    with running_redis() as own:
        split = redis_store(server.url, per_second_url=own.url)
        asked = [hits(1, "hour"), hits(2, "second", second), hits(3, "hour")]
        assert await split.add(asked, now=NOW) == [1, 2, 4]
        with redis.Redis(port=own.port, decode_responses=True) as other:
            assert (client.keys(), other.keys()) == (["{tag}hour"], ["{tag}second"])
        full = [hits(1, "hour", at_most=4), hits(1, "second", second, at_most=9)]
        stopped = await split.add(full, mode=Mode.STOPS_WHEN_OVER, now=NOW)
        assert stopped == [5, LeftOut(2, is_over=False)]
        own.kill()
        with pytest.raises(Unavailable):
            await split.add(asked, now=NOW)
        await split.close()
