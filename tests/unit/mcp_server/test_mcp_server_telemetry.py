"""OpenTelemetry, if it is enabled: a span and a measurement for each call, in the front end's trace."""

import asyncio
import threading

import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mcp_server.app import build_server
from mcpfleet_server.hosting import build_app, telemetry
from mcpfleet_server.hosting.settings import Settings
from tests.unit.mcp_server.wire import call, started

pytestmark = pytest.mark.anyio

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = [(b"traceparent", f"00-{TRACE}-00f067aa0ba902b7-01".encode())]


@pytest.fixture
def exported(monkeypatch):
    """Spans and metrics in memory; OpenTelemetry's providers are set once for a process, so the test sets its own."""
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    original = telemetry.Telemetry
    chosen = []

    def in_memory(settings):
        instance = original(settings, spans, reader)
        chosen.append(instance)
        return instance

    monkeypatch.setattr(telemetry, "Telemetry", in_memory)
    monkeypatch.setattr(telemetry.trace, "set_tracer_provider", lambda provider: None)
    monkeypatch.setattr(telemetry.metrics, "set_meter_provider", lambda provider: None)

    def tracer(name, *rest, **more):
        return chosen[-1]._traces.get_tracer(name)

    monkeypatch.setattr("mcp.shared._otel._tracer", LazyTracer(lambda: tracer("mcp")))
    return spans, reader


class LazyTracer:
    def __init__(self, make):
        self._make = make

    def start_as_current_span(self, *args, **kwargs):
        return self._make().start_as_current_span(*args, **kwargs)


async def test_each_call_is_a_child_span_of_the_front_ends_and_a_measurement(exported):
    spans, reader = exported
    settings = Settings(MCP_OTEL="true", K_SERVICE="mcp-reference", K_REVISION="mcp-reference-00001-abc")
    found = []
    async with started(build_app(build_server(settings), settings)) as app:
        await call(app, "add", {"a": 1, "b": 2}, headers=PARENT).answer()
        await call(app, "add", {"a": 1, "b": "x"}, headers=PARENT).answer()
        found = reader.get_metrics_data()
    finished = spans.get_finished_spans()
    assert [span.name for span in finished] == ["tools/call add"] * 2
    assert {f"{span.context.trace_id:032x}" for span in finished} == {TRACE}
    assert {f"{span.parent.span_id:016x}" for span in finished} == {"00f067aa0ba902b7"}
    assert finished[0].resource.attributes["service.name"] == "mcp-reference"
    (metric,) = found.resource_metrics[0].scope_metrics[0].metrics
    points = {point.attributes.get("error.type", "ok"): point for point in metric.data.data_points}
    assert metric.name == "mcp.server.operation.duration"
    assert set(points) == {"ok", "error"}
    assert points["ok"].attributes["gen_ai.tool.name"] == "add"
    assert points["ok"].count == 1


class Stuck(SpanExporter):
    """Sends to a collector that never answers."""

    def __init__(self):
        self.released = threading.Event()

    def export(self, spans):
        self.released.wait(10)
        return SpanExportResult.SUCCESS


@pytest.fixture
def stuck(monkeypatch):
    exporter, original = Stuck(), telemetry.Telemetry
    monkeypatch.setattr(telemetry, "Telemetry", lambda settings: original(settings, exporter, InMemoryMetricReader()))
    monkeypatch.setattr(telemetry.trace, "set_tracer_provider", lambda provider: None)
    monkeypatch.setattr(telemetry.metrics, "set_meter_provider", lambda provider: None)
    yield exporter
    exporter.released.set()


def test_telemetry_that_cannot_be_sent_in_time_is_dropped_with_a_warning(stuck, caplog):
    sending = telemetry.Telemetry(Settings(MCP_OTEL="true"))
    with sending._traces.get_tracer("test").start_as_current_span("lost"):
        pass
    sending.close(0.01)
    assert [line for line in caplog.messages if "traces could not be exported within 0.0 s and are lost" in line]
    assert not [line for line in caplog.messages if "metrics" in line]


async def test_the_last_spans_are_sent_before_the_event_loop_ends(exported):
    spans, _ = exported
    settings = Settings(MCP_OTEL="true")
    app = build_app(build_server(settings), settings)
    to_app: asyncio.Queue = asyncio.Queue()
    exported_at = []

    async def send(message):
        exported_at.append((message["type"], [span.name for span in spans.get_finished_spans()]))
        if message["type"] == "lifespan.startup.complete":
            await call(app, "add", {"a": 1, "b": 2}).answer()
            to_app.put_nowait({"type": "lifespan.shutdown"})

    to_app.put_nowait({"type": "lifespan.startup"})
    await app({"type": "lifespan", "state": {}}, to_app.get, send)
    assert exported_at[-1] == ("lifespan.shutdown.complete", ["tools/call add"])
