"""CORS of the bridge: only pages of allowed origins can call it and read its responses."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcpfleet_server.allowlist import OriginPattern

pytestmark = pytest.mark.anyio

APP = "https://app.example.com"
LISTED = tuple(map(OriginPattern.parse, (APP, "http://localhost:*")))
ASKS = {"access-control-request-method": "POST"}
ORIGINS = (
    st.sampled_from(["null", "*", "", "https://app.example.com.evil.dev", "https://evil.dev", APP, f"{APP}:443"])
    | st.from_regex(r"https?://(app\.example\.com|localhost)(:[0-9]{1,5})?[ /]?", fullmatch=True)
    | st.text(st.characters(max_codepoint=255), max_size=40)
)


def words(line: str) -> set[str]:
    return {word.strip().lower() for word in line.split(",")}


async def test_a_preflight_from_a_listed_origin_is_allowed(bridging):
    preflight_headers = {**ASKS, "access-control-request-headers": "authorization, mcp-param-city, x-evil"}
    async with bridging(allowed_origins=LISTED) as http:
        message_count = len(http.fleet.started[0].heard)
        answer = await http.request("OPTIONS", headers={"origin": APP, **preflight_headers})
        assert len(http.fleet.started[0].heard) == message_count
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["access-control-allow-origin"] == APP
    assert "origin" in words(answer.headers["vary"])
    assert words(answer.headers["access-control-allow-methods"]) == {"get", "post", "delete"}
    allowed = words(answer.headers["access-control-allow-headers"])
    assert allowed >= {"authorization", "content-type", "mcp-session-id", "mcp-protocol-version", "mcp-param-city"}
    assert "x-evil" not in allowed
    assert "access-control-allow-credentials" not in answer.headers


async def test_with_iap_a_preflight_requires_no_assertion_and_a_call_does(bridging):
    async with bridging(allowed_origins=LISTED, access="iap", iap_audience=("/projects/1/x",)) as http:
        assert (await http.request("OPTIONS", headers={"origin": APP, **ASKS})).status == 200
        refused = await http.post(http.call("echo", text="x"), {"origin": APP})
    assert refused.status == 401
    assert refused.headers["access-control-allow-origin"] == APP, "the page may read why"


async def test_a_page_may_read_responses_streams_and_its_session_id(bridging):
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "page", "version": "1"}}
    begin = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
    async with bridging(allowed_origins=LISTED, stateless=False) as http:
        initialized = await http.post(begin, {"origin": APP})
        session = {"origin": APP, "mcp-session-id": initialized.headers["mcp-session-id"]}
        steps = await http.post(http.call("steps", meta={"progressToken": 1}, count=2), session)
    for answer in (initialized, steps):
        assert answer.headers["access-control-allow-origin"] == APP
        assert "mcp-session-id" in words(answer.headers["access-control-expose-headers"])
    assert steps.headers["content-type"] == "text/event-stream"


async def test_a_request_without_an_origin_gets_no_cors_headers(bridging):
    async with bridging(allowed_origins=LISTED) as http:
        answer = await http.post(http.call("echo", text="x"))
        options = await http.request("OPTIONS", headers=ASKS)
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert options.status == 405


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ORIGINS, st.sampled_from(["OPTIONS", "POST", "GET"]), st.sampled_from([LISTED, LISTED[:1], ()]))
async def test_a_response_names_the_origin_only_if_it_is_listed(bridging, origin, method, listed):
    async with bridging(allowed_origins=listed) as http:
        answer = await http.request(method, headers={**http.headers(ASKS), "origin": origin}, body=b"{}")
    if any(pattern.accepts(origin) for pattern in listed):
        assert answer.status != 403
        assert answer.headers["access-control-allow-origin"] == origin
        assert "origin" in words(answer.headers["vary"])
    else:
        assert answer.status == 403
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert "access-control-allow-credentials" not in answer.headers
