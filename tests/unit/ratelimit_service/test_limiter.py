"""How requests meet the store, and what is answered when it fails."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwarden.adapters.grpc_calls import GrpcFailure
from meshwarden.adapters.protobuf import message_class
from meshwarden.adapters.telemetry import Metrics
from meshwarden.core.faults import InvalidInput, Unavailable
from ratelimit_service.adapters.envoy_rls import (
    METHOD,
    ShouldRateLimit,
    decoded,
    encoded,
    response,
)
from ratelimit_service.adapters.limiter import Approximation, Limiter, OnStoreFailure, Store
from ratelimit_service.adapters.memory_store import MemoryStore
from ratelimit_service.adapters.statistics import Statistics
from ratelimit_service.core.model import (
    Code,
    Decision,
    HeaderNames,
    Increment,
    Limit,
    Mode,
    Options,
    Outcome,
    Override,
    Status,
)
from ratelimit_service.core.window import Unit
from tests.support.limits import rules

RULES = """
domain: domain
descriptors:
- {key: one, rate_limit: {unit: minute, requests_per_unit: 1, name: single}}
- {key: five, rate_limit: {unit: minute, requests_per_unit: 5}}
- {key: free, rate_limit: {unlimited: true}}
- {key: address, value: 10.0.0.1, rate_limit: {unit: minute, requests_per_unit: 9}}
"""
NOW = 90.75
LIMITS = [None, Limit("domain.one", 1, Unit.MINUTE, name="single"), Limit("d.x", 9, Unit.DAY)]

Request = message_class("envoy.service.ratelimit.v3.RateLimitRequest")
Response = message_class("envoy.service.ratelimit.v3.RateLimitResponse")


class FailingStore:
    """Fails at once, or when awaited."""

    def __init__(self, *, is_awaited: bool) -> None:
        self._is_awaited = is_awaited

    def add(
        self, increments: Sequence[Increment], *, mode: Mode, now: int
    ) -> list[Outcome] | Awaitable[list[Outcome]]:
        del increments, mode, now
        if self._is_awaited:
            return self._fail()
        raise Unavailable("redis: gone")

    async def _fail(self) -> list[Outcome]:
        raise Unavailable("redis: gone")


class Face:
    """The gRPC method over a limiter, and what they count."""

    def __init__(
        self,
        store: Store,
        *,
        on_store_failure: OnStoreFailure = "error",
        approximation: Approximation | None = None,
        options: Options | None = None,
    ) -> None:
        self.metrics = Metrics()
        self.statistics = Statistics(near_limit_ratio=0.8, names_at_most=100)
        self.limiter = Limiter(
            store,
            on_store_failure=on_store_failure,
            approximation=approximation,
            statistics=self.statistics,
            metrics=self.metrics,
            clock=lambda: NOW,
        )
        self.limiter.rules = rules(RULES, options=options)
        self._method = ShouldRateLimit(self.limiter).method()
        assert self._method.path == METHOD

    async def __call__(self, *entries: tuple[str, str], domain: str = "domain") -> str:
        """The response to one descriptor, as text."""
        message = Request(domain=domain)
        if entries:
            descriptor = message.descriptors.add()
            for key, value in entries:
                descriptor.entries.add(key=key, value=value)
        return str(Response.FromString(await self.raw(message.SerializeToString())))

    async def raw(self, message: bytes) -> bytes:
        answer = self._method.handler(message, ())
        return await answer if inspect.isawaitable(answer) else answer

    def metric(self, text: str) -> bool:
        return text in self.metrics.exposition().decode()

    def statistic(self, name: str) -> int:
        return self.statistics.reading().counters[f"ratelimit.service.{name}"]


@pytest.fixture
def face() -> Face:
    return Face(MemoryStore(counters_at_most=100))


def test_memory_answers_at_once(face: Face):
    message = Request(domain="domain")
    message.descriptors.add().entries.add(key="one", value="x")
    assert isinstance(face.limiter.decide(decoded(message)).code, int)


async def test_a_response_says_the_limit_what_is_left_and_when_it_begins_anew(face: Face):
    within = Response(overall_code="OK")
    status = within.statuses.add(code="OK", limit_remaining=0)
    status.current_limit.requests_per_unit = 1
    status.current_limit.unit = 2
    status.current_limit.name = "single"
    status.duration_until_reset.seconds = 30
    assert await face(("one", "x")) == str(within)
    within.overall_code = within.statuses[0].code = 2
    assert await face(("one", "x")) == str(within)


async def test_a_response_without_a_limit_says_ok_alone(face: Face):
    assert await face(("none", "x")) == str(Response(overall_code=1, statuses=[{"code": 1}]))
    unlimited = Response(overall_code=1, statuses=[{"code": 1, "limit_remaining": 2**32 - 1}])
    assert await face(("free", "x")) == str(unlimited)


async def test_headers_and_metadata_are_sent_where_asked_for():
    options = Options(header_names=HeaderNames(), has_dynamic_metadata=True)
    text = await Face(MemoryStore(counters_at_most=9), options=options)(("one", "x"))
    assert 'key: "RateLimit-Remaining"' in text
    assert 'string_value: "one=x"' in text
    assert 'key: "quotaModeEnabled"' in text


def test_a_request_is_decoded_whole():
    message = Request(domain="d", hits_addend=3)
    descriptor = message.descriptors.add(is_negative_hits=True)
    descriptor.entries.add(key="k", value="v")
    descriptor.hits_addend.value = 0
    descriptor.limit.requests_per_unit = 5
    descriptor.limit.unit = 2
    message.descriptors.add()
    found = decoded(Request.FromString(message.SerializeToString()))
    assert (found.domain, found.hits_addend) == ("d", 3)
    assert found.descriptors[0] == ((("k", "v"),), Override(5, 2), 0, True)
    assert found.descriptors[1] == ((), None, None, False)


@pytest.mark.parametrize("message", [b"\xff", b"\x0a\x02\xff\xfe", b"\x0a\x7f"])
async def test_bytes_that_are_no_request_are_invalid_input(face: Face, message: bytes):
    with pytest.raises(InvalidInput, match="not a RateLimitRequest"):
        await face.raw(message)


async def test_requests_that_the_reference_cannot_answer_end_with_unknown_and_its_words(
    face: Face,
):
    for entries, domain, words in (
        ([("one", "x")], "", "rate limit domain must not be empty"),
        ([], "domain", "rate limit descriptor list must not be empty"),
    ):
        with pytest.raises(GrpcFailure) as refused:
            await face(*entries, domain=domain)
        assert (refused.value.code.value[0], str(refused.value)) == (2, words)
    face.limiter.rules = None
    with pytest.raises(GrpcFailure, match="no rate limit configuration loaded"):
        await face(("one", "x"))
    assert face.statistic("call.should_rate_limit.service_error") == 3


async def test_an_override_without_a_unit_is_refused_and_the_service_goes_on(face: Face):
    message = Request(domain="domain")
    message.descriptors.add().limit.requests_per_unit = 1
    with pytest.raises(InvalidInput, match="no known unit"):
        await face.raw(message.SerializeToString())
    assert "code: OK" in await face(("one", "x"))


@pytest.mark.parametrize("is_awaited", [False, True])
@pytest.mark.parametrize(
    ("on_store_failure", "code"), [("allow", "code: OK"), ("deny", "code: OVER_LIMIT")]
)
async def test_a_failing_store_is_answered_as_the_setting_says(
    is_awaited: bool, on_store_failure: OnStoreFailure, code: str
):
    face = Face(FailingStore(is_awaited=is_awaited), on_store_failure=on_store_failure)
    assert f"overall_{code}" in await face(("one", "x"))
    assert "overall_code: OK" in await face(("none", "x"))
    assert face.metric(f'ratelimit_store_failures_total{{answer="{on_store_failure}"}} 1.0')
    assert face.statistic("call.should_rate_limit.redis_error") == 1
    assert face.statistic("rate_limit.domain.one.total_hits") == 1
    assert face.statistic("rate_limit.domain.one.over_limit") == 0


@pytest.mark.parametrize("is_awaited", [False, True])
async def test_a_failing_store_ends_the_call_with_unknown_by_default(is_awaited: bool):
    face = Face(FailingStore(is_awaited=is_awaited))
    with pytest.raises(GrpcFailure) as failed:
        await face(("one", "x"))
    assert (failed.value.code.value[0], str(failed.value)) == (2, "redis: gone")
    assert face.metric('ratelimit_store_failures_total{answer="error"} 1.0')


async def test_a_full_memory_store_is_a_failing_store():
    face = Face(MemoryStore(counters_at_most=1), on_store_failure="deny")
    await face(("one", "x"))
    assert "overall_code: OVER_LIMIT" in await face(("one", "y"))
    assert face.metric('ratelimit_store_failures_total{answer="deny"} 1.0')


async def test_an_approximation_without_room_is_an_error_and_told_as_one():
    room = Approximation(MemoryStore(counters_at_most=1), lambda: 1)
    face = Face(FailingStore(is_awaited=False), on_store_failure="approximate", approximation=room)
    await face(("one", "x"))
    with pytest.raises(GrpcFailure):
        await face(("one", "y"))
    for answer in ("approximate", "error"):
        assert face.metric(f'ratelimit_store_failures_total{{answer="{answer}"}} 1.0')
    assert face.statistic("rate_limit.domain.one.total_hits") == 2


async def test_a_limit_that_is_shared_out_is_tallied_by_its_part():
    """Of one with five replicas at least one is given away, and the second is over."""
    room = Approximation(MemoryStore(counters_at_most=9), lambda: 5)
    face = Face(FailingStore(is_awaited=False), on_store_failure="approximate", approximation=room)
    for _ in range(4):
        await face(("five", "x"))
    assert face.statistic("rate_limit.domain.five.within_limit") == 1
    assert face.statistic("rate_limit.domain.five.over_limit") == 3


@given(
    st.lists(st.tuples(st.sampled_from(LIMITS), st.integers(0, 2**32 - 1), st.integers(0, 9))),
    st.sampled_from(Code),
    st.lists(st.tuples(st.text(), st.text())),
    st.none() | st.dictionaries(st.text(), st.text(), max_size=1),
)
def test_an_answer_that_is_put_together_is_what_protobuf_would_write(
    told: list[tuple[Limit | None, int, int]],
    code: Code,
    headers: list[tuple[str, str]],
    metadata: dict[str, str] | None,
):
    statuses = tuple(
        Status(Code.OVER_LIMIT if limit else Code.OK, limit, remaining, reset)
        for limit, remaining, reset in told
    )
    decision = Decision(code, statuses, tuple(headers), metadata)
    assert encoded(decision) == response(decision).SerializeToString(deterministic=True)


async def test_statistics_have_the_references_names(face: Face):
    for _ in range(3):
        await face(("one", "x"))
    await face(("address", "10.0.0.1"))
    await face(("one", "x"), domain="a:b|c")
    assert face.statistic("rate_limit.domain.one.total_hits") == 3
    assert face.statistic("rate_limit.domain.one.over_limit") == 2
    assert face.statistic("rate_limit.domain.one.near_limit") == 1
    assert face.statistic("rate_limit.domain.one.within_limit") == 1
    assert face.statistic("rate_limit.domain.address_10_0_0_1.total_hits") == 1
    assert face.statistic("rate_limit.a_b_c.domain_not_found") == 1
    assert face.metric('ratelimit_decisions_total{code="OVER_LIMIT"} 2.0')


async def test_the_service_wide_shadow_mode_is_counted():
    face = Face(MemoryStore(counters_at_most=9), options=Options(shadow_mode=True))
    await face(("one", "x"))
    await face(("one", "x"))
    assert face.statistic("global_shadow_mode") == 1
