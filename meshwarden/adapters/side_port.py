"""The HTTP side port of a service: `/healthz`, `/readyz`, `/metrics`, and what the service adds."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from meshwarden.adapters.telemetry import Metrics

ReadyCheck = Callable[[], str]
"""Says why the service is not ready; empty when it is."""


@dataclass
class Readiness:
    """Everything that must hold before traffic may come; `details` is shown on `/readyz?verbose`
    only.
    """

    checks: dict[str, ReadyCheck] = field(default_factory=dict)
    details: dict[str, Callable[[], object]] = field(default_factory=dict)
    is_draining: bool = False

    def reasons(self) -> dict[str, str]:
        """What is missing, by check; empty when the service is ready."""
        found = {name: reason for name, check in self.checks.items() if (reason := check())}
        if self.is_draining:
            found["draining"] = "the service is stopping"
        return found


def health_routes(readiness: Readiness, metrics: Metrics) -> list[BaseRoute]:
    """`/healthz` (the process answers), `/readyz` (it may get traffic; `?verbose` says more),
    `/metrics`.
    """

    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok")

    async def readyz(request: Request) -> Response:
        reasons = readiness.reasons()
        body: dict[str, object] = {"ready": not reasons, "reasons": reasons}
        if "verbose" in request.query_params:
            body |= {name: read() for name, read in readiness.details.items()}
        return JSONResponse(body, status_code=503 if reasons else 200)

    async def exposition(_request: Request) -> Response:
        return Response(metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", exposition),
    ]


class HttpServer:
    """One HTTP port served in the running event loop; with `tls` it speaks TLS and nothing else."""

    def __init__(
        self,
        bound: socket.socket,
        routes: Sequence[BaseRoute],
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._socket = bound
        app = Starlette(routes=list(routes))
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            h11_max_incomplete_event_size=64 << 10,
            timeout_keep_alive=30,
            limit_concurrency=500,
            timeout_graceful_shutdown=1,
            ssl_context_factory=None if tls is None else lambda _config, _default: tls,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None
        self.port = int(bound.getsockname()[1])

    async def start(self) -> None:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await self._task


class _Server(uvicorn.Server):
    """Leaves signals to the service's own lifecycle."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
