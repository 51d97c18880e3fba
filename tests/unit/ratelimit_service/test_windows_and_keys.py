"""The laws of windows and of counter keys."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from ratelimit_service.core.keys import counted_values, counter_key
from ratelimit_service.core.model import Options
from ratelimit_service.core.window import SECONDS, Unit, Window
from tests.support.limits import descriptor

UNITS = st.sampled_from(sorted(SECONDS))
NOW = st.integers(0, 2**40)
TEXT = st.text(alphabet="ab_:1*", max_size=4)
VALUES = st.lists(st.tuples(TEXT, TEXT), max_size=3)


@given(unit=UNITS, now=NOW)
def test_a_window_holds_its_moment_and_is_aligned_to_the_epoch(unit: Unit, now: int):
    window = Window.of(unit, now=now)
    assert window.start <= now < window.end
    assert window.start % SECONDS[unit] == 0
    assert 1 <= window.seconds_until_reset(now) <= window.seconds
    assert now + window.seconds_until_reset(now) == window.end


@given(unit=UNITS, now=NOW)
def test_the_next_window_begins_where_this_one_ends(unit: Unit, now: int):
    window = Window.of(unit, now=now)
    assert Window.of(unit, now=window.end).start == window.end
    assert Window.of(unit, now=window.end - 1) == window


def test_weeks_begin_on_thursday():
    """1 January 1970 was one."""
    assert Window.of(Unit.WEEK, now=1_000_000).start == 604_800


@given(
    domains=st.tuples(TEXT, TEXT),
    units=st.tuples(UNITS, UNITS),
    nows=st.tuples(st.integers(0, 200), st.integers(0, 200)),
    values=st.tuples(VALUES, VALUES),
)
def test_two_counters_never_share_a_key(
    domains: tuple[str, str],
    units: tuple[Unit, Unit],
    nows: tuple[int, int],
    values: tuple[list[tuple[str, str]], list[tuple[str, str]]],
):
    """Only the same domain, entries, unit and window give the same key, whatever a client sends."""
    windows = [Window.of(unit, now=now) for unit, now in zip(units, nows, strict=True)]
    first, second = (
        (domains[side], values[side], windows[side].unit, windows[side].start) for side in (0, 1)
    )
    assume(first != second)
    keys = {
        counter_key(domains[side], values[side], window=windows[side], options=Options())
        for side in (0, 1)
    }
    assert len(keys) == 2


def test_the_reference_format_lets_descriptors_collide_and_ours_does_not():
    window = Window.of(Unit.SECOND, now=5)
    colliding = [[("a", "b_c")], [("a_b", "c")]]
    theirs, ours = (
        {counter_key("d", values, window=window, options=options) for values in colliding}
        for options in (Options(key_format="envoyproxy"), Options())
    )
    assert theirs == {"d_a_b_c_5"}
    assert len(ours) == 2


def test_the_prefix_stands_before_both_formats():
    window = Window.of(Unit.SECOND, now=5)
    for key_format in ("envoyproxy", "meshwarden"):
        options = Options(key_format=key_format, key_prefix="p:")
        assert counter_key("d", [("k", "v")], window=window, options=options).startswith("p:")


def test_a_shared_pattern_stands_for_the_value_of_its_entry_alone():
    entries = descriptor(("a", "x1"), ("b", "x1"))
    assert counted_values(entries, [(1, "x*")]) == [("a", "x1"), ("b", "x*")]
