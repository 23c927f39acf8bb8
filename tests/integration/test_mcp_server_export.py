"""OpenTelemetry's OTLP export over HTTP, decoded with OpenTelemetry's own messages, up to SIGTERM."""

import gzip
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.integration.mcp_server_process import free_port, serving

pytestmark = pytest.mark.integration

TRACE, SPAN, OTHER_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "0af7651916cd43dd8448eb211c80319c"
HEADERS = {
    "accept": "application/json, text/event-stream",
    "content-type": "application/json",
    "mcp-protocol-version": "2026-07-28",
    "mcp-method": "tools/call",
    "mcp-name": "add",
}
# Cloud Run kills ten seconds after SIGTERM.
UNTIL_KILLED = 10


class Collector:
    """A collector of exported telemetry, which can also never respond."""

    def __init__(self, *, answers=True) -> None:
        collector = self
        self.exported: list[ExportTraceServiceRequest | ExportMetricsServiceRequest] = []
        self.released = threading.Event()
        self.asked = threading.Event()
        kinds = {
            "/v1/traces": (ExportTraceServiceRequest, ExportTraceServiceResponse),
            "/v1/metrics": (ExportMetricsServiceRequest, ExportMetricsServiceResponse),
        }

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.asked.set()
                if not answers:
                    collector.released.wait(60)
                    self.close_connection = True
                    return
                assert self.headers["content-type"] == "application/x-protobuf"
                request, response = kinds[self.path]
                body = gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body
                collector.exported.append(request.FromString(body))
                answer = response().SerializeToString()
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    @property
    def spans(self):
        """Each span with its resource's attributes."""
        return [
            (values(item.resource.attributes), span)
            for request in self.exported
            if isinstance(request, ExportTraceServiceRequest)
            for item in request.resource_spans
            for scope in item.scope_spans
            for span in scope.spans
        ]

    @property
    def points(self):
        """Each point of the histogram of tool calls."""
        return [
            point
            for request in self.exported
            if isinstance(request, ExportMetricsServiceRequest)
            for item in request.resource_metrics
            for scope in item.scope_metrics
            for metric in scope.metrics
            if metric.name == "mcp.server.operation.duration"
            for point in metric.histogram.data_points
        ]


def values(attributes):
    return {item.key: item.value.string_value for item in attributes}


@contextmanager
def collecting(**options):
    collector = Collector(**options)
    collector.thread.start()
    try:
        yield collector
    finally:
        collector.released.set()
        collector.server.shutdown()
        collector.thread.join(10)
        collector.server.server_close()


def add(served, a=1, b=2, headers=None, meta=None):
    params = {"name": "add", "arguments": {"a": a, "b": b}}
    params["_meta"] = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        **(meta or {}),
    }
    body = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
    return httpx2.post(served.url, headers=HEADERS | (headers or {}), json=body, timeout=5, trust_env=False).json()


def test_spans_and_call_histograms_reach_the_collector_at_sigterm_at_the_latest(tmp_path):
    environment = {"MCP_OTEL": "true", "K_SERVICE": "mcp-reference", "K_REVISION": "mcp-reference-00001-abc"}
    with (
        collecting() as collector,
        serving(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **environment) as served,
    ):
        add(served, headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
        # What the client says of the call itself goes before what the way to us says of the request.
        add(
            served,
            headers={"traceparent": f"00-{TRACE}-{SPAN}-01"},
            meta={"traceparent": f"00-{OTHER_TRACE}-{SPAN}-01"},
        )
        add(served, a="x")
        served.terminate()
        assert served.ended(UNTIL_KILLED) == 0
        log = served.log.read_text()
    assert "ERROR" not in log
    assert "Traceback" not in log
    resource, first = collector.spans[0]
    assert resource["service.name"] == "mcp-reference"
    assert resource["faas.version"] == "mcp-reference-00001-abc"
    assert first.name == "tools/call add"
    assert first.kind == first.SPAN_KIND_SERVER
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE, SPAN)
    assert values(first.attributes) == {
        "mcp.method.name": "tools/call",
        "mcp.protocol.version": "2026-07-28",
        "jsonrpc.request.id": "7",
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "add",
    }
    assert 0 < first.start_time_unix_nano < first.end_time_unix_nano
    (_, second), (_, third) = collector.spans[1:]
    assert (second.trace_id.hex(), second.parent_span_id.hex()) == (OTHER_TRACE, SPAN)
    assert third.parent_span_id == b""
    assert values(third.attributes)["error.type"] == "tool_error"
    assert third.status.code == third.status.STATUS_CODE_ERROR
    points = {values(point.attributes).get("error.type", "ok"): point for point in collector.points}
    assert {kind: point.count for kind, point in points.items()} == {"ok": 2, "error": 1}
    assert values(points["ok"].attributes)["gen_ai.tool.name"] == "add"
    assert 0 < points["ok"].sum < 5


def test_nothing_is_exported_by_default(tmp_path):
    with (
        collecting() as collector,
        serving(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_TRACES_EXPORTER="otlp") as served,
    ):
        add(served)
        served.terminate()
        assert served.ended(UNTIL_KILLED) == 0
    assert not collector.asked.is_set()


def test_a_collector_that_is_down_delays_neither_calls_nor_shutdown(tmp_path):
    # A batch for each few spans, so that exports are under way while calls are made.
    quick = {"MCP_OTEL": "true", "OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_METRIC_EXPORT_INTERVAL": "50"}
    nobody = f"http://127.0.0.1:{free_port()}"
    with (
        collecting(answers=False) as silent,
        serving(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=silent.url, **quick) as one,
        serving(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=nobody, **quick) as other,
    ):
        for number in range(40):
            for served in (one, other):
                assert add(served, a=number)["result"]["structuredContent"] == {"result": number + 2}
            if number == 20:
                assert silent.asked.wait(5)
        began = time.monotonic()
        for served in (one, other):
            served.terminate()
        for served in (one, other):
            assert served.ended(UNTIL_KILLED) == 0
            log = served.log.read_text()
            assert "Traceback" not in log
            assert "could not be exported within 3.0 s and are lost" in log
        assert time.monotonic() - began < UNTIL_KILLED
