"""Clients with a handshake and a session each, over streamable HTTP and over HTTP+SSE."""

import asyncio
import base64
import json

import pytest

pytestmark = pytest.mark.anyio

CAPABILITIES = {"sampling": {}, "roots": {"listChanged": True}}


def greeting(identity=0):
    params = {
        "protocolVersion": "2025-11-25",
        "capabilities": CAPABILITIES,
        "clientInfo": {"name": "c", "version": "1"},
    }
    return {"jsonrpc": "2.0", "id": identity, "method": "initialize", "params": params}


def token(subject):
    claims = base64.urlsafe_b64encode(json.dumps({"iss": "https://accounts.google.com", "sub": subject}).encode())
    return {"authorization": f"Bearer e30.{claims.decode().rstrip('=')}.SIGNATURE_REMOVED_BY_GOOGLE"}


@pytest.fixture
def session():
    """Begin a session; gives its header and its server."""

    async def session(http, headers=None):
        answer = await http.post(greeting(), headers)
        assert answer.status == 200
        await http.post(
            {"jsonrpc": "2.0", "method": "notifications/initialized"},
            {"mcp-session-id": answer.headers["mcp-session-id"], **(headers or {})},
        )
        return {"mcp-session-id": answer.headers["mcp-session-id"]}, http.fleet.started[-1]

    return session


@pytest.fixture
def stateful(bridging):
    return lambda **options: bridging(stateless=False, warm=False, **options)


async def test_each_session_has_a_process_initialized_by_its_client(stateful, session):
    async with stateful() as http:
        (header, first), (other, second) = await session(http), await session(http)
        assert header != other
        assert first is not second
        for server in (first, second):
            assert server.capabilities_of_client == CAPABILITIES
            assert server.methods() == ["initialize", "notifications/initialized"]


async def test_only_initialize_is_served_without_a_session(stateful):
    async with stateful() as http:
        assert (await http.post(http.call("echo", text="x"))).status == 400
        unknown = await http.post(http.call("echo", text="x"), {"mcp-session-id": "no-such"})
        assert unknown.status == 404
        assert "start a new one" in unknown.last["error"]["message"]


async def test_only_its_caller_can_use_a_session(stateful, session):
    async with stateful(access="iam") as http:
        header, _ = await session(http, token("ada"))
        assert (await http.post(http.call("echo", text="x"), {**header, **token("ada")})).status == 200
        assert (await http.post(http.call("echo", text="x"), {**header, **token("bob")})).status == 404
        assert (await http.post(http.call("echo", text="x"), header)).status == 404


async def test_a_servers_request_uses_the_calls_stream_and_its_answer_reaches_that_server(
    stateful, session, wait_until
):
    async with stateful() as http:
        header, server = await session(http)
        call = http.begin(http.call("ask", 7, method="sampling/createMessage"), header)
        await wait_until(lambda: call.answer.messages)
        question = call.answer.messages[0]
        assert question["method"] == "sampling/createMessage"
        answer = {"jsonrpc": "2.0", "id": question["id"], "result": {"said": "yes"}}
        assert (await http.post(answer, header)).status == 202
        assert (await call).last == {"jsonrpc": "2.0", "id": 7, "result": server.text('{"said": "yes"}')}


async def test_an_unsolicited_answer_is_not_passed_on(stateful, session):
    async with stateful() as http:
        header, server = await session(http)
        message_count = len(server.heard)
        await http.post({"jsonrpc": "2.0", "id": "made up", "result": {}}, header)
        assert len(server.heard) == message_count


async def test_one_client_cannot_answer_the_request_sent_to_another(stateful, session, wait_until):
    async with stateful() as http:
        (asked_headers, server), (other, _) = await session(http), await session(http)
        call = http.begin(http.call("ask", 1, method="roots/list"), asked_headers)
        await wait_until(lambda: call.answer.messages)
        identity = call.answer.messages[0]["id"]
        await http.post({"jsonrpc": "2.0", "id": identity, "result": {"from": "other"}}, other)
        await http.post({"jsonrpc": "2.0", "id": identity, "result": {"from": "me"}}, asked_headers)
        assert (await call).last["result"] == server.text('{"from": "me"}')


async def test_the_get_stream_carries_messages_without_a_call_including_earlier_ones(stateful, session, wait_until):
    async with stateful() as http:
        header, server = await session(http)
        server.say(method="notifications/tools/list_changed")
        stream = http.request("GET", headers=http.headers(header))
        await wait_until(lambda: stream.answer.messages)
        server.say(method="notifications/resources/updated", params={"uri": "file:///x"})
        await wait_until(lambda: len(stream.answer.messages) == 2)
        assert (await http.request("GET", headers=http.headers(header))).status == 409
        http.bridge.drain()
        assert [message["method"] for message in (await stream).messages] == [
            "notifications/tools/list_changed",
            "notifications/resources/updated",
        ]


async def test_log_messages_go_into_the_stream_of_the_call(stateful, session):
    async with stateful() as http:
        header, _ = await session(http)
        log, result = (await http.post(http.call("log", text="for you"), header)).messages
        assert (log["params"]["data"], result["result"]["content"][0]["text"]) == ("for you", "logged")


async def test_a_cancellation_reaches_the_server_under_the_bridges_id(stateful, session, wait_until):
    async with stateful() as http:
        header, server = await session(http)
        call = http.begin(http.call("hold", "mine", key=1), header)
        await wait_until(lambda: server.held)
        cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "mine"}}
        await http.post(cancel, header)
        assert (await call).last["error"]["message"] == "Request cancelled"
        cancelled = next(message for message in server.heard if message["method"] == "notifications/cancelled")
        assert cancelled["params"]["requestId"] == server.held[1]


async def test_an_id_in_use_is_refused(stateful, session, wait_until):
    async with stateful() as http:
        header, server = await session(http)
        call = http.begin(http.call("hold", 1, key=1), header)
        await wait_until(lambda: server.held)
        assert (await http.post(http.call("echo", 1, text="x"), header)).status == 400
        server.release(1)
        assert (await call).status == 200
        assert (await http.post(http.call("echo", 1, text="x"), header)).status == 200


async def test_a_lost_connection_does_not_cancel_a_call(stateful, session, wait_until):
    async with stateful() as http:
        header, server = await session(http)
        call = http.begin(http.call("hold", 1, key=1), header)
        await wait_until(lambda: server.held)
        call.vanish()
        await call
        assert "notifications/cancelled" not in server.methods()
        assert (await http.post(http.call("echo", 2, text="x"), header)).status == 200


async def test_delete_ends_the_session_and_its_process(stateful, session):
    async with stateful() as http:
        header, server = await session(http)
        assert (await http.request("DELETE", headers=http.headers(header))).status == 204
        assert server.over
        assert (await http.post(http.call("echo", text="x"), header)).status == 404


async def test_an_idle_session_ends_and_a_used_one_does_not(stateful, session, wait_until):
    async with stateful(session_idle=60) as http:
        (idle, idle_server), (_, busy) = await session(http), await session(http)
        request = http.begin(http.call("hold", 1, key=1), {"mcp-session-id": list(http.bridge.sessions.all)[1]})
        await wait_until(lambda: busy.held)
        await http.bridge.sessions.expire(asyncio.get_running_loop().time() + 61)
        assert (idle_server.over, busy.over) == (True, False)
        assert (await http.post(http.call("echo", text="x"), idle)).status == 404
        busy.release(1)
        assert (await request).status == 200


async def test_a_crash_ends_the_session_and_the_client_can_start_another(stateful, session):
    async with stateful() as http:
        header, _ = await session(http)
        assert (await http.post(http.call("crash", 3), header)).last["error"]["code"] == -32603
        assert (await http.post(http.call("echo", text="x"), header)).status == 404
        new_header, _ = await session(http)
        assert (await http.post(http.call("echo", text="x"), new_header)).status == 200


async def test_sessions_are_limited_by_the_settings(stateful, session):
    async with stateful(sessions=1) as http:
        header, _ = await session(http)
        assert (await http.post(greeting())).status == 503
        await http.request("DELETE", headers=http.headers(header))
        assert (await http.post(greeting())).status == 200


async def test_a_server_that_cannot_start_is_reported_and_leaves_no_session(stateful):
    async with stateful(failures=1) as http:
        refused = await http.post(greeting())
        assert refused.status == 503
        assert "no-such-server" in refused.last["error"]["message"]
        assert http.bridge.sessions.all == {}


async def test_a_2026_client_is_served_alongside_sessions(stateful, session):
    async with stateful() as http:
        header, _ = await session(http)
        message, headers = http.modern(name="echo", arguments={"text": "new"})
        assert (await http.post(message, headers)).last["result"]["content"][0]["text"] == "new"
        assert (await http.post(http.call("echo", text="old"), header)).last["result"]["content"][0]["text"] == "old"


# --- HTTP+SSE ---------------------------------------------------------------------------------------------


async def test_the_legacy_transport_carries_everything_in_one_stream(bridging, wait_until):
    async with bridging(sse=True) as http:
        stream = http.request("GET", "/sse", http.headers())
        await wait_until(lambda: stream.answer.body)
        event = stream.answer.body.decode()
        assert event.startswith("event: endpoint\r\ndata: /messages/?session_id=")
        query = event.strip().rpartition("?")[2].encode()

        async def post(message):
            answer = await http.post(message, path="/messages/", query=query)
            assert (answer.status, answer.body) == (202, b"")

        await post(greeting(0))
        await wait_until(lambda: len(stream.answer.messages) == 1)
        await post(http.call("ask", 1, method="roots/list"))
        await wait_until(lambda: len(stream.answer.messages) == 2)
        question = stream.answer.messages[1]
        await post({"jsonrpc": "2.0", "id": question["id"], "result": {"roots": []}})
        await wait_until(lambda: len(stream.answer.messages) == 3)
        assert stream.answer.messages[0]["result"]["serverInfo"]["name"] == "fake"
        assert stream.answer.messages[2]["id"] == 1
        stream.vanish()
        await stream
        assert http.fleet.started[-1].over
        assert (await http.post(greeting(), path="/messages/", query=query)).status == 404
