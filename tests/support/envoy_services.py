"""What Envoy speaks to, for tests of Envoy alone: an authorizer, a rate-limit service, an upstream.

Real servers that answer what the test tells them; the decisions of our services are not in here.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Barrier, BrokenBarrierError, Event
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from meshwarden.adapters.protobuf import message_class
from tests.support.threaded_servers import serving_grpc, serving_in_a_thread

CHECK = "/envoy.service.auth.v3.Authorization/Check"
SHOULD_RATE_LIMIT = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"

check_request = message_class("envoy.service.auth.v3.CheckRequest")
check_response = message_class("envoy.service.auth.v3.CheckResponse")
rate_limit_request = message_class("envoy.service.ratelimit.v3.RateLimitRequest")
rate_limit_response = message_class("envoy.service.ratelimit.v3.RateLimitResponse")


@dataclass
class GrpcService:
    """One unary method on a port of its own: `answer` may be replaced at any time."""

    answer: Callable[[Any], Any]
    port: int = 0
    asked: list[Any] = field(default_factory=list)


@contextmanager
def serving(
    path: str, request_class: Any, *, answer: Callable[[Any], Any]
) -> Iterator[GrpcService]:
    """Serve `path` and `grpc.health.v1` on a free port for the length of the block."""
    service = GrpcService(answer)

    def call(message: bytes, _context: object) -> bytes:
        request = request_class.FromString(message)
        service.asked.append(request)
        return bytes(service.answer(request).SerializeToString())

    package, method = path.strip("/").split("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(call)}
    options = [
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ]
    checks = health.HealthServicer()
    checks.set("", health_pb2.HealthCheckResponse.SERVING)
    with serving_grpc(
        package,
        handlers,
        options=options,
        prepare=partial(health_pb2_grpc.add_HealthServicer_to_server, checks),
    ) as service.port:
        yield service


def authorizer() -> Any:
    """A running authorizer that allows everything as `jwt:rita` under the rule `read`."""
    return serving(CHECK, check_request, answer=lambda _request: allowed())


def rate_limiter() -> Any:
    """A running rate-limit service without any limit."""
    return serving(SHOULD_RATE_LIMIT, rate_limit_request, answer=lambda _request: within_limit())


def allowed(**ok_response: Any) -> Any:
    """An OK verdict; `ok_response` are fields of `OkHttpResponse`."""
    metadata = {
        "principal": "jwt:rita",
        "subject": "rita",
        "policy": "orders",
        "rule": "read",
        "reason": "allowed",
    }
    return check_response(ok_response=ok_response, dynamic_metadata=metadata)


def denied(status: int, body: str) -> Any:
    """A denial in-band, with its own problem document."""
    content_type = {"header": {"key": "content-type", "value": "application/problem+json"}}
    return check_response(
        status={"code": 7},
        denied_response={"status": {"code": status}, "body": body, "headers": [content_type]},
        dynamic_metadata={"principal": "jwt:rita", "reason": "no_rule_allows"},
    )


def within_limit(**dynamic_metadata: str) -> Any:
    return rate_limit_response(overall_code=1, dynamic_metadata=dynamic_metadata)


def over_limit(*, per_minute: int, seconds_left: int) -> Any:
    limit = {"requests_per_unit": per_minute, "unit": 2}
    status = {
        "code": 2,
        "current_limit": limit,
        "limit_remaining": 0,
        "duration_until_reset": {"seconds": seconds_left},
    }
    return rate_limit_response(overall_code=2, statuses=[status])


def late(answer: Any, *, seconds: float) -> Callable[[Any], Any]:
    """To be a service's `answer`: it comes after so long."""

    def wait(_request: Any) -> Any:
        Event().wait(seconds)
        return answer

    return wait


@contextmanager
def hanging(service: GrpcService) -> Iterator[None]:
    """Within the block the service takes what it is asked, and answers when the block ends."""
    released, answer = Event(), service.answer

    def hang(request: Any) -> Any:
        released.wait(10)
        return answer(request)

    service.answer = hang
    try:
        yield
    finally:
        released.set()
        service.answer = answer


@dataclass(frozen=True)
class Seen:
    """One request as it came."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]

    def values(self, name: str) -> list[str]:
        """The values of the headers of this name, as CGI readers see it: `_` and `.` are `-`."""
        return [value for key, value in self.headers if re.sub(r"\W|_", "-", key.lower()) == name]


class Upstream(ThreadingHTTPServer):
    """Counts each execution; `/reset` is executed and then cut, `/503` and `/500` say so.

    `seen` are the newest requests as they came, of any method: target and header lines.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Executing)
        self.executions: Counter[str] = Counter()
        self.seen: deque[Seen] = deque(maxlen=1000)
        self.gathering = Barrier(1)

    def gather(self, *, requests: int) -> str:
        """The path of which the first `requests` are cut together, and any later one at once."""
        self.gathering = Barrier(requests)
        return "/gather"

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def gather_one(self) -> None:
        with suppress(BrokenBarrierError):
            self.gathering.wait(5)
        self.gathering.abort()


class _Executing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def parse_request(self) -> bool:
        is_request = super().parse_request()
        if is_request and self.path != "/healthz":
            self.server.seen.append(Seen(self.command, self.path, tuple(self.headers.items())))
        return is_request

    def execute(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        path = self.path.partition("?")[0]
        if path != "/healthz":
            self.server.executions[f"{self.command} {path}"] += 1
        if path == "/gather":
            self.server.gather_one()
        if path in ("/reset", "/gather"):
            self.close_connection = True
            return
        status = int(path[1:]) if path[1:].isdigit() else 200
        seen = [(":path", self.path), *self.headers.items()]
        body = "\n".join(f"{name}: {value}" for name, value in seen).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_OPTIONS = do_PATCH = execute  # noqa: N815 (http.server's names)

    def log_message(self, *_arguments: object) -> None:
        """Quiet."""


@contextmanager
def upstream() -> Iterator[Upstream]:
    """A running upstream, for the length of the block."""
    server = Upstream()
    with serving_in_a_thread(server):
        yield server
