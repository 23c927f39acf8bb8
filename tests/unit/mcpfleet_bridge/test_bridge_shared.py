"""Stateless clients with a handshake, which share a pool of processes."""

import asyncio
import json

import pytest

pytestmark = pytest.mark.anyio


async def test_initialize_is_answered_from_the_servers_result_with_the_clients_version(bridging):
    async with bridging() as http:
        ask = {"jsonrpc": "2.0", "id": "a", "method": "initialize", "params": {"protocolVersion": "2025-03-26"}}
        answer = await http.post(ask)
        assert answer.last["id"] == "a"
        assert answer.last["result"]["protocolVersion"] == "2025-03-26"
        assert answer.last["result"]["serverInfo"]["name"] == "fake"
        assert http.fleet.started[0].methods() == ["initialize", "notifications/initialized"]


async def test_an_unknown_protocol_version_is_answered_with_the_servers(bridging):
    async with bridging() as http:
        ask = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2031-01-01"}}
        assert (await http.post(ask)).last["result"]["protocolVersion"] == "2025-11-25"


async def test_features_that_need_a_session_are_neither_offered_nor_served(bridging):
    async with bridging() as http:
        ask = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}
        assert (await http.post(ask)).last["result"]["capabilities"] == {"tools": {}, "resources": {}}
        for method in ("logging/setLevel", "resources/subscribe"):
            refused = await http.post({"jsonrpc": "2.0", "id": 2, "method": method, "params": {}})
            assert refused.last["error"]["code"] == -32601
            assert "needs a session" in refused.last["error"]["message"]


async def test_the_same_id_of_two_clients_never_collides(bridging, wait_until):
    async with bridging() as http:
        (server,) = http.fleet.started
        first, other = http.begin(http.call("hold", 1, key="one")), http.begin(http.call("hold", 1, key="other"))
        await wait_until(lambda: len(server.held) == 2)
        server.release("other", "for other")
        server.release("one", "for one")
        assert (await first).last == {"jsonrpc": "2.0", "id": 1, "result": server.text("for one")}
        assert (await other).last == {"jsonrpc": "2.0", "id": 1, "result": server.text("for other")}


@pytest.mark.parametrize("identity", ['"a\\u00e4"', '"a/b\\"c"', "0", "-7", "12345678901234567890", '""'])
async def test_an_id_is_returned_unchanged(bridging, identity):
    async with bridging() as http:
        body = b'{"jsonrpc":"2.0","id":%s,"method":"ping"}' % identity.encode()
        answer = await http.post(body)
        assert answer.body == b'{"jsonrpc":"2.0","id":%s,"result":{}}' % identity.encode()


async def test_parameters_are_passed_on_unchanged_on_one_line(bridging):
    async with bridging() as http:
        big = '{"a": 1.0,\n "b": 123456789012345678901234567890, "c":1E2,\r\n "name":"echo","arguments":{"text":"x"}}'
        body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":%s}' % big.encode()
        assert (await http.post(body)).status == 200
        assert http.fleet.started[0].heard[-1]["params"]["b"] == 123456789012345678901234567890


async def test_progress_reaches_its_call_with_the_calls_own_token(bridging):
    async with bridging() as http:
        first = http.begin(http.call("steps", 1, meta={"progressToken": "same"}, count=2))
        second = http.begin(http.call("steps", 1, meta={"progressToken": "same"}, count=3))
        for request, count in ((first, 2), (second, 3)):
            *progress, result = (await request).messages
            assert [message["params"] for message in progress] == [
                {"progressToken": "same", "progress": step} for step in range(count)
            ]
            assert result["result"]["content"][0]["text"] == "done"
        tokens = [
            message["params"]["_meta"]["progressToken"]
            for message in http.fleet.started[0].heard
            if "_meta" in str(message)
        ]
        assert len(set(tokens)) == 2, "the server sees two tokens, not the clients' one"


async def test_a_client_that_does_not_accept_streams_gets_only_the_answer(bridging):
    async with bridging() as http:
        call = http.call("steps", 1, meta={"progressToken": 1}, count=2)
        answer = await http.post(call, {"accept": "application/json"})
        assert answer.headers["content-type"] == "application/json"
        assert answer.last["result"]["content"][0]["text"] == "done"


async def test_a_client_that_accepts_only_streams_gets_one(bridging):
    async with bridging() as http:
        answer = await http.post(http.call("echo", text="x"), {"accept": "text/event-stream"})
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.last["result"]["content"][0]["text"] == "x"


async def test_a_crash_fails_the_calls_in_flight_and_the_next_call_uses_a_new_process(bridging):
    async with bridging() as http:
        call = http.begin(http.call("hold", 5, key="k"))
        crash = await http.post(http.call("crash", 6))
        for answer, identity in ((await call, 5), (crash, 6)):
            assert answer.last["id"] == identity
            assert answer.last["error"]["code"] == -32603
            assert "it exited with code 3" in answer.last["error"]["message"]
        assert (await http.post(http.call("echo", text="again"))).last["result"]["content"][0]["text"] == "again"
        assert len(http.fleet.started) == 2


async def test_after_a_hundred_crashes_one_process_runs_and_every_call_was_answered(bridging):
    async with bridging() as http:
        for number in range(100):
            assert (await http.post(http.call("echo", number, text=str(number)))).last["result"]
            assert (await http.post(http.call("crash", number))).last["error"]["code"] == -32603
        assert (await http.post(http.call("echo", text="still"))).last["result"]["content"][0]["text"] == "still"
        assert len(http.fleet.alive) == 1


async def test_calls_go_to_the_process_with_the_fewest_calls(bridging, wait_until):
    async with bridging(pool=3) as http:
        calls = [http.begin(http.call("hold", number, key=number)) for number in range(6)]
        await wait_until(lambda: sum(len(server.held) for server in http.fleet.started) == 6)
        assert [len(server.held) for server in http.fleet.started] == [2, 2, 2]
        for server in http.fleet.started:
            for key in list(server.held):
                server.release(key)
        assert [(await request).status for request in calls] == [200] * 6


async def test_calls_over_the_concurrency_wait_and_over_the_queue_are_refused(bridging, wait_until):
    async with bridging(concurrency=1, queue=1) as http:
        (server,) = http.fleet.started
        first, second = http.begin(http.call("hold", 1, key=1)), http.begin(http.call("hold", 2, key=2))
        await wait_until(lambda: server.held)
        refused = await http.post(http.call("hold", 3, key=3))
        assert (refused.status, refused.last["id"]) == (503, 3)
        assert "Too many calls wait" in refused.last["error"]["message"]
        assert refused.headers["retry-after"] == "1"
        assert list(server.held) == [1]
        server.release(1)
        assert (await first).status == 200
        await wait_until(lambda: server.held)
        server.release(2)
        assert (await second).status == 200


async def test_a_disconnected_clients_call_is_cancelled_and_frees_its_place(bridging, wait_until):
    async with bridging(concurrency=1) as http:
        (server,) = http.fleet.started
        cancelled_call, next_ = http.begin(http.call("hold", 1, key=1)), http.begin(http.call("echo", 2, text="mine"))
        await wait_until(lambda: server.held)
        number = server.held[1]
        cancelled_call.vanish()
        assert (await next_).last["result"]["content"][0]["text"] == "mine"
        cancelled = [
            message["params"] for message in server.heard if message.get("method") == "notifications/cancelled"
        ]
        assert [message["requestId"] for message in cancelled] == [number]
        server.say(id=number, result=server.text("too late"))  # goes nowhere
        assert (await cancelled_call).body == b""


async def test_a_call_that_takes_too_long_is_cancelled_with_an_error(bridging):
    async with bridging(call_seconds=0.01) as http:
        answer = await http.post(http.call("hold", 1, key=1))
        assert answer.last["error"]["code"] == -32001
        assert "did not answer within 0.01 s" in answer.last["error"]["message"]
        assert "notifications/cancelled" in http.fleet.started[0].methods()


async def test_a_request_of_a_shared_server_is_declined_and_reaches_no_client(bridging):
    async with bridging() as http:
        answer = await http.post(http.call("ask", method="sampling/createMessage"))
        assert len(answer.messages) == 1
        assert "can't ask the client" in answer.last["result"]["content"][0]["text"]


async def test_a_log_message_of_a_shared_server_goes_only_to_the_log(bridging, caplog):
    caplog.set_level("INFO")
    async with bridging() as http:
        answer = await http.post(http.call("log", text="a word about a client"))
        assert len(answer.messages) == 1
        assert "a word about a client" in caplog.text


async def test_stray_text_on_stdout_is_logged_and_affects_no_call(bridging, caplog, wait_until):
    async with bridging() as http:
        (server,) = http.fleet.started
        call = http.begin(http.call("hold", 1, key=1))
        await wait_until(lambda: server.held)
        for line in (
            b"Server running on stdio",
            b"{broken",
            b"[1,2]",
            b"5",
            b'{"jsonrpc":"1.0"}',
            b"\xff\xfe",
            b"null",
        ):
            server.reader.on_line(line)
        server.release(1)
        assert (await call).last["result"]["content"][0]["text"] == "released"
        assert "Server running on stdio" in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        '{"jsonrpc":"2.0","id":ID,"result":',
        '{"jsonrpc":"2.0","id":ID,"result":NaN}',
        '{"jsonrpc":"2.0","id":ID}',
        '{"jsonrpc":"2.0","id":ID,"error":null}',
        '{"jsonrpc":"2.0","id":ID,"result":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"jsonrpc":"2.0","id":ID,"result":"\xff\xfe"}',
    ],
    ids=["cut off", "no JSON", "neither result nor error", "no error", "too deep", "not UTF-8"],
)
async def test_a_malformed_answer_fails_its_call(bridging, line):
    async with bridging(call_seconds=5) as http:
        answer = await http.post(http.call("raw", 9, line=line))
        assert answer.last["id"] == 9
        assert answer.last["error"]["code"] == -32603


@pytest.mark.parametrize("line", ['"result":{"good":1},"error":null', '"error":null,"result":{"good":1}'])
async def test_a_null_error_with_a_result_is_ignored(bridging, line):
    async with bridging() as http:
        answer = await http.post(http.call("raw", line='{"jsonrpc":"2.0","id":ID,' + line + "}"))
        assert answer.last == {"jsonrpc": "2.0", "id": 1, "result": {"good": 1}}


async def test_a_lone_surrogate_does_not_lose_an_answer(bridging):
    async with bridging() as http:
        line = '{"jsonrpc":"2.0","id":ID,"result":{"text":"cut \\ud83d"}}'
        assert (await http.post(http.call("raw", line=line))).last["result"]["text"].startswith("cut ")


async def test_while_no_server_can_start_calls_and_health_fail_with_the_reason(bridging, wait_until):
    async def at_once(seconds):
        await asyncio.sleep(0)

    async with bridging(failures=10**6, warm=False) as http:
        http.bridge.pool._sleep = at_once
        refused = await http.post(http.call("echo", text="x"))
        assert refused.status == 503
        assert "no-such-server" in refused.last["error"]["message"]
        health = await http.request("GET", "/health")
        assert (health.status, json.loads(health.body)["status"]) == (503, "unhealthy")
        assert "no-such-server" in json.loads(health.body)["reason"]
        http.fleet.failures = 0
        await wait_until(lambda: http.bridge.pool.children)
        assert (await http.request("GET", "/health")).status == 200
        assert (await http.post(http.call("echo", text="x"))).status == 200


async def test_a_bridge_gives_up_only_on_a_server_that_never_started(bridging, wait_until):
    async def at_once(seconds):
        await asyncio.sleep(0)

    async with bridging(failures=10**6, warm=False) as http:
        reasons = []
        http.bridge.pool._sleep, http.bridge.pool.on_failed_start = at_once, reasons.append
        await http.post(http.call("echo", text="x"))
        assert "no-such-server" in reasons[0]
    async with bridging() as http:
        reasons = []
        http.bridge.pool._sleep, http.bridge.pool.on_failed_start = at_once, reasons.append
        http.fleet.failures = 10**6
        await http.post(http.call("crash"))
        await wait_until(lambda: http.bridge.pool.start_count > 5)
        assert reasons == []


async def test_health_is_served_for_any_host_once_a_server_runs(bridging):
    async with bridging() as http:
        answer = await http.request("GET", "/health", {"host": "10.0.0.7:8080"})
        assert (answer.status, json.loads(answer.body)) == (200, {"status": "ok"})


async def test_without_a_warm_pool_the_first_call_starts_a_server(bridging):
    async with bridging(warm=False) as http:
        assert http.fleet.started == []
        assert (await http.request("GET", "/health")).status == 200
        assert (await http.post(http.call("echo", text="x"))).last["result"]["content"][0]["text"] == "x"
        assert len(http.fleet.started) == 1


async def test_notifications_and_answers_without_a_session_are_accepted_and_dropped(bridging):
    async with bridging() as http:
        message_count = len(http.fleet.started[0].heard)
        cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
        for message in (cancel, {"jsonrpc": "2.0", "id": 1, "result": {}}):
            answer = await http.post(message)
            assert (answer.status, answer.body) == (202, b"")
        assert len(http.fleet.started[0].heard) == message_count
