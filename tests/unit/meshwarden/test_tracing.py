"""Traces: a span continues the caller's, reaches a collector, and holds no credential."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from grpc import aio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from meshwarden.adapters.grpc_calls import Metadata, Method
from meshwarden.adapters.grpc_server import GrpcServer
from meshwarden.adapters.settings import GrpcSettings, TracingSettings
from meshwarden.adapters.telemetry import Metrics
from meshwarden.adapters.tracing import Tracing
from tests.support.threaded_servers import serving_in_a_thread

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


class Collector(ThreadingHTTPServer):
    """An OTLP/HTTP collector that keeps what it is sent."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1/traces"

    def spans(self) -> list[Span]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        resources = [found for request in requests for found in request.resource_spans]
        return [span for found in resources for scope in found.scope_spans for span in scope.spans]


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Collector)
        self.server.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        pass


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    with serving_in_a_thread(collector):
        yield collector


def headers_in(message: bytes) -> Mapping[str, str]:
    """As a CheckRequest carries the headers of the request that is asked about."""
    return {"traceparent": message.decode()} if message.startswith(b"00-") else {}


async def later(message: bytes, _metadata: Metadata) -> bytes:
    return b"ok"


def failing(message: bytes, _metadata: Metadata) -> bytes:
    raise ValueError("Bearer a-secret")


METHODS = [
    Method("/t.v1.T/Plain", lambda _message, _metadata: b"ok"),
    Method("/t.v1.T/Inside", later, trace_headers=headers_in),
    Method("/t.v1.T/Failing", failing),
]


async def call(settings: TracingSettings, *calls: tuple[str, bytes, dict[str, str]]) -> None:
    """Make `calls` of (method, message, metadata) on a server, and close it as a service does."""
    tracing = Tracing(settings, "tested")
    grpc = GrpcSettings(host="127.0.0.1")
    server = GrpcServer(grpc, METHODS, metrics=Metrics(), tracing=tracing)
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            for method, message, metadata in calls:
                made = channel.unary_unary(f"/t.v1.T/{method}")
                try:
                    await made(message, metadata=tuple(metadata.items()), timeout=5)
                except aio.AioRpcError:
                    assert method == "Failing"
    finally:
        await server.stop(1)
        tracing.close()


async def test_a_span_continues_the_callers_trace_from_the_metadata_or_from_the_message():
    """The metadata wins; without either a trace of its own begins."""
    with collecting() as collector:
        await call(
            TracingSettings(otlp_endpoint=collector.endpoint),
            ("Plain", b"", {"traceparent": SAMPLED}),
            ("Inside", SAMPLED.encode(), {}),
            ("Inside", NOT_SAMPLED.encode(), {"traceparent": SAMPLED}),
            ("Inside", b"nothing", {}),
        )
        first, second, third, alone = collector.spans()
    for span, name in ((first, "Plain"), (second, "Inside"), (third, "Inside")):
        assert span.name == f"t.v1.T/{name}"
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
        assert span.kind == Span.SPAN_KIND_SERVER
    assert alone.trace_id.hex() != TRACE
    assert alone.parent_span_id == b""


@pytest.mark.parametrize("is_told", [True, False])
async def test_spans_say_which_service_made_them(is_told: bool):
    told = {"service_name": "limits", "service_namespace": "edge", "service_instance_id": "7"}
    with collecting() as collector:
        settings = TracingSettings(otlp_endpoint=collector.endpoint, **(told if is_told else {}))
        await call(settings, ("Plain", b"", {}))
        request = ExportTraceServiceRequest.FromString(collector.bodies[0])
    attributes = request.resource_spans[0].resource.attributes
    found = {item.key: item.value.string_value for item in attributes}
    if is_told:
        assert (found["service.namespace"], found["service.instance.id"]) == ("edge", "7")
    assert found["service.name"] == ("limits" if is_told else "tested")
    assert found["service.instance.id"]


async def test_a_caller_that_does_not_sample_is_obeyed_and_a_ratio_decides_the_rest():
    with collecting() as collector:
        await call(
            TracingSettings(otlp_endpoint=collector.endpoint, sample_ratio=0),
            ("Plain", b"", {"traceparent": NOT_SAMPLED}),
            ("Plain", b"", {}),
            ("Plain", b"", {"traceparent": SAMPLED}),
        )
        assert [span.trace_id.hex() for span in collector.spans()] == [TRACE]


async def test_a_failed_span_names_the_exception_and_quotes_nothing():
    with collecting() as collector:
        secret = {"authorization": "Bearer a-secret"}
        await call(
            TracingSettings(otlp_endpoint=collector.endpoint), ("Failing", b"a-secret", secret)
        )
        (span,) = collector.spans()
        assert (span.status.code, span.status.message) == (Status.STATUS_CODE_ERROR, "ValueError")
        assert not any(b"a-secret" in body for body in collector.bodies)


async def test_a_collector_that_does_not_answer_costs_the_calls_nothing():
    with collecting() as collector:
        endpoint = collector.endpoint
    await call(TracingSettings(otlp_endpoint=endpoint), ("Plain", b"", {}))


async def test_traces_are_off_unless_an_endpoint_is_set():
    tracing = Tracing(TracingSettings(), "tested")
    assert not tracing.is_on
    with tracing.span("x", {"traceparent": SAMPLED}):
        pass
    tracing.close()
