"""What every counter store promises, shown on each: memory, and a real Redis."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshwarden.core.faults import Misconfigured, Unavailable
from ratelimit_service.adapters import redis_store
from ratelimit_service.adapters.memory_store import MemoryStore
from ratelimit_service.adapters.redis_script import SCRIPT
from ratelimit_service.adapters.redis_store import RedisStore
from ratelimit_service.core.counter import COUNT_AT_MOST, counted
from ratelimit_service.core.decide import HITS_AT_MOST
from ratelimit_service.core.model import Increment
from ratelimit_service.core.window import Unit, Window
from tests.support.processes import until
from tests.support.redis_server import RedisServer, running_redis

NOW = 1_000_000
WINDOW = Window.of(Unit.HOUR, now=NOW)
JITTER = 7


class AnyStore:
    """A store of either kind, always awaited."""

    def __init__(self, store: MemoryStore | RedisStore) -> None:
        self.store = store

    async def add(self, *increments: Increment, now: int = NOW) -> list[int]:
        counts: list[int] | Awaitable[list[int]] = self.store.add(increments, now=now)
        return await counts if inspect.isawaitable(counts) else list(counts)


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
    store = RedisStore(server.url, time_limit_seconds=5, jitter=lambda: JITTER)
    yield store
    await store.close()


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> AnyStore:
    if request.param == "memory":
        return AnyStore(MemoryStore(counters_at_most=1000))
    return AnyStore(request.getfixturevalue("redis_counters"))


def hits(count: int, key: str = "a", window: Window = WINDOW) -> Increment:
    return Increment(key, count, window)


async def test_a_counter_begins_at_its_first_hits_and_grows(store: AnyStore):
    assert await store.add(hits(1)) == [1]
    assert await store.add(hits(4)) == [5]


async def test_counters_of_one_request_are_counted_in_order_each_on_its_own(store: AnyStore):
    assert await store.add(hits(1, "a"), hits(2, "b"), hits(3, "a")) == [1, 2, 4]


async def test_no_hits_look_without_counting(store: AnyStore):
    assert await store.add(hits(0)) == [0]
    await store.add(hits(2))
    assert await store.add(hits(0), hits(0)) == [2, 2]


async def test_negative_hits_give_back_down_to_zero_and_create_nothing(store: AnyStore):
    assert await store.add(hits(-5)) == [0]
    await store.add(hits(3))
    assert await store.add(hits(-2)) == [1]
    assert await store.add(hits(-2)) == [0]
    assert await store.add(hits(1)) == [1]


async def test_huge_hits_saturate_and_do_not_overflow(store: AnyStore):
    for _ in range(2**52 // HITS_AT_MOST + 2):
        last = await store.add(hits(HITS_AT_MOST))
    assert last == [COUNT_AT_MOST]
    assert await store.add(hits(1), hits(-1)) == [COUNT_AT_MOST, COUNT_AT_MOST - 1]


async def test_windows_of_one_key_prefix_do_not_meet(store: AnyStore):
    later = Window.of(Unit.HOUR, now=WINDOW.end)
    assert await store.add(hits(1, "a@1"), hits(1, "a@2", later)) == [1, 1]


async def test_a_thousand_at_once_get_a_thousand_different_counts(store: AnyStore):
    """Whoever gets 1 is the one whom a limit of 1 admits: there is exactly one."""
    counts = await asyncio.gather(*(store.add(hits(1)) for _ in range(1000)))
    assert sorted(count for (count,) in counts) == list(range(1, 1001))


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    history=st.lists(
        st.lists(
            st.tuples(
                st.sampled_from("abc"),
                st.one_of(st.integers(-5, 5), st.sampled_from([-HITS_AT_MOST, HITS_AT_MOST])),
            ),
            min_size=1,
            max_size=5,
        ),
        max_size=12,
    )
)
async def test_both_stores_keep_the_law_of_counting_on_any_history(
    history: Sequence[Sequence[tuple[str, int]]],
    redis_counters: RedisStore,
    client: redis.Redis,
):
    """The Lua script and the memory store agree with `core.counter` on every history."""
    client.flushall()
    memory = AnyStore(MemoryStore(counters_at_most=10))
    oracle: dict[str, int] = {}
    for request in history:
        increments = [hits(count, key) for key, count in request]
        expected = []
        for key, count in request:
            oracle[key] = counted(oracle.get(key, 0), count)
            expected.append(oracle[key])
        assert await memory.add(*increments) == expected
        assert await AnyStore(redis_counters).add(*increments) == expected


async def test_redis_forgets_a_counter_after_its_window_and_the_jitter(
    redis_counters: RedisStore, client: redis.Redis
):
    await redis_counters.add([hits(1)], now=NOW)
    await redis_counters.add([hits(-1, "none"), hits(0, "looked")], now=NOW)
    assert client.keys() == ["a"]
    assert client.ttl("a") in {WINDOW.seconds + JITTER, WINDOW.seconds + JITTER - 1}


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
    client.rpush("odd", "x")
    client.set("text", "x")
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
    limited = RedisStore(server.url, time_limit_seconds=0.05, jitter=lambda: 0)
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


async def test_a_request_given_up_while_it_waits_is_not_counted(
    server: RedisServer, client: redis.Redis
):
    patient = RedisStore(server.url, time_limit_seconds=5, jitter=lambda: 0)
    await patient.ping()
    server.pause()
    try:
        sent = asyncio.create_task(patient.add([hits(1, "sent")], now=NOW))
        for _ in range(3):  # the call's own turn, the sender's, and one to spare
            await asyncio.sleep(0)
        given_up = asyncio.create_task(patient.add([hits(1, "given up")], now=NOW))
        await until(lambda: patient.waiting_count, "the second request waits")
        given_up.cancel()
    finally:
        server.resume()
    assert await sent == [1]
    assert await patient.add([hits(0)], now=NOW) == [0]
    assert client.keys() == ["sent"]
    await patient.close()


async def test_an_answer_that_comes_too_late_is_not_taken_for_another_requests(
    server: RedisServer, client: redis.Redis
):
    """The connection that still owes an answer is not used again."""
    limited = RedisStore(server.url, time_limit_seconds=0.1, jitter=lambda: 0)
    await limited.ping()
    server.pause()
    try:
        with pytest.raises(Unavailable, match="no answer within"):
            await limited.add([hits(1, "late")], now=NOW)
    finally:
        server.resume()
    assert await limited.add([hits(5, "next"), hits(6, "next")], now=NOW) == [5, 11]
    await until(lambda: client.get("late") == "1", "the late request is counted: it costs a hit")
    await limited.close()


async def test_a_redis_that_comes_back_counts_again():
    with running_redis() as own:
        counters = RedisStore(own.url, time_limit_seconds=2, jitter=lambda: 0)
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
        wrong = RedisStore(own.url, auth="wrong", time_limit_seconds=2, jitter=lambda: 0)
        with pytest.raises(Unavailable) as refused:
            await wrong.add([hits(1)], now=NOW)
        assert not refused.value.retryable
        assert "wrong" not in str(refused.value).replace("wrong number", "")
        await wrong.close()
        right = RedisStore(own.url, auth="right", time_limit_seconds=2, jitter=lambda: 0)
        assert await right.add([hits(1)], now=NOW) == [1]
        await right.close()


async def test_a_full_line_is_refused_at_once(server: RedisServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(redis_store, "WAITING_AT_MOST", 3)
    crowded = RedisStore(server.url, time_limit_seconds=2, jitter=lambda: 0)
    answers = await asyncio.gather(
        *(crowded.add([hits(1, "crowd")], now=NOW) for _ in range(5)), return_exceptions=True
    )
    assert [isinstance(answer, Unavailable) for answer in answers] == [False] * 3 + [True] * 2
    await crowded.close()


async def test_closing_the_store_answers_who_still_waits(server: RedisServer):
    closing = RedisStore(server.url, time_limit_seconds=5, jitter=lambda: 0)
    server.pause()
    try:
        sent = asyncio.create_task(closing.add([hits(1)], now=NOW))
        for _ in range(3):  # the call's own turn, the sender's, and one to spare
            await asyncio.sleep(0)
        in_line = asyncio.create_task(closing.add([hits(1)], now=NOW))
        await until(lambda: closing.waiting_count, "the second request waits")
        await closing.close()
        for task in (sent, in_line):
            with pytest.raises(Unavailable, match="closed"):
                await task
    finally:
        server.resume()


def test_an_address_that_is_none_is_refused_at_start():
    with pytest.raises(Misconfigured, match=r"redis\.url"):
        RedisStore("redis://host:port", time_limit_seconds=1, jitter=lambda: 0)


def test_the_script_is_one_that_redis_accepts(client: redis.Redis):
    assert client.eval(SCRIPT, 1, "direct", 2, 60) == [2]
