"""HTTP of the bridge: accepted requests, and the errors of refused ones."""

import pytest

from mcpfleet_server.allowlist import HostPattern, OriginPattern

pytestmark = pytest.mark.anyio


async def test_a_foreign_host_is_refused(bridging):
    async with bridging(allowed_hosts=(HostPattern.parse("mcp-*.run.app"),)) as http:
        assert (await http.post(http.call("echo", text="x"), {"host": "evil.example"})).status == 421
        assert (await http.post(http.call("echo", text="x"), {"host": "mcp-a-1.run.app"})).status == 200


async def test_only_allowed_origins_are_accepted(bridging):
    async with bridging(allowed_origins=(OriginPattern.parse("https://app.example.com"),)) as http:
        assert (await http.post(http.call("echo", text="x"), {"origin": "https://evil.example"})).status == 403
        assert (await http.post(http.call("echo", text="x"), {"origin": "null"})).status == 403
        assert (await http.post(http.call("echo", text="x"), {"origin": "https://app.example.com"})).status == 200


@pytest.mark.parametrize("name", ["host", "mcp-protocol-version", "mcp-method", "mcp-session-id"])
async def test_a_repeated_security_header_is_refused(bridging, name):
    async with bridging() as http:
        twice = [*http.headers().items(), ("host", "127.0.0.1"), (name, "127.0.0.1"), (name, "127.0.0.1")]
        answer = await http.request(headers=twice, body=b"{}")
        assert answer.status == 400
        assert f"{name} header appears more than once" in answer.last["error"]["message"]


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "OPTIONS"])
async def test_without_sessions_only_post_is_served(bridging, method):
    async with bridging() as http:
        answer = await http.request(method, headers=http.headers())
        assert (answer.status, answer.headers["allow"]) == (405, "POST")


async def test_a_trailing_slash_is_the_same_path_and_others_are_not_found(bridging):
    async with bridging() as http:
        assert (await http.post(http.call("echo", text="x"), path="/mcp/")).status == 200
        assert (await http.post(http.call("echo", text="x"), path="/other")).status == 404
        assert (await http.request("GET", "/sse", http.headers())).status == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({"content-type": ""}, 415),
        ({"content-type": "application/json; charset=utf-8"}, 200),
        ({"accept": "text/html"}, 406),
        ({"accept": "*/*"}, 200),
    ],
)
async def test_wrong_content_type_and_accept_headers_are_refused(bridging, headers, status):
    async with bridging() as http:
        assert (await http.post(http.call("echo", text="x"), headers)).status == status


async def test_a_large_message_is_refused_before_and_while_it_is_read(bridging):
    async with bridging(max_request=2048) as http:
        declared = await http.post(b"{}", {"content-length": "2049"})
        sent = await http.post(b" " * 2049)
        assert (declared.status, sent.status) == (413, 413)
        assert "2048 bytes of MCP_STDIO_MAX_REQUEST" in sent.last["error"]["message"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b"\xff\xfe", -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":"\xff"}}', -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":' + b"[" * 50_000 + b"]" * 50_000 + b"}", -32700),
        (b"[]", -32600),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600),
        (b'"text"', -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":{"a":1},"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":5}', -32600),
        (b'{"jsonrpc":"2.0","id":1}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}', -32602),
    ],
)
async def test_an_invalid_message_gets_a_json_rpc_error_and_never_reaches_the_server(bridging, body, code):
    async with bridging() as http:
        message_count = len(http.fleet.started[0].heard)
        answer = await http.post(body)
        assert answer.status == 400
        assert answer.last["error"]["code"] == code
        assert len(http.fleet.started[0].heard) == message_count


async def test_a_batch_is_refused_with_the_reason(bridging):
    async with bridging() as http:
        assert "batches are not served" in (await http.post(b"[]")).last["error"]["message"]


@pytest.mark.parametrize("modern", [False, True])
async def test_a_response_of_five_megabytes_arrives_complete(bridging, modern):
    text = "ä\n" * 2_500_000
    async with bridging() as http:
        http.fleet.started[0].tool_big = lambda number, _: http.fleet.started[0].say(
            id=number, result=http.fleet.started[0].text(text)
        )
        message, headers = http.modern(name="big", arguments={}) if modern else (http.call("big"), None)
        answer = await http.post(message, headers)
    assert answer.status == 200
    assert answer.last["result"]["content"][0]["text"] == text
