"""The reference's HTTP pages: `/json`, `/healthcheck`; on the debug port `/rlconfig`, `/stats`.

Decides nothing. `/healthz`, `/readyz` and `/metrics` are every service's and stand beside `/json`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from google.protobuf import json_format
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from meshwarden.adapters.protobuf import pool
from meshwarden.adapters.side_port import Readiness
from meshwarden.core.faults import Fault
from ratelimit_service.adapters.envoy_rls import decoded_json, response
from ratelimit_service.adapters.limiter import Limiter
from ratelimit_service.core.model import Code, Decision
from ratelimit_service.core.reading import Reading
from ratelimit_service.core.tree import described_limits

BODY_BYTES_AT_MOST = 1 << 20
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def http_routes(limiter: Limiter, *, readiness: Readiness) -> list[BaseRoute]:
    """`/json` (a RateLimitRequest as protobuf JSON, any method) and `/healthcheck`."""

    async def json(request: Request) -> Response:
        body = await _body(request)
        if body is None:
            told = f"the body is larger than {BODY_BYTES_AT_MOST} bytes"
            return PlainTextResponse(f"Bad Request\n{told}\n", 400)
        try:
            decision = limiter.decide(decoded_json(body))
            if not isinstance(decision, Decision):
                decision = await decision
        except Fault as error:
            return PlainTextResponse(f"Bad Request\n{error}\n", 400)
        text = json_format.MessageToJson(response(decision), indent=None, descriptor_pool=pool())
        status = 429 if decision.code is Code.OVER_LIMIT else 200
        return Response(text, status, media_type="application/json")

    async def healthcheck(_request: Request) -> Response:
        # As the reference answers; `/readyz` says why.
        return Response(status_code=500) if readiness.reasons() else PlainTextResponse("OK")

    return [
        Route("/json", json, methods=_METHODS),
        Route("/healthcheck", healthcheck, methods=_METHODS),
    ]


def debug_routes(limiter: Limiter, *, statistics: Callable[[], Reading]) -> list[BaseRoute]:
    """`/rlconfig` lists the limits, `/stats` the statistics, `/` what there is."""

    def limits() -> list[str]:
        rules = limiter.rules
        return [] if rules is None else described_limits(rules.domains.values())

    async def numbers(_request: Request) -> Response:
        # In a thread, since there may be many: a request would wait for them.
        return PlainTextResponse(await asyncio.to_thread(_numbers, statistics))

    def pages() -> list[str]:
        return [
            "/rlconfig: print out the currently loaded configuration for debugging",
            "/stats: print out stats",
        ]

    return [
        _listing("/", pages),
        _listing("/rlconfig", limits),
        Route("/stats", numbers),
    ]


def _numbers(statistics: Callable[[], Reading]) -> str:
    reading = statistics()
    found = {**reading.counters, **reading.gauges}
    return "".join(f"{name}: {value}\n" for name, value in sorted(found.items()))


def _listing(path: str, read: Callable[[], list[str]]) -> Route:
    async def show(_request: Request) -> Response:
        return PlainTextResponse("".join(f"{line}\n" for line in read()))

    return Route(path, show)


async def _body(request: Request) -> bytes | None:
    """The body, or None where it is too large."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES_AT_MOST:
            return None
    return bytes(body)
