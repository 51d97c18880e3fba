"""A collector of traces that proxies and services send to, by OTLP over gRPC, on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.threaded_servers import serving_grpc

SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"


@dataclass
class Collector:
    """What was sent so far."""

    port: int = 0
    requests: list[ExportTraceServiceRequest] = field(default_factory=list)

    def spans(self, trace: str) -> list[Span]:
        """The spans of a trace, whose id is in hexadecimal."""
        return [
            span
            for request in list(self.requests)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
            if span.trace_id.hex() == trace
        ]


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector, for the length of the block."""
    collector = Collector()

    def export(message: bytes, _context: grpc.ServicerContext) -> bytes:
        collector.requests.append(ExportTraceServiceRequest.FromString(message))
        answer: bytes = ExportTraceServiceResponse().SerializeToString()
        return answer

    handlers = {"Export": grpc.unary_unary_rpc_method_handler(export)}
    with serving_grpc(SERVICE, handlers) as collector.port:
        yield collector
