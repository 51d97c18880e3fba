"""What each unary gRPC call gets, whatever transport brings it: a bound, a span, a status, figures.

    handler(message: bytes, metadata) -> bytes            answered at once
                                      -> Awaitable[bytes]  answered when it is ready

A call counts as in flight from its headers on, before its message is read, so that a flood is met
by the overload answer and not by memory growth. Health is answered even then: a busy service taken
for a dead one would leave the decision to its callers' failure mode.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import grpc

from meshwarden.adapters.fault_status import grpc_status
from meshwarden.adapters.logs import logger
from meshwarden.adapters.telemetry import Metrics
from meshwarden.adapters.tracing import Tracing
from meshwarden.core.faults import Fault

Metadata = Sequence[tuple[str, str | bytes]]
Handler = Callable[[bytes, Metadata], bytes | Awaitable[bytes]]
CallObserver = Callable[[str, float], None]
"""Told the path of each call that ended, health checks included, and its seconds."""

MESSAGE_SECONDS_AT_MOST = 5.0
"""A call whose message does not come is ended: it counts as in flight meanwhile."""

PING_SECONDS_AT_MOST = 5.0
"""A client that does not answer a ping for so long is gone."""
PINGS_TOO_SOON_AT_MOST = 3

HEALTH_CHECK = "/grpc.health.v1.Health/Check"


class GrpcFailure(Exception):
    """Ends a call with a gRPC status that is not one of the fault table's: `code` is a
    `grpc.StatusCode` value's number.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = next(status for status in grpc.StatusCode if status.value[0] == code)


@dataclass(frozen=True, slots=True)
class Method:
    """One unary method.

    `overloaded` gives the in-band answer when too many calls are in flight; without it the call
    ends with RESOURCE_EXHAUSTED. `trace_headers` finds the caller's `traceparent` in a message
    whose metadata has none.
    """

    path: str
    handler: Handler
    overloaded: Callable[[], bytes] | None = None
    trace_headers: Callable[[bytes], Mapping[str, str]] | None = None


class Calls:
    """The calls of one process's main port; `calls_at_most` of them may be in flight."""

    def __init__(
        self,
        calls_at_most: int,
        *,
        metrics: Metrics,
        tracing: Tracing,
        observe: CallObserver | None = None,
    ) -> None:
        self._calls_at_most = calls_at_most
        self._tracing = tracing
        self._observe = observe
        self._in_flight = 0
        self._ended = metrics.tally(
            "grpc_calls", "Calls by method and gRPC status.", ["method", "code"]
        )
        self._seconds = metrics.durations(
            "grpc_call_seconds", "Seconds from a call's headers to its answer."
        )
        metrics.gauge("grpc_calls_in_flight", "Calls being answered.", lambda: self._in_flight)

    def begin(self) -> float:
        """Count a call whose headers came; what `end` wants to know of it."""
        self._in_flight += 1
        return time.perf_counter()

    def end(self, path: str, code: str, began: float) -> None:
        """Count the call as ended; `code` names its gRPC status, or OVERLOADED."""
        self._in_flight -= 1
        self._ended.add(path, code)
        seconds = time.perf_counter() - began
        self._seconds.add(seconds)
        if self._observe is not None:
            self._observe(path, seconds)

    def are_too_many(self, method: Method) -> bool:
        """Whether the call of `method` that just began gets the overload answer."""
        return self._in_flight > self._calls_at_most and method.path != HEALTH_CHECK

    def answer(
        self, method: Method, message: bytes, metadata: Metadata
    ) -> bytes | Awaitable[bytes]:
        """What the handler answers, in a span where calls are traced. Raises what it raises."""
        if self._tracing.is_on:
            return self._traced(method, message, metadata)
        return method.handler(message, metadata)

    async def _traced(self, method: Method, message: bytes, metadata: Metadata) -> bytes:
        carrier = {name: value for name, value in metadata if isinstance(value, str)}
        if "traceparent" not in carrier and method.trace_headers is not None:
            carrier = dict(method.trace_headers(message))
        with self._tracing.span(method.path.lstrip("/"), carrier):
            answer = method.handler(message, metadata)
            return answer if isinstance(answer, bytes) else await answer


def status_of(method: Method, error: BaseException) -> tuple[grpc.StatusCode, str]:
    """The status and the words that end a call whose handler raised `error`; what is no fault tells
    the caller nothing of itself, and is logged.
    """
    if isinstance(error, Fault):
        return grpc_status(error), str(error)
    if isinstance(error, GrpcFailure):
        return error.code, str(error)
    logger().error("call_failed", method=method.path, error=type(error).__name__, exc_info=error)
    return grpc.StatusCode.INTERNAL, "internal fault; see the service's log"
