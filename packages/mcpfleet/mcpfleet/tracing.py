"""The trace of a request that a service answers, for all that it does meanwhile: its calls and its logs.

Google's front end gives each request a trace and names it in `traceparent`, and in its own older header. What the MCP
SDK sends then carries it in `_meta.traceparent` (SEP-414), what `mcpfleet.service` sends in `traceparent` as well, and
what is logged by `mcpfleet_server.logs` in `logging.googleapis.com/trace`: so the logs of a client and of the servers
that it calls stand together. No OpenTelemetry SDK is needed; where there is one, its spans have the same parent.
"""

from __future__ import annotations

import secrets
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from opentelemetry import context, propagate

from mcpfleet_server import logs


@contextmanager
def traced(headers: Mapping[str, str]) -> Generator[logs.Trace]:
    """Tie what happens within to the trace that a request's headers name, or to a new one.

    Args:
        headers: The request's, by lower-case name.
    """
    found = logs.trace_of(headers)
    if found is None or found.span_id is None or not (int(found.trace_id, 16) and int(found.span_id, 16)):
        known = found.trace_id if found is not None and int(found.trace_id, 16) else secrets.token_hex(16)
        found = logs.Trace(known, secrets.token_hex(8), sampled=found is not None and found.sampled)
    # tracestate and baggage go on as they came.
    carrier = {name: value for name, value in headers.items() if name in ("tracestate", "baggage")}
    carrier["traceparent"] = f"00-{found.trace_id}-{found.span_id}-{found.sampled:02x}"
    before, token = logs.current_trace(), context.attach(propagate.extract(carrier))
    logs.bind_trace(found)
    try:
        yield found
    finally:
        logs.bind_trace(before)
        context.detach(token)
