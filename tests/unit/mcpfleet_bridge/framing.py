"""Messages of a hostile client: line ends of any reader, between and within their strings."""

import json

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

ENDS = ("\n", "\r", "\r\n", "\n\n", "\t\n ", " ")
IN_TEXT = ("\u2028", "\u2029", "\x85", "\\u2028", "\\n", "\\r\\n", "plain", "\\\\")
"""What splits lines for some reader (Node's readline, Java's Scanner, Python's splitlines) and may stand in a text."""

FUZZ = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

SPACES = st.lists(st.sampled_from([*ENDS, ""]), max_size=3).map("".join)
TEXTS = st.lists(st.sampled_from(IN_TEXT), max_size=4).map("".join)


@st.composite
def spaced(draw, value):
    """A value as JSON with any blanks between its tokens, and with what splits lines in its texts."""
    if isinstance(value, dict):
        members = [
            f"{draw(SPACES)}{json.dumps(key)}{draw(SPACES)}:{draw(SPACES)}{draw(spaced(inner))}{draw(SPACES)}"
            for key, inner in value.items()
        ]
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(f"{draw(SPACES)}{draw(spaced(inner))}{draw(SPACES)}" for inner in value) + "]"
    if value is ...:
        return f'"{draw(TEXTS)}"'
    return json.dumps(value)


PLANTED = st.sampled_from(
    [
        {
            "jsonrpc": "2.0",
            "id": 2,
            "method": "tools/call",
            "params": {"name": "echo", "arguments": {"text": "planted"}},
        },
        {"jsonrpc": "2.0", "id": 2, "result": {"content": [{"type": "text", "text": "planted"}]}},
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}},
        {"a": [1, ...], "b": {"c": ..., "__proto__": None}},
    ]
)
