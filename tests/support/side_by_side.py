"""envoyproxy/ratelimit and our service on one Redis, started with the same environment and files.

    pair.ask(request) -> (the reference's answer, ours)

An answer is plain values, so that two can be compared; nothing here knows what they should be.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx2
from google.protobuf import json_format

from meshwarden.adapters.protobuf import pool
from tests.support.limit_service import METHOD, Request, Response
from tests.support.line_listener import LineListener, listening
from tests.support.ports import free_ports, is_listening
from tests.support.processes import Running, running
from tests.support.redis_server import RedisServer
from tests.support.reference_ratelimit import reference_program

Answer = dict[str, Any]
"""Of gRPC: `answer`, or `error` (code and text). Of /json: `status`, `answer` or `body`."""

PLAIN_LIMITS = """
domain: d
descriptors:
- {key: a, rate_limit: {unit: year, requests_per_unit: 1}}
- {key: a_b, rate_limit: {unit: year, requests_per_unit: 1}}
- {key: five, rate_limit: {unit: year, requests_per_unit: 5}}
- {key: quota, quota_mode: true, rate_limit: {unit: year, requests_per_unit: 1}}
- {key: free, rate_limit: {unlimited: true}}
- {key: inner, value: "x*z", rate_limit: {unit: year, requests_per_unit: 5}}
"""
"""What the tests that need few limits share."""


@dataclass(frozen=True)
class Side:
    """One of the two services, running."""

    process: Running
    call: Callable[..., bytes]
    http: httpx2.Client
    debug: httpx2.Client
    statsd: LineListener
    prometheus: str
    grpc_port: int

    def ask(self, request: Any) -> Answer:
        """The answer over gRPC."""
        try:
            answer = Response.FromString(self.call(request.SerializeToString(), timeout=10))
        except grpc.RpcError as error:
            return {"error": (error.code().name, error.details())}
        return {"answer": json_format.MessageToDict(answer, descriptor_pool=pool())}

    def ask_json(self, request: Any) -> Answer:
        """The answer of `/json`."""
        return self.post(json_format.MessageToJson(request, descriptor_pool=pool()))

    def post(self, body: str | bytes) -> Answer:
        """The answer of `/json` to `body`, whatever that is."""
        answered = self.http.post("/json", content=body)
        is_json = answered.headers["content-type"] == "application/json"
        shown = {"answer": answered.json()} if is_json else {"body": answered.text}
        return {"status": answered.status_code, **shown}

    def wait_until_ready(self, page: str) -> None:
        """Return when `page` of the HTTP port answers 200."""
        self.wait_until_status(page, 200)

    def wait_until_status(self, page: str, status: int) -> None:
        """Return when `page` of the HTTP port answers with this status."""

        def is_answered() -> bool:
            try:
                return self.http.get(page).status_code == status
            except httpx2.TransportError:
                return False

        self.process.wait_until(is_answered, f"{page} answers {status}")

    def lines(self, path: str) -> list[str]:
        """The lines of a page of the debug port, sorted: the reference's have no order."""
        return sorted(self.debug.get(path).text.splitlines())


@dataclass(frozen=True)
class Pair:
    """Both, the reference first."""

    theirs: Side
    ours: Side
    folder: Path

    def ask(self, request: Any, *, as_json: bool = False) -> tuple[Answer, Answer]:
        if as_json:
            return self.theirs.ask_json(request), self.ours.ask_json(request)
        return self.theirs.ask(request), self.ours.ask(request)


def limits_folder(root: Path) -> Path:
    """Where the files lie below `RUNTIME_ROOT`."""
    folder = root / "ratelimit" / "config"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def drop_in_environment(root: Path, redis: RedisServer, **variables: str) -> dict[str, str]:
    """What both are started with; ports and statsd are each one's own. An empty value of
    `variables` takes one away.
    """
    environment = {
        "RUNTIME_ROOT": str(root),
        "RUNTIME_SUBDIRECTORY": "ratelimit",
        "RUNTIME_WATCH_ROOT": "false",
        "REDIS_SOCKET_TYPE": "tcp",
        "REDIS_URL": f"127.0.0.1:{redis.port}",
        # A stalled machine must not make one of them fail where the other doesn't.
        "REDIS_TIMEOUT": "5s",
        "HOST": "127.0.0.1",
        "GRPC_HOST": "127.0.0.1",
        "DEBUG_HOST": "127.0.0.1",
        "USE_STATSD": "true",
        "STATSD_HOST": "127.0.0.1",
        "STATS_FLUSH_INTERVAL": "100ms",
        **variables,
    }
    return {name: value for name, value in environment.items() if value}


@contextmanager
def side_by_side(
    root: Path, redis: RedisServer, *, waits_for_ready: bool = True, **variables: str
) -> Iterator[Pair]:
    """Both for the length of the block; `variables` come on top of the environment."""
    environment = drop_in_environment(root, redis, **variables)
    with running_reference(environment) as theirs, running_ours(environment) as ours:
        if waits_for_ready:
            theirs.wait_until_ready("/healthcheck")
            ours.wait_until_ready("/readyz")
        yield Pair(theirs, ours, limits_folder(root))


@contextmanager
def running_reference(environment: Mapping[str, str]) -> Iterator[Side]:
    """The reference; its ports are open, its configuration may not be loaded yet."""
    with started([reference_program("service_cmd")], environment) as side:
        yield side


@contextmanager
def running_ours(environment: Mapping[str, str]) -> Iterator[Side]:
    """Our service, likewise."""
    with started([sys.executable, "-m", "ratelimit_service"], environment) as side:
        yield side


@contextmanager
def started(command: Sequence[str | Path], environment: Mapping[str, str]) -> Iterator[Side]:
    """`command`, which is one of the two, with ports and a statsd server of its own; its ports are
    open.
    """
    names = ("PORT", "GRPC_PORT", "DEBUG_PORT")
    *given, streaming, page = free_ports(len(names) + 2)
    ports = dict(zip(names, given, strict=True))
    with ExitStack() as stack:
        statsd = stack.enter_context(listening("udp" if "USE_DOG_STATSD" in environment else "tcp"))
        own = {
            **{name: str(port) for name, port in ports.items()},
            "RATELIMIT_GRPC__STREAMING_PORT": str(streaming),
            "PROMETHEUS_ADDR": f"127.0.0.1:{page}",
            "STATSD_PORT": str(statsd.port),
        }
        process = stack.enter_context(running(command, environment={**environment, **own}))
        for name, port in ports.items():
            process.wait_until(lambda p=port: is_listening(p), f"{name} is open")  # type: ignore[misc]
        http, debug = (
            stack.enter_context(_http_client(ports[name])) for name in ("PORT", "DEBUG_PORT")
        )
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{ports['GRPC_PORT']}"))
        yield Side(
            process=process,
            call=channel.unary_unary(METHOD),
            http=http,
            debug=debug,
            statsd=statsd,
            prometheus=f"http://127.0.0.1:{page}/metrics",
            grpc_port=ports["GRPC_PORT"],
        )


def _http_client(port: int) -> httpx2.Client:
    """Without connections that are kept: a server may close one just when it is used again."""
    limits = httpx2.Limits(max_keepalive_connections=0)
    return httpx2.Client(base_url=f"http://127.0.0.1:{port}", limits=limits)


def request_of(domain: str, *descriptors: Sequence[tuple[str, str]], **fields: Any) -> Any:
    """A request whose descriptors are pairs of key and value."""
    message = Request(domain=domain, **fields)
    for entries in descriptors:
        added = message.descriptors.add()
        for key, value in entries:
            added.entries.add(key=key, value=value)
    return message
