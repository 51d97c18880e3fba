"""A row for each name, for so many names at most: who was idle longest makes room.

Two generations stand in for the order of use, so that a name in use costs one look into a
dictionary and nothing is moved: a name is put into `recent` when it is used, and when that is full,
what is there becomes the earlier generation and the one before it is dropped. Names to be kept are
carried over and not counted. Knows nothing of what a row holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Generic, TypeVar

Row = TypeVar("Row")


class BoundedNames(Generic[Row]):
    """`make` gives a new name's row; `drop` is told the names that leave, with their rows."""

    def __init__(
        self,
        *,
        at_most: int,
        make: Callable[[], Row],
        drop: Callable[[Mapping[str, Row]], None],
    ) -> None:
        self._generation_at_most = max(1, at_most // 2)
        self._make = make
        self._drop = drop
        self._kept: frozenset[str] = frozenset()
        self.recent: dict[str, Row] = {}
        """Rows of the names used last; a name that is not here has to be asked of `row`."""
        self._earlier: dict[str, Row] = {}

    def __len__(self) -> int:
        return len(self.recent) + len(self._earlier)

    def row(self, name: str) -> Row:
        """The row of `name`, made where it has none."""
        row = self.recent.get(name)
        if row is not None:
            return row
        row = self._earlier.pop(name, None)
        if row is None:
            row = self._make()
        if len(self.recent) - len(self._kept) >= self._generation_at_most:
            self._turn()
        self.recent[name] = row
        return row

    def items(self) -> list[tuple[str, Row]]:
        """Every name and its row, as they are now: rows may come and go while it is walked over."""
        return list(chain(self.recent.items(), self._earlier.items()))

    def keep(self, names: Iterable[str]) -> None:
        """From now on `names`, and no others, stay however idle they are."""
        self._kept = frozenset()
        kept = frozenset(names)
        for name in kept:
            if name not in self.recent:
                row = self._earlier.pop(name, None)
                self.recent[name] = self._make() if row is None else row
        self._kept = kept

    def _turn(self) -> None:
        # No dictionary loses a kept name meanwhile: a reading may walk over it in a thread.
        leaving, full = self._earlier, self.recent
        self._earlier = {name: row for name, row in full.items() if name not in self._kept}
        self.recent = {name: full[name] for name in self._kept}
        if leaving:
            self._drop(leaving)
