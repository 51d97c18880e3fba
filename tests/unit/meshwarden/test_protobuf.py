"""Envoy's messages live beside OpenTelemetry's and CEL's in one process; nothing collides."""

from __future__ import annotations

import subprocess
import sys

from meshwarden.adapters.protobuf import message_class, pool

_TOGETHER = """
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from ext_authz.core.conditions import Condition
from meshwarden.adapters.protobuf import message_class

exported = []

class Exporter(SpanExporter):
    def export(self, spans):
        exported.append(encode_spans(spans).SerializeToString())
        return SpanExportResult.SUCCESS

Check = message_class("envoy.service.auth.v3.CheckRequest")
sent = Check()
sent.attributes.request.http.path = "/orders"
provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(SimpleSpanProcessor(Exporter()))
with provider.get_tracer("t").start_as_current_span("together"):
    parsed = Check.FromString(sent.SerializeToString())
    assert parsed.attributes.request.http.path == "/orders"
    assert Condition("request.path == '/orders'").holds({"request.path": "/orders"}) is True
provider.shutdown()
assert b"together" in exported[0]
print("all three")
"""


def test_one_process_exports_a_span_evaluates_a_condition_and_parses_a_check_request():
    """`xds-protos` beside the exporters would break this; so would the default pool."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _TOGETHER],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("all three\n", "", 0)


def test_a_field_newer_than_the_packaged_descriptors_is_there():
    """RateLimitDescriptor.is_negative_hits (envoyproxy/envoy#44059) is kept by its number, 4."""
    descriptor = message_class("envoy.extensions.common.ratelimit.v3.RateLimitDescriptor")
    assert descriptor(is_negative_hits=True).SerializeToString() == b"\x20\x01"


def test_every_method_that_envoy_calls_is_known():
    for service, method in (
        ("envoy.service.auth.v3.Authorization", "Check"),
        ("envoy.service.ratelimit.v3.RateLimitService", "ShouldRateLimit"),
    ):
        found = pool().FindServiceByName(service)
        assert method in {known.name for known in found.methods}
