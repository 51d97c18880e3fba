"""Whether Redis answers: not ready until it did once, from then on a metric and a line in the log.

Ready stays ready when Redis goes away: then `on_store_failure` answers, and taking every replica
out of service at once would help nobody. This is the reference's way, too; and as there a setting
makes health follow Redis.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from meshwarden.adapters.logs import logger
from meshwarden.adapters.telemetry import Metrics
from meshwarden.core.faults import Unavailable

INTERVAL_SECONDS = 1.0


class RedisWatch:
    """Pings for ever. `pause` waits so many seconds."""

    def __init__(
        self,
        ping: Callable[[], Awaitable[None]],
        *,
        metrics: Metrics,
        pause: Callable[[float], Awaitable[None]],
        stays_ready: bool = True,
    ) -> None:
        self._stays_ready = stays_ready
        self._ping = ping
        self._pause = pause
        self._failure = "redis has not answered yet"
        self._was_up = False
        self._is_up: bool | None = None
        """None before the first ping."""
        metrics.gauge(
            "ratelimit_store_is_up",
            "1 while Redis answers.",
            lambda: float(not self._failure),
        )

    async def run(self) -> None:
        """Ping, note, pause, again."""
        while True:
            await self.check()
            await self._pause(INTERVAL_SECONDS)

    async def check(self) -> None:
        """Ping once and note what came of it."""
        failure = ""
        try:
            await self._ping()
        except Unavailable as fault:
            failure = str(fault)
        is_up = not failure
        if is_up != self._is_up:
            if failure:
                logger().error("store_is_down", reason=failure)
            else:
                logger().info("store_is_up")
        self._failure = failure
        self._is_up = is_up
        self._was_up = self._was_up or is_up

    def unready_reason(self) -> str:
        """Why the service can't be ready; empty from the first answer on, or while Redis answers
        where ready does not stay ready.
        """
        return "" if self._was_up and self._stays_ready else self._failure

    def status(self) -> dict[str, object]:
        """Whether Redis answers now, for `/readyz?verbose`."""
        return {"kind": "redis", "is_up": not self._failure, "reason": self._failure or None}
