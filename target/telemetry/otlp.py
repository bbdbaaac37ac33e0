"""Where traces go: an OpenTelemetry collector, by OTLP over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from target.telemetry.tracing import RequestTracer

QUEUE_SPANS_MAX: Final = 4096
EXPORT_SECONDS_MAX: Final = 3  # of one attempt, and so about of the end of a node


def connect_tracer(
    endpoint: str, ratio: float, node: str, clock: Callable[[], float]
) -> RequestTracer:
    """Spans go to ``endpoint``; headers, if it needs any, are from OTEL_EXPORTER_OTLP_HEADERS."""
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_SECONDS_MAX)
    processor = BatchSpanProcessor(exporter, max_queue_size=QUEUE_SPANS_MAX)
    return RequestTracer(processor, node=node, ratio=ratio, clock=clock)
