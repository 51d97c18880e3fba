"""The life of a service process: settings -> parts -> ready -> SIGTERM -> not ready -> drain ->
stopped.

    run(program, model, build)
      workers == 1:  serve here
      workers > 1:   start that many processes of the same command, which share the ports; restart
      one that dies
    serve:  build(service) adds methods, routes, checks, tasks  ->  ports open  ->  ready when every
    check holds

What the parts are, each service's `app.py` says.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import uvloop
from starlette.routing import BaseRoute

from meshwarden.adapters import logs, ports, tls, workers
from meshwarden.adapters.grpc_calls import CallObserver, Method
from meshwarden.adapters.grpc_server import GrpcServer
from meshwarden.adapters.settings import ServiceSettings, load
from meshwarden.adapters.side_port import HttpServer, Readiness, health_routes
from meshwarden.adapters.telemetry import Metrics
from meshwarden.adapters.tls import Certificates
from meshwarden.adapters.tracing import Tracing
from meshwarden.adapters.workers import stop_signals
from meshwarden.core.faults import Fault, Misconfigured, Unavailable

Settings = TypeVar("Settings", bound=ServiceSettings)

EXIT_UNAVAILABLE = 1
EXIT_MISCONFIGURED = 2
READINESS_INTERVAL_SECONDS = 0.1
FLUSH_INTERVAL_SECONDS = 1.0


class Service:
    """The parts of one process, gathered by `build` before anything is opened."""

    def __init__(self, name: str, settings: ServiceSettings) -> None:
        self.name = name
        self.settings = settings
        self.metrics = Metrics()
        self.tracing = Tracing(settings.tracing, name)
        self.readiness = Readiness()
        self.methods: list[Method] = []
        self.health_names: list[str] = []
        self.routes: list[BaseRoute] = []
        self.further_http: list[tuple[str, int, Sequence[BaseRoute]]] = []
        self.tasks: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self.closers: list[Callable[[], Awaitable[None]]] = []
        self.observe_call: CallObserver | None = None
        self._is_shared = settings.workers > 1
        self._certificates = self._with_tls()
        self._http: list[HttpServer] = []
        self._stopping = asyncio.Event()

    def _with_tls(self) -> Certificates | None:
        """The certificates that the ports need, followed from now on; None: they speak no TLS."""
        settings = self.settings.tls
        if settings.certificate_file is None:
            return None
        try:
            certificates = Certificates(settings, metrics=self.metrics, clock=time.time)
        except Misconfigured as fault:
            if not workers.is_worker():
                raise
            # The supervisor found them right, so a change broke them: the other workers, which
            # serve the last good pair, must not end with the one that took a dead one's place.
            raise Unavailable(fault.problems) from None
        self.readiness.details["tls"] = certificates.status
        self.tasks.append(certificates.follow)
        return certificates

    async def serve(self) -> None:
        """Open the ports, serve until SIGTERM or SIGINT, drain, stop."""
        loop = asyncio.get_running_loop()
        for number in stop_signals():
            loop.add_signal_handler(number, self._stopping.set)
        grpc = GrpcServer(
            self.settings.grpc,
            self.methods,
            metrics=self.metrics,
            tracing=self.tracing,
            certificates=self._certificates,
            shared_ports=self._is_shared,
            observe_call=self.observe_call,
        )
        running: list[asyncio.Task[None]] = []
        try:
            await self._open_http()
            await grpc.start()
            self.readiness.details["transport"] = lambda: grpc.transport
            running = [asyncio.create_task(self._guarded(task)) for task in self.tasks]
            running += [asyncio.create_task(self._report(grpc)), asyncio.create_task(self._flush())]
            logs.logger().info(
                "started",
                transport=grpc.transport,
                grpc_port=grpc.port,
                streaming_port=grpc.streaming_port,
                http_ports=[server.port for server in self._http],
            )
            await self._stopping.wait()
            self.readiness.is_draining = True
            await grpc.set_serving(False, self.health_names)
            logs.logger().info("draining")
            await asyncio.sleep(self.settings.drain_seconds)
        finally:
            await self._close(grpc, running)
        logs.logger().info("stopped")

    async def _open_http(self) -> None:
        http = self.settings.http
        own = [*health_routes(self.readiness, self.metrics), *self.routes]
        certificates = self._certificates if self.settings.tls.http else None
        context = None if certificates is None else certificates.http_context()
        for host, port, routes in [(http.host, http.port, own), *self.further_http]:
            bound = ports.bind(host, port, shared=self._is_shared)
            server = HttpServer(bound, routes, tls=context)
            await server.start()
            self._http.append(server)

    async def _close(self, grpc: GrpcServer, running: list[asyncio.Task[None]]) -> None:
        await grpc.stop(self.settings.stop_seconds)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for close in self.closers:
            await close()
        for server in self._http:
            await server.stop()
        self.metrics.flush()
        await asyncio.to_thread(self.tracing.close)

    async def _guarded(self, task: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a background task for ever; one that fails is logged and started again after a
        second.
        """
        while True:
            try:
                await task()
                return
            except Exception as error:
                logs.logger().error("task_failed", error=type(error).__name__, exc_info=True)
                await asyncio.sleep(1)

    async def _report(self, grpc: GrpcServer) -> None:
        """Keep the health service in step with readiness, and log each change."""
        before: dict[str, str] | None = None
        while True:
            reasons = self.readiness.reasons()
            if reasons != before and not self.readiness.is_draining:
                await grpc.set_serving(not reasons, self.health_names)
                logs.logger().info(
                    "not_ready" if reasons else "ready", **({"reasons": reasons} if reasons else {})
                )
                before = reasons
            await asyncio.sleep(READINESS_INTERVAL_SECONDS)

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_INTERVAL_SECONDS)
            self.metrics.flush()


def run(
    program: str,
    model: type[Settings],
    build: Callable[[Service, Settings], None],
    arguments: Sequence[str] | None = None,
) -> int:
    """Run a service until it is told to stop; the process's exit status (2: the settings are
    wrong; 1: a worker should be tried again).
    """
    given = sys.argv[1:] if arguments is None else arguments
    try:
        settings = load(model, given, program)
        logs.configure(settings.log, program)
        if not workers.is_worker():
            tls.require(settings.tls, now=time.time())
        if settings.workers > 1 and not workers.is_worker():
            _require_free_ports(settings)
            command = [sys.executable, "-m", program, *given]
            with workers.shared_metrics():
                return workers.supervise(command, settings.workers)
        if workers.is_worker():
            workers.end_with_parent()
        return uvloop.run(_serve(program, settings, build))
    except Fault as fault:
        for problem in fault.problems:
            sys.stderr.write(f"{program}: {problem}\n")
        return EXIT_UNAVAILABLE if isinstance(fault, Unavailable) else EXIT_MISCONFIGURED


async def _serve(
    program: str, settings: Settings, build: Callable[[Service, Settings], None]
) -> int:
    service = Service(program, settings)
    build(service, settings)
    # What is there now stays: the collector need not walk over it while requests wait.
    gc.collect()
    gc.freeze()
    gc.enable()
    await service.serve()
    return 0


def _require_free_ports(settings: ServiceSettings) -> None:
    """Shared ports hide that somebody else's server listens there, so ask before any worker
    starts.
    """
    addresses = settings.addresses()
    if any(port == 0 for _, port in addresses):
        raise Misconfigured("several workers need fixed ports: a port of 0 would differ in each")
    for host, port in addresses:
        ports.require_free(host, port)
