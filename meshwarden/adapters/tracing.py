"""OpenTelemetry traces of our calls; off unless an OTLP endpoint is set.

A span continues the caller's `traceparent` (W3C Trace Context), from the gRPC metadata, else from
what the method says stands in the message. Spans hold no header values and no credentials.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from meshwarden.adapters.settings import TracingSettings


class Tracing:
    """Starts spans, or does nothing when tracing is off."""

    def __init__(self, settings: TracingSettings, service: str) -> None:
        self.is_on = bool(settings.otlp_endpoint)
        if not self.is_on:
            return
        # The SDK takes 40 ms to import, which a service without traces need not pay.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = TracerProvider(
            resource=Resource.create(_attributes(settings, service)),
            sampler=ParentBasedTraceIdRatio(settings.sample_ratio),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint, timeout=2)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
        self._tracer = self._provider.get_tracer("meshwarden")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def span(self, name: str, carrier: Mapping[str, str]) -> Iterator[None]:
        """A span `name` that continues the `traceparent` in `carrier` (lower-case names).

        One that ends in an exception names its type; its text may quote a credential.
        """
        if not self.is_on:
            yield
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode

        with self._tracer.start_as_current_span(
            name,
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except Exception as error:
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
                raise

    def close(self) -> None:
        """Send what is left, within the exporter's time limit."""
        if self.is_on:
            self._provider.shutdown()


def _attributes(settings: TracingSettings, service: str) -> dict[str, str]:
    """Who made the spans: OpenTelemetry's `service.*` attributes."""
    attributes = {
        "service.name": settings.service_name or service,
        "service.instance.id": settings.service_instance_id or str(uuid.uuid4()),
    }
    if settings.service_namespace:
        attributes["service.namespace"] = settings.service_namespace
    return attributes
