"""OpenTelemetry, where MCP_OTEL asks for it: the SDK's spans and one histogram, exported by OTLP over HTTP.

Where to, and what the service is called, say OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_ENDPOINT,
OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES). Without MCP_OTEL none of this is even imported.

Names are those of the semantic conventions for MCP
(https://opentelemetry.io/docs/specs/semconv/gen-ai/mcp/).
"""

import logging
import threading
import time
from typing import Any

from opentelemetry import context, metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from mcpfleet_server import __version__
from mcpfleet_server.hosting.settings import Settings
from mcpfleet_server.logs import Trace

logger = logging.getLogger(__name__)

# Seconds; most calls are answered in milliseconds, and the defaults begin at five.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Telemetry:
    """The exporters of one process. Made after a fork: their threads would not live through one."""

    def __init__(self, settings: Settings, span_exporter: Any = None, metric_reader: Any = None) -> None:
        """Start exporting.

        Args:
            settings: Name the service, where OTEL_SERVICE_NAME does not.
            span_exporter: Replaces OTLP in tests.
            metric_reader: The same for metrics.
        """
        attributes: dict[str, str] = {"service.version": __version__}
        if settings.service:
            attributes |= {"service.name": settings.service, "cloud.platform": "gcp_cloud_run", "cloud.provider": "gcp"}
        if settings.revision:
            attributes["faas.version"] = settings.revision
        # What OpenTelemetry's own variables say goes last, and so wins.
        resource = Resource.create(attributes).merge(OTELResourceDetector().detect())
        self._traces = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._traces.add_span_processor(BatchSpanProcessor(span_exporter or OTLPSpanExporter()))
        reader = metric_reader or PeriodicExportingMetricReader(OTLPMetricExporter())
        self._metrics = MeterProvider([reader], resource, shutdown_on_exit=False)
        trace.set_tracer_provider(self._traces)
        metrics.set_meter_provider(self._metrics)
        self._duration = self._metrics.get_meter("mcp_server").create_histogram(
            "mcp.server.operation.duration",
            unit="s",
            description="How long a tool call took",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )

    def observe(self, tool: str, outcome: str, seconds: float) -> None:
        """Count one tool call."""
        attributes: dict[str, str] = {"mcp.method.name": "tools/call", "gen_ai.tool.name": tool}
        if outcome != "ok":
            attributes["error.type"] = outcome
        self._duration.record(seconds, attributes)

    def close(self, seconds: float) -> None:
        """Send what is still here; after that the instance may be frozen or gone.

        Args:
            seconds: How long that may take. The exporters themselves would try for half a minute.
        """
        closers = {
            "traces": threading.Thread(target=self._traces.shutdown, daemon=True),
            "metrics": threading.Thread(target=self._metrics.shutdown, daemon=True),
        }
        until = time.monotonic() + seconds
        for closer in closers.values():
            closer.start()
        for what, closer in closers.items():
            closer.join(max(0.0, until - time.monotonic()))
            if closer.is_alive():
                logger.warning("The last %s could not be exported within %.1f s and are lost", what, seconds)


def attach(found: Trace | None) -> None:
    """Make the span of the HTTP request, which Cloud Run's front end has made, the parent of what follows.

    The SDK looks into the message only (`_meta.traceparent`), whose word goes first where there is one.
    """
    if found is None or found.span_id is None:
        return
    parent = SpanContext(
        int(found.trace_id, 16), int(found.span_id, 16), is_remote=True, trace_flags=TraceFlags(int(found.sampled))
    )
    context.attach(trace.set_span_in_context(NonRecordingSpan(parent)))
