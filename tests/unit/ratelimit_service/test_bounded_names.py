"""Names are bounded, and who is in use stays."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.core.bounded_names import BoundedNames


class Names:
    """Rows that are lists, and the names that left."""

    def __init__(self, at_most: int) -> None:
        self.left: list[str] = []
        self.rows: BoundedNames[list[int]] = BoundedNames(
            at_most=at_most, make=list, drop=self._drop
        )

    def _drop(self, rows: Mapping[str, list[int]]) -> None:
        self.left += rows


def test_a_name_keeps_its_row():
    names = Names(4)
    names.rows.row("a").append(1)
    for other in ("b", "c"):
        names.rows.row(other)
    assert names.rows.row("a") == [1]


def test_the_name_idle_longest_makes_room_and_who_is_in_use_stays():
    names = Names(10)
    for number in range(100):
        names.rows.row("busy").append(number)
        names.rows.row(f"once{number}")
    assert len(names.rows.row("busy")) == 100
    assert names.left[0] == "once0"
    assert "busy" not in names.left


def test_kept_names_stay_and_are_not_counted_until_they_are_kept_no_more():
    names = Names(2)
    names.rows.row("a").append(1)
    names.rows.keep(["a", "b", "c", "d"])
    walked_over = names.rows.recent
    for number in range(10):
        names.rows.row(f"other{number}")
    assert {"a", "b", "c", "d"} <= walked_over.keys(), "a thread may be walking over it"
    assert names.rows.row("a") == [1]
    assert {"a", "b", "c", "d"} <= dict(names.rows.items()).keys()
    names.rows.keep(["b"])
    for number in range(20):
        names.rows.row(f"more{number}")
    assert {"a", "c", "d"} <= set(names.left)
    assert "b" in names.rows.recent


@given(st.lists(st.integers(0, 30)), st.integers(2, 12))
def test_there_are_never_more_than_allowed_and_each_is_held_or_left(used: list[int], at_most: int):
    names = Names(at_most)
    for number in used:
        names.rows.row(str(number))
        assert len(names.rows) <= at_most
        assert str(number) in names.rows.recent
    held = dict(names.rows.items())
    assert set(map(str, used)) == held.keys() | set(names.left)
