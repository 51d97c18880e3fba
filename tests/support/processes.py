"""Real processes in tests: started, waited for with a limit, output kept, stopped by their own id.

Knows no particular program; `envoy.py` beside it does.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

CHECKOUT = Path(__file__).resolve().parents[2]
PAUSE_SECONDS = 0.02
"""Between two looks at a condition."""
MEASURING = "COVERAGE_PROCESS_CONFIG"
"""With this variable, which coverage sets, a child's coverage is measured: two fifths of its
start."""


def wait_until(condition: Callable[[], object], what: str, *, limit_seconds: float = 10.0) -> None:
    """Return as soon as `condition()` is true; after `limit_seconds` fail, naming `what`."""
    deadline = time.monotonic() + limit_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {limit_seconds} s in vain until {what}")
        time.sleep(PAUSE_SECONDS)


async def until(condition: Callable[[], object], what: str, *, limit_seconds: float = 10.0) -> None:
    """As `wait_until`, for a test whose event loop must go on (a server runs in it); `condition`
    may have to be awaited.
    """
    deadline = time.monotonic() + limit_seconds
    while True:
        found = condition()
        if await found if inspect.isawaitable(found) else found:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {limit_seconds} s in vain until {what}")
        await asyncio.sleep(PAUSE_SECONDS)


@dataclass(frozen=True)
class Running:
    """A child process and what it has written so far."""

    child: subprocess.Popen[bytes]
    folder: Path

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def output(self) -> str:
        """Everything it wrote to its standard output."""
        return (self.folder / "stdout").read_text(errors="replace")

    @property
    def errors(self) -> str:
        """Everything it wrote to its standard error."""
        return (self.folder / "stderr").read_text(errors="replace")

    @property
    def is_alive(self) -> bool:
        return self.child.poll() is None

    def wait_until(
        self, condition: Callable[[], object], what: str, *, limit_seconds: float = 10.0
    ) -> None:
        """As `wait_until`, but fails at once, with the process's errors, when it has ended."""

        def ready() -> bool:
            if condition():
                return True
            ended = self.child.poll()
            if ended is not None:
                raise AssertionError(f"exit {ended} before {what}:\n{self.output}{self.errors}")
            return False

        wait_until(ready, what, limit_seconds=limit_seconds)

    def stop(self, *, limit_seconds: float = 10.0) -> int:
        """Send SIGTERM and return the exit status; SIGKILL, and fail, where the limit passes."""
        if self.is_alive:
            self.child.terminate()
        try:
            return self.child.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            raise AssertionError(
                f"{self.child.args!r} did not stop within {limit_seconds} s:\n{self.errors[-2000:]}"
            ) from None


@contextmanager
def running(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path = CHECKOUT,
    is_measured: bool = True,
) -> Iterator[Running]:
    """Run `command`, `environment` added to ours, for the length of the block, then stop it.

    `is_measured` says whether its coverage counts; not where other tests run the same lines.
    """
    inherited = {key: value for key, value in os.environ.items() if is_measured or key != MEASURING}
    with TemporaryDirectory(prefix="meshwarden-test-") as name:
        folder = Path(name)
        with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
            child = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=cwd,
                env={**inherited, **(environment or {})},
            )
        process = Running(child, folder)
        try:
            yield process
        finally:
            process.stop()
