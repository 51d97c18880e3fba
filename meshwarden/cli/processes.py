"""The processes that `up` runs: started in order, their logs in one stream, stopped together."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, RenderableType
from rich.text import Text

from meshwarden.adapters.workers import end_with_parent
from meshwarden.core.faults import Misconfigured, Unavailable

STOP_SECONDS = 8.0
READ_ON_SECONDS = 1.0
_LINE_BYTES_AT_MOST = 1 << 20
_COLOURS = ("cyan", "magenta", "green", "yellow", "blue")
_PASSED_ON = ("EXT_AUTHZ_", "RATELIMIT_", "COVERAGE", "PYTHON", "LC_", "LD_", "SSL_", "COV_")
_PASSED_ON_NAMES = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "USER")


@dataclass
class Child:
    """One running process."""

    name: str
    process: asyncio.subprocess.Process
    reader: asyncio.Task[None]


class Children:
    """Everything that was started, in its order."""

    def __init__(self) -> None:
        self._children: list[Child] = []
        self._console = Console(soft_wrap=True, highlight=False, emoji=False, markup=False)

    async def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        """Start `command` with `environment` added to ours; what it writes appears under `name`.

        It ends when we are killed (Linux). A secret belongs into `environment`: everybody on the
        machine sees the command. Raises `Misconfigured` for what can't be run.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env={**_environment(), **(environment or {})},
                limit=_LINE_BYTES_AT_MOST,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        except OSError as error:
            raise Misconfigured(f"{command[0]} can't be run: {error.strerror}") from None
        colour = _COLOURS[len(self._children) % len(_COLOURS)]
        reader = asyncio.create_task(self._read(name, colour, process))
        self._children.append(Child(name, process, reader))

    def say(self, text: str, *, style: str = "bold") -> None:
        """A line of our own in the log."""
        self._print(Text(text, style=style))

    def show(self, *items: RenderableType) -> None:
        """Tables and lines of our own, among the log."""
        for item in items:
            self._print(item)

    def ended(self) -> str:
        """The name and status of a process that ended by itself; empty while all run."""
        for child in self._children:
            if child.process.returncode is not None:
                return f"{child.name} ended with status {child.process.returncode}"
        return ""

    async def wait_until(
        self,
        missing: Callable[[], str],
        what: str,
        *,
        limit_seconds: float = 30.0,
        pause_seconds: float = 0.05,
    ) -> None:
        """Return when nothing is `missing`. Raises `Unavailable`, saying what is, when a process
        ends, or the limit passes, before.
        """
        deadline = time.monotonic() + limit_seconds
        while told := await asyncio.to_thread(missing):
            if ended := self.ended():
                raise Unavailable(f"{ended} before {what}; its log above says why")
            if time.monotonic() > deadline:
                raise Unavailable(f"waited {limit_seconds:g} s in vain until {what}: {told}")
            await asyncio.sleep(pause_seconds)

    async def stop(self) -> None:
        """End all of them, the last started first; what does not end in time is killed."""
        for child in reversed(self._children):
            if child.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.process.terminate()
        waiting = [asyncio.create_task(child.process.wait()) for child in self._children]
        if waiting:
            await asyncio.wait(waiting, timeout=STOP_SECONDS)
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGKILL)
        for child in self._children:
            await child.process.wait()
        if readers := [child.reader for child in self._children]:
            # What a process said last often says why it ended.
            await asyncio.wait(readers, timeout=READ_ON_SECONDS)
        for child in self._children:
            child.reader.cancel()

    async def _read(self, name: str, colour: str, process: asyncio.subprocess.Process) -> None:
        if process.stdout is None:
            return
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                line = b"[a line longer than 1 MiB was left out]\n"
            if not line:
                return
            text = Text(f"{name:9} ", style=colour)
            text.append_text(Text.from_ansi(line.decode("utf-8", "replace").rstrip("\n")))
            self._print(text)

    def _print(self, item: RenderableType) -> None:
        """Write a line. Where the terminal is gone nothing is written from then on: stopping must
        go on without it, and end as it would have.
        """
        try:
            self._console.print(item)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _environment() -> dict[str, str]:
    """Our environment without names such as PORT or HOST, which the rate-limit service would take
    as settings.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON_NAMES or name.startswith(_PASSED_ON)
    }
