"""The trace of a request, for what happens meanwhile and no longer."""

import re

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import propagate

from mcpfleet.tracing import traced
from mcpfleet_server import logs

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[01]")
HEX = st.text("0123456789abcdef", min_size=16, max_size=32)
NEARLY = st.builds("{:.2}-{}-{}-{:.2}".format, HEX, HEX, HEX, HEX) | st.builds("{}/{};o={}".format, HEX, HEX, HEX)


def carried():
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier


def test_the_requests_trace_applies_only_during_the_request():
    with traced({"traceparent": PARENT, "tracestate": "x=1", "baggage": "user=ada", "cookie": "no"}) as trace:
        assert carried() == {"traceparent": PARENT, "tracestate": "x=1", "baggage": "user=ada"}
        assert logs.current_trace() == trace
        with traced({}):
            assert carried()["traceparent"] != PARENT
        assert carried()["traceparent"] == PARENT
        assert logs.current_trace() == trace
    assert carried() == {}
    assert logs.current_trace() is None


@given(st.dictionaries(st.sampled_from(["traceparent", "x-cloud-trace-context"]), NEARLY | st.text(max_size=80)))
def test_logs_and_calls_have_one_trace_for_any_headers(headers):
    with traced(headers) as trace:
        sent = carried()["traceparent"]
        assert SENT.fullmatch(sent)
        assert sent.split("-")[1:3] == [trace.trace_id, trace.span_id]
    assert carried() == {}
