"""Binds a request's trace to the calls and the logs of a service while it handles the request.

Google's front end gives each request a trace, in `traceparent` and in its own older header. Requests of the MCP SDK
then have it in `_meta.traceparent` (SEP-414), those of `mcpfleet.service` also in `traceparent`, and log entries of
`mcpfleet_server.logs` in `logging.googleapis.com/trace`. So the logs of a client and of the servers that it calls
appear together. No OpenTelemetry SDK is needed; if there is one, its spans have the same parent.
"""

from __future__ import annotations

import secrets
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from opentelemetry import context, propagate

from mcpfleet_server import logs


@contextmanager
def traced(headers: Mapping[str, str]) -> Generator[logs.Trace]:
    """Bind the block to the trace in a request's headers, or to a new trace.

    Args:
        headers: The headers of the request, by lower-case name.
    """
    trace = logs.trace_of(headers)
    if trace is None or trace.span_id is None or not (int(trace.trace_id, 16) and int(trace.span_id, 16)):
        trace_id = trace.trace_id if trace is not None and int(trace.trace_id, 16) else secrets.token_hex(16)
        trace = logs.Trace(trace_id, secrets.token_hex(8), sampled=trace is not None and trace.sampled)
    # tracestate and baggage are passed on unchanged.
    carrier = {name: value for name, value in headers.items() if name in ("tracestate", "baggage")}
    carrier["traceparent"] = f"00-{trace.trace_id}-{trace.span_id}-{trace.sampled:02x}"
    previous, token = logs.current_trace(), context.attach(propagate.extract(carrier))
    logs.bind_trace(trace)
    try:
        yield trace
    finally:
        logs.bind_trace(previous)
        context.detach(token)
