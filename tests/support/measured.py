"""What a test measured, told at the end of pytest's output however well it went."""

from __future__ import annotations

MEASURED: list[str] = []


def measured(line: str) -> None:
    """Have `line` told."""
    MEASURED.append(line)
