"""One piece of work that many ask for at once and that is done once for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class SharedTask(Generic[Result]):
    """Runs `work` for whoever asks while none of it is under way; the others get its outcome."""

    def __init__(self, work: Callable[[], Awaitable[Result]]) -> None:
        self._work = work
        self._task: asyncio.Task[Result] | None = None

    def start(self) -> asyncio.Task[Result]:
        """The work that is under way, or new work. Who doesn't await it may let it be."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
            self._task.add_done_callback(_seen)
        return self._task

    async def outcome(self) -> Result:
        """Its result. Raises what it met; being cancelled, leaves it to the others."""
        return await asyncio.shield(self.start())

    async def close(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> Result:
        return await self._work()


def _seen(task: asyncio.Task[Result]) -> None:
    """Nobody may have waited for a fault; then it is no one's."""
    if not task.cancelled():
        task.exception()
