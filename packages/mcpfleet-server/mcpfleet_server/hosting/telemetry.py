"""OpenTelemetry export, if MCP_OTEL is set: the SDK's spans and one histogram, by OTLP over HTTP.

OpenTelemetry's own variables set the endpoint and the name of the service (OTEL_EXPORTER_OTLP_ENDPOINT,
OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES). Without MCP_OTEL, this module is not imported.

Names follow the semantic conventions for MCP
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

# Seconds. Most calls take milliseconds, and the default buckets begin at five seconds.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Telemetry:
    """The exporters of one process. Create it after a fork, because their threads do not survive one."""

    def __init__(self, settings: Settings, span_exporter: Any = None, metric_reader: Any = None) -> None:
        """Start exporting.

        Args:
            settings: Have the name of the service, for the case that OTEL_SERVICE_NAME is not set.
            span_exporter: Replaces the OTLP exporter of spans in tests.
            metric_reader: Replaces the OTLP exporter of metrics in tests.
        """
        attributes: dict[str, str] = {"service.version": __version__}
        if settings.service:
            attributes |= {"service.name": settings.service, "cloud.platform": "gcp_cloud_run", "cloud.provider": "gcp"}
        if settings.revision:
            attributes["faas.version"] = settings.revision
        # Attributes from OpenTelemetry's own variables come last, so they take precedence.
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
        """Record one tool call."""
        attributes: dict[str, str] = {"mcp.method.name": "tools/call", "gen_ai.tool.name": tool}
        if outcome != "ok":
            attributes["error.type"] = outcome
        self._duration.record(seconds, attributes)

    def close(self, seconds: float) -> None:
        """Export everything that is buffered, because the instance may be frozen or stopped afterwards.

        Args:
            seconds: How long this may take. By default, the exporters would retry for half a minute.
        """
        threads = {
            "traces": threading.Thread(target=self._traces.shutdown, daemon=True),
            "metrics": threading.Thread(target=self._metrics.shutdown, daemon=True),
        }
        deadline = time.monotonic() + seconds
        for thread in threads.values():
            thread.start()
        for signal_name, thread in threads.items():
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                logger.warning("The last %s could not be exported within %.1f s and are lost", signal_name, seconds)


def attach_parent_span(request_trace: Trace | None) -> None:
    """Make the span of the HTTP request, which Cloud Run's front end has created, the parent of the following spans.

    The SDK reads only the message's own trace (`_meta.traceparent`), which takes precedence if present.
    """
    if request_trace is None or request_trace.span_id is None:
        return
    parent = SpanContext(
        int(request_trace.trace_id, 16),
        int(request_trace.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(request_trace.sampled)),
    )
    context.attach(trace.set_span_in_context(NonRecordingSpan(parent)))
