"""Where our answer is meant to differ from the reference's, shown on both: each is a row of
docs/explanation/ratelimit_differences.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from redis import Redis

from meshwarden.core.faults import InvalidInput
from meshwarden.core.snapshot import Bundle
from ratelimit_service.core.compile import compile_limits
from tests.support.processes import wait_until
from tests.support.redis_server import RedisServer, running_redis
from tests.support.reference_ratelimit import reference_refusal
from tests.support.side_by_side import (
    PLAIN_LIMITS,
    Answer,
    Pair,
    drop_in_environment,
    limits_folder,
    request_of,
    running_reference,
    side_by_side,
)


def _code(answer: Answer) -> str:
    return str(answer["answer"]["overallCode"])


def _codes(pair: Pair, request: Any) -> tuple[str, str]:
    theirs, ours = pair.ask(request)
    return _code(theirs), _code(ours)


def test_a_limit_of_a_requests_own_without_a_unit_ends_the_reference_and_is_refused_by_us(
    pair: Pair, redis: RedisServer
):
    request = request_of("d", [("five", "unit")])
    request.descriptors[0].limit.requests_per_unit = 1
    with running_reference(drop_in_environment(pair.folder.parents[1], redis)) as reference:
        ready = request_of("d", [("five", "ready")])
        reference.process.wait_until(lambda: "answer" in reference.ask(ready), "it answers")
        assert reference.ask(request)["error"][0] == "UNAVAILABLE"
        wait_until(lambda: not reference.process.is_alive, "the reference ends")
        assert "should not get here" in reference.process.errors
    assert pair.ours.ask(request)["error"][0] == "INVALID_ARGUMENT"
    assert "answer" in pair.ours.ask(request_of("d", [("five", "unit")]))


def test_descriptors_that_join_to_the_same_text_have_counters_of_their_own(pair: Pair):
    assert _codes(pair, request_of("d", [("a", "b_c")])) == ("OK", "OK")
    assert _codes(pair, request_of("d", [("a_b", "c")])) == ("OVER_LIMIT", "OK")


def test_a_quota_that_is_used_up_is_over_the_limit_and_all_of_them_deny(pair: Pair):
    request = request_of("d", [("quota", "q")])
    assert _codes(pair, request) == ("OK", "OK")
    theirs, ours = (one["answer"] for one in pair.ask(request))
    assert (theirs["overallCode"], ours["overallCode"]) == ("OK", "OVER_LIMIT")
    assert [theirs["statuses"][0]["code"], ours["statuses"][0]["code"]] == ["OK", "OVER_LIMIT"]
    assert "durationUntilReset" not in theirs["statuses"][0]
    assert "durationUntilReset" in ours["statuses"][0]
    # Beside a quota that is left, it denies nothing with either.
    assert _codes(pair, request_of("d", [("quota", "q")], [("quota", "other")])) == ("OK", "OK")


def test_more_hits_than_redis_can_add_are_over_the_limit(pair: Pair):
    request = request_of("d", [("five", "many")])
    request.descriptors[0].hits_addend.value = 2**64 - 1
    theirs, ours = pair.ask(request)
    assert theirs["error"][0] == "UNKNOWN"
    assert "parseUint" in theirs["error"][1]
    assert _code(ours) == "OVER_LIMIT"


def test_hits_are_given_back(pair: Pair):
    request = request_of("d", [("five", "back")])
    assert _codes(pair, request) == ("OK", "OK")
    request.descriptors[0].is_negative_hits = True
    theirs, ours = (one["answer"]["statuses"][0]["limitRemaining"] for one in pair.ask(request))
    assert (theirs, ours) == (3, 5)


def test_a_wildcard_may_stand_anywhere(pair: Pair):
    theirs, ours = pair.ask(request_of("d", [("inner", "xyz")]))
    assert "currentLimit" not in theirs["answer"]["statuses"][0]
    assert ours["answer"]["statuses"][0]["currentLimit"]["requestsPerUnit"] == 5


def test_json_says_what_is_wrong(pair: Pair):
    answers = [side.post('{"domain": "d"}') for side in (pair.theirs, pair.ours)]
    assert answers == [
        {"status": 400, "body": "Bad Request\n"},
        {"status": 400, "body": "Bad Request\nrate limit descriptor list must not be empty\n"},
    ]


def test_bytes_that_mean_nothing_are_the_callers_fault(pair: Pair):
    codes = []
    for side in (pair.theirs, pair.ours):
        with pytest.raises(grpc.RpcError) as refused:
            side.call(b"\xff\xff", timeout=5)
        codes.append(refused.value.code().name)
    assert codes == ["INTERNAL", "INVALID_ARGUMENT"]


def test_the_page_of_statistics_shows_them(pair: Pair):
    pages = ["\n".join(side.lines("/stats")) for side in (pair.theirs, pair.ours)]
    name = "ratelimit.service.config_load_success"
    assert [name in page for page in pages] == [False, True]


def test_an_unlimited_limit_has_statistics(pair: Pair):
    assert _codes(pair, request_of("d", [("free", "x")])) == ("OK", "OK")
    name = "ratelimit.service.rate_limit.d.free.total_hits"
    wait_until(lambda: pair.ours.statsd.counters()[name] == 1, "ours counts it")
    assert not pair.theirs.statsd.counters()[name]


def test_looking_creates_no_counter(pair: Pair, redis: RedisServer):
    request = request_of("d", [("five", "looked-at")])
    request.descriptors[0].hits_addend.value = 0
    assert _codes(pair, request) == ("OK", "OK")
    with Redis(port=redis.port, decode_responses=True) as client:
        found = list(client.scan_iter(match="*looked-at*"))
    assert [key.startswith("d_five_looked-at_") for key in found] == [True]


@pytest.mark.parametrize(
    ("text", "theirs"),
    [
        ("domain: d\ndescriptors: [{key: a, metadata: {b: 1}}]", "unknown key 'metadata'"),
        (
            "domain: d\ndescriptors: [{key: a, value: 'b*c', share_threshold: true}]",
            "share_threshold can only be used with wildcard values (ending with '*')",
        ),
    ],
    ids=["metadata", "shared-inner-wildcard"],
)
def test_what_is_newer_than_the_reference_is_accepted(text: str, theirs: str, tmp_path: Path):
    (tmp_path / "limits.yaml").write_text(text)
    assert theirs in (reference_refusal(tmp_path) or "")
    assert compile_limits(Bundle({"limits.yaml": text.encode()})).domains


def test_what_follows_the_first_document_is_read(tmp_path: Path):
    """The reference reads no further, and so drops limits without a word."""
    second = "domain: d\ndescriptors: []\n---\ndomain: e\ndescriptors: []\n"
    (tmp_path / "limits.yaml").write_text(second)
    assert reference_refusal(tmp_path) is None
    assert set(compile_limits(Bundle({"limits.yaml": second.encode()})).domains) == {"d", "e"}
    broken = " domain: d\ndescriptors:\n- {key: a, rate_limit: {unit: day}}\n"
    (tmp_path / "limits.yaml").write_text(broken)
    assert reference_refusal(tmp_path) is None
    with pytest.raises(InvalidInput, match="document start"):
        compile_limits(Bundle({"limits.yaml": broken.encode()}))


def test_a_stuck_redis_is_waited_for_a_tenth_of_a_second(tmp_path: Path):
    """REDIS_TIMEOUT is 10 s with the reference, unless set; Envoy gave up long before."""
    (limits_folder(tmp_path) / "limits.yaml").write_text(PLAIN_LIMITS)
    request = request_of("d", [("five", "stuck")])
    with (
        running_redis() as own,
        side_by_side(tmp_path, own, REDIS_TIMEOUT="") as both,
    ):
        assert _codes(both, request) == ("OK", "OK")
        own.pause()
        with pytest.raises(grpc.RpcError) as late:
            both.theirs.call(request.SerializeToString(), timeout=1)
        with pytest.raises(grpc.RpcError) as refused:
            both.ours.call(request.SerializeToString(), timeout=1)
        own.resume()
    # Go's server may see the deadline first, and then answers CANCELLED.
    assert late.value.code().name in {"DEADLINE_EXCEEDED", "CANCELLED"}
    assert refused.value.code().name == "UNKNOWN"
    assert "redis" in str(refused.value.details())


def test_what_is_left_out_is_not_counted_as_within_the_limit_and_a_raised_limit_is_obeyed(
    redis: RedisServer, tmp_path: Path
):
    file = limits_folder(tmp_path) / "limits.yaml"
    file.write_text(PLAIN_LIMITS.replace("domain: d", "domain: left"))
    with side_by_side(
        tmp_path,
        redis,
        STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT="true",
        LOCAL_CACHE_SIZE_IN_BYTES="1000000",
    ) as both:
        over = request_of("left", [("five", "f")], [("a", "x")], hits_addend=1)
        assert _codes(both, over) == ("OK", "OK")
        assert _codes(both, over) == ("OVER_LIMIT", "OVER_LIMIT")
        name = "ratelimit.service.rate_limit.left.five.within_limit"
        wait_until(lambda: both.theirs.statsd.counters()[name] == 2, "the reference counts both")
        assert f"{name}: 1" in both.ours.lines("/stats")
        file.write_text(file.read_text().replace("per_unit: 1}", "per_unit: 9}"))
        raised = "left.a: unit=YEAR requests_per_unit=9, shadow_mode: false, quota_mode: false"
        for side in (both.theirs, both.ours):
            wait_until(lambda s=side: raised in s.lines("/rlconfig"), "the limit is raised")  # type: ignore[misc]
        assert _codes(both, request_of("left", [("a", "x")])) == ("OVER_LIMIT", "OK")
