"""When a breaker lets calls through."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from meshwarden.core.breaker import Breaker


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not():
    breaker = Breaker(failures_at_most=2, pause_seconds=1)
    breaker.failed(0)
    breaker.succeeded()
    breaker.failed(0)
    assert breaker.permits(0)
    breaker.failed(0)
    assert breaker.is_open
    assert not breaker.permits(0.9)


def test_after_each_pause_one_call_is_let_through_whatever_becomes_of_it():
    breaker = Breaker(failures_at_most=1, pause_seconds=1)
    breaker.failed(0)
    assert [breaker.permits(now) for now in (0.5, 1, 1.5, 2, 2.5)] == [
        False,
        True,
        False,
        True,
        False,
    ]
    breaker.succeeded()
    assert breaker.permits(2.6)


@given(st.lists(st.sampled_from(["ask", "fail", "succeed"]), max_size=50))
def test_while_it_is_open_no_more_calls_pass_than_pauses(events: list[str]):
    """At one call a second and a pause of three, at most every third call passes."""
    breaker = Breaker(failures_at_most=1, pause_seconds=3)
    passed_at: list[int] = []
    for now, event in enumerate(events):
        if event == "fail":
            breaker.failed(now)
        elif event == "succeed":
            breaker.succeeded()
            passed_at.clear()
        elif breaker.is_open and breaker.permits(now):
            passed_at.append(now)
    assert all(later - earlier >= 3 for earlier, later in pairwise(passed_at))
