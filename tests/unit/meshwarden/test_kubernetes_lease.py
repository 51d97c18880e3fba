"""Leader election over time that the test passes, with calls that are slow, lost or not answered:
what a real API server can't be made to do at a chosen moment.
"""

from __future__ import annotations

import asyncio
import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwarden.adapters.kubernetes_client import ApiFailure
from meshwarden.adapters.kubernetes_lease import Lease, LeaseTimes

TIMES = LeaseTimes(duration=15, renew_within=9, retry=2, calls_end_within=5)


@dataclass
class Leases:
    """One Lease, with the API server's rule for changing it. Each call takes `seconds`; of one that
    is `lost` the answer never comes, whether or not it was done.
    """

    now: float = 0.0
    value: dict[str, Any] | None = None
    seconds: float = 0.0
    lost: str = ""
    calls: list[str] = field(default_factory=list)

    async def call(self, method: str, path: str, *, body: Any = None) -> Any:
        del path
        self.calls.append(method)
        self.now += self.seconds
        if self.lost == "before":
            raise ApiFailure(0, "no answer")
        if method == "GET":
            if self.value is None:
                raise ApiFailure(404, "404")
            answer = copy.deepcopy(self.value)
        else:
            known = (self.value or {}).get("metadata", {}).get("resourceVersion")
            if known != body["metadata"].get("resourceVersion"):
                raise ApiFailure(409, "409")
            metadata = body["metadata"] | {"resourceVersion": str(int(known or 0) + 1)}
            self.value = copy.deepcopy(body) | {"metadata": metadata}
            answer = copy.deepcopy(self.value)
        if self.lost == "after" and method != "GET":
            raise ApiFailure(0, "no answer")
        return answer


def candidate(leases: Leases, identity: str) -> Lease:
    return Lease(
        leases,  # type: ignore[arg-type] # all that it uses of a client
        namespace="m",
        name="l",
        identity=identity,
        clock=lambda: leases.now,
        # Nobody's wall clock is right.
        now=lambda: datetime(2000 + ord(identity) % 30, 1, 1, tzinfo=UTC),
        chance=lambda: 0.0,
        times=TIMES,
    )


steps = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from([0.1, 1.0, 2.0, 5.0, 8.9, 15.0]),
        st.sampled_from([0.0, 0.0, 0.5, 2.5]),
        st.sampled_from(["", "", "", "before", "after"]),
    ),
    max_size=25,
)


@settings(max_examples=40)
@given(steps)
def test_at_most_one_leads_whatever_is_slow_or_lost(found):
    """At every moment, and with time left for the calls of who led."""

    async def follow() -> None:
        leases = Leases()
        candidates = {identity: candidate(leases, identity) for identity in "abc"}
        led_until = {identity: float("-inf") for identity in "abc"}
        for who, passed, seconds, lost in found:
            leases.now += passed
            leases.seconds, leases.lost = seconds, lost
            sent_at = leases.now
            before = candidates[who].is_leading
            if await candidates[who].renew():
                led_until[who] = sent_at + TIMES.renew_within
                if not before:
                    others = [led_until[other] for other in "abc" if other != who]
                    assert max(others) + TIMES.calls_end_within <= leases.now
            assert sum(each.is_leading for each in candidates.values()) <= 1

    asyncio.run(follow())


async def test_a_lease_that_is_given_back_is_free_at_once():
    leases = Leases()
    first, second = candidate(leases, "a"), candidate(leases, "b")
    assert await first.renew()
    assert not await second.renew()
    await first.close()
    assert not first.is_leading
    assert await second.renew()
    assert leases.value is not None
    assert leases.value["spec"]["leaseTransitions"] == 1


async def test_a_dead_holders_lease_is_taken_after_its_duration_and_not_before():
    leases = Leases()
    assert await candidate(leases, "a").renew()
    other = candidate(leases, "b")
    leases.now = 100.0
    assert not await other.renew()
    leases.now = 114.9
    assert not await other.renew()
    leases.now = 115.0
    assert await other.renew()


async def test_who_does_not_lead_gives_nothing_back():
    leases = Leases()
    assert await candidate(leases, "a").renew()
    calls = len(leases.calls)
    await candidate(leases, "b").close()
    assert len(leases.calls) == calls


@pytest.mark.parametrize("wrong", [{"renew_within": 3}, {"calls_end_within": 7}, {"retry": 0}])
def test_times_without_a_margin_are_refused(wrong):
    with pytest.raises(ValueError, match="must"):
        LeaseTimes(**wrong)
