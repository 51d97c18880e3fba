"""The laws of windows and of counter keys."""

from __future__ import annotations

import re

from hypothesis import assume, given
from hypothesis import strategies as st

from ratelimit_service.core.keys import counted_values, counter_key
from ratelimit_service.core.model import Options, Rules
from ratelimit_service.core.window import SECONDS, Unit, Window
from tests.support.limits import descriptor

UNITS = st.sampled_from(sorted(SECONDS))
NOW = st.integers(0, 2**40)
TEXT = st.text(alphabet="ab_:12*ü", max_size=4)
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


def read_key(key: str) -> tuple[str, int, str, list[tuple[str, str]]]:
    """Unit, start of the window, domain and entries, read back from a key."""
    _, unit, start, rest = key.split(":", 3)
    texts = []
    while rest:
        length, _, rest = rest.partition(":")
        texts.append(rest[: int(length)])
        rest = rest[int(length) :]
    domain, *values = texts
    return unit, int(start), domain, list(zip(values[::2], values[1::2], strict=True))


@given(domain=TEXT, unit=UNITS, now=NOW, values=VALUES)
def test_two_counters_never_share_a_key(
    domain: str, unit: Unit, now: int, values: list[tuple[str, str]]
):
    """Everything can be read back from a key, whatever a client sends, so no two are the same."""
    window = Window.of(unit, now=now)
    key = counter_key(domain, values, window=window, rules=Rules({}))
    assume(not is_digest(key))
    assert read_key(key) == (unit.name.lower(), window.start, domain, values)


def test_a_client_does_not_choose_how_long_a_key_is():
    window = Window.of(Unit.MINUTE, now=0)
    keys = {
        counter_key("d", [("key", letter * 16_000 + end)], window=window, rules=Rules({}))
        for letter in "ab"
        for end in ("", "c")
    }
    assert len(keys) == 4
    assert all(is_digest(key) and len(key) < 100 for key in keys)


def is_digest(key: str) -> bool:
    """Long keys and values stand in a counter's key by their SHA-256; framed ones by lengths."""
    return re.search(r"sha256:[0-9a-f]{64}$", key) is not None


def test_the_reference_format_lets_descriptors_collide_and_ours_does_not():
    window = Window.of(Unit.SECOND, now=5)
    colliding = [[("a", "b_c")], [("a_b", "c")]]
    theirs, ours = (
        {counter_key("d", values, window=window, rules=Rules({}, options)) for values in colliding}
        for options in (Options(key_format="envoyproxy"), Options())
    )
    assert theirs == {"d_a_b_c_5"}
    assert len(ours) == 2


def test_the_prefix_stands_before_both_formats():
    window = Window.of(Unit.SECOND, now=5)
    for key_format in ("envoyproxy", "meshwarden"):
        rules = Rules({}, Options(key_format=key_format, key_prefix="p:"))
        assert counter_key("d", [("k", "v")], window=window, rules=rules).startswith("p:")


def test_a_shared_pattern_stands_for_the_value_of_its_entry_alone():
    entries = descriptor(("a", "x1"), ("b", "x1"))
    assert list(counted_values(entries, [(1, "x*")])) == [("a", "x1"), ("b", "x*")]
