"""Clients of protocol version 2026-07-28 in front of a server that needs a handshake."""

import asyncio
import json

import pytest

from mcpfleet_bridge import modern

pytestmark = pytest.mark.anyio

META = "io.modelcontextprotocol/"
CAN_ASK = {"sampling": {}, "elicitation": {"form": {}}}


async def send(http, *arguments, **options):
    message, headers = http.modern(*arguments, **options)
    return await http.post(message, headers)


def tool(name, **arguments):
    return {"name": name, "arguments": arguments}


# --- the envelope -----------------------------------------------------------------------------------------


async def test_discover_returns_the_servers_initialize_result(bridging):
    async with bridging() as http:
        result = (await send(http, "server/discover")).last["result"]
        assert result["supportedVersions"] == ["2026-07-28"]
        assert result["capabilities"]["resources"] == {"subscribe": True}
        assert result["instructions"] == "be nice"
        assert (result["resultType"], result["ttlMs"], result["cacheScope"]) == ("complete", 0, "private")
        assert result["_meta"][f"{META}serverInfo"] == {"name": "fake", "version": "1"}


async def test_the_envelope_is_removed_and_the_rest_of_meta_is_passed_on(bridging):
    async with bridging() as http:
        answer = await send(http, meta={"traceparent": "00-1-2-3", "progressToken": "mine"}, **tool("steps", count=1))
        assert [message.get("params", {}).get("progressToken") for message in answer.messages] == ["mine", None]
        meta = http.fleet.started[0].heard[-1]["params"]["_meta"]
        assert set(meta) == {"traceparent", "progressToken"}


async def test_results_are_marked_complete_and_lists_as_not_cacheable(bridging):
    async with bridging() as http:
        called = (await send(http, **tool("echo", text="x"))).last["result"]
        listed = (await send(http, "tools/list")).last["result"]
        assert called["resultType"] == listed["resultType"] == "complete"
        assert "ttlMs" not in called
        assert (listed["ttlMs"], listed["cacheScope"], listed["tools"]) == (0, "private", [])


@pytest.mark.parametrize(
    ("said", "added"),
    [
        ("{}", {"resultType": "complete"}),
        ('{"resultType":"complete","a":1}', {}),
        ('{"_meta":{"a":1}}', {"resultType": "complete"}),
        ('{  "a" : 1 }', {"resultType": "complete"}),
    ],
)
async def test_every_result_stays_valid_json(bridging, said, added):
    async with bridging() as http:
        line = '{"jsonrpc":"2.0","id":ID,"result":' + said + "}"
        result = (await send(http, **tool("raw", line=line))).last["result"]
        assert result.items() >= added.items()
        assert "resultType" not in added or result["resultType"] == "complete"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"mcp-method": "tools/list"}, -32020),
        ({"mcp-method": "TOOLS/CALL"}, -32020),
        ({"mcp-name": "other"}, -32020),
        ({"mcp-name": "  echo\t"}, None),
        ({"mcp-name": "=?base64?ZWNobw==?="}, None),
        ({"mcp-name": "=?base64?ZWNob?="}, -32020),
        ({"mcp-protocol-version": "2026-07-29"}, -32020),
    ],
)
async def test_headers_that_differ_from_the_body_are_refused(bridging, headers, code):
    async with bridging() as http:
        answer = await send(http, headers=headers, **tool("echo", text="x"))
        assert answer.last.get("error", {}).get("code") == code
        assert answer.status == (400 if code else 200)


@pytest.mark.parametrize("missing", ["mcp-method", "mcp-name"])
async def test_a_missing_header_is_refused(bridging, missing):
    async with bridging() as http:
        message, headers = http.modern(**tool("echo", text="x"))
        del headers[missing]
        assert (await http.post(message, headers)).last["error"]["code"] == -32020


@pytest.mark.parametrize("missing", ["protocolVersion", "clientCapabilities"])
async def test_a_missing_part_of_the_envelope_is_named(bridging, missing):
    async with bridging() as http:
        message, headers = http.modern(**tool("echo", text="x"))
        del message["params"]["_meta"][META + missing]
        answer = await http.post(message, headers)
        assert (answer.status, answer.last["error"]["code"]) == (400, -32602)
        assert META + missing in answer.last["error"]["message"]


async def test_an_unknown_protocol_version_gets_the_supported_ones(bridging):
    async with bridging() as http:
        version = {f"{META}protocolVersion": "2031-01-01"}
        headers = {"mcp-protocol-version": "2031-01-01"}
        answer = await send(http, meta=version, headers=headers, **tool("echo", text="x"))
        assert (answer.status, answer.last["error"]["code"]) == (400, -32022)
        assert answer.last["error"]["data"] == {"supported": ["2026-07-28"], "requested": "2031-01-01"}


@pytest.mark.parametrize("method", ["initialize", "ping", "logging/setLevel", "resources/subscribe", "no/such"])
async def test_methods_that_the_protocol_version_lacks_are_not_found(bridging, method):
    async with bridging() as http:
        answer = await send(http, method)
        assert (answer.status, answer.last["error"]["code"]) == (404, -32601)


async def test_a_missing_resource_has_the_error_code_of_the_protocol_version(bridging):
    async with bridging() as http:
        answer = await send(http, "resources/read", uri="file:///x")
        assert (answer.status, answer.last["error"]["code"]) == (400, -32602)
        assert answer.last["error"]["data"] == {"uri": "file:///x"}


async def test_clients_of_both_protocol_versions_share_one_process(bridging):
    async with bridging() as http:
        for number in range(20):
            old = await http.post(http.call("echo", number, text=f"old {number}"))
            new = await send(http, identity=number, **tool("echo", text=f"new {number}"))
            assert old.last["result"]["content"][0]["text"] == f"old {number}"
            assert new.last["result"]["content"][0]["text"] == f"new {number}"
        assert len(http.fleet.started) == 1


async def test_closing_the_stream_cancels_the_call(bridging, wait_until):
    async with bridging() as http:
        message, headers = http.modern(**tool("hold", key=1))
        request = http.begin(message, headers)
        (server,) = http.fleet.started
        await wait_until(lambda: server.held)
        request.vanish()
        await request
        assert "notifications/cancelled" in server.methods()


# --- questions --------------------------------------------------------------------------------------------


async def ask(http, identity=1, capabilities=CAN_ASK, method="sampling/createMessage", **more):
    return await send(http, identity=identity, capabilities=capabilities, **tool("ask", method=method), **more)


@pytest.mark.parametrize("method", ["sampling/createMessage", "elicitation/create", "roots/list"])
async def test_a_servers_request_becomes_input_required_and_the_answer_resumes_the_call(bridging, method):
    async with bridging() as http:
        first_round = (await ask(http, capabilities={"roots": {}, **CAN_ASK}, method=method)).last["result"]
        assert first_round["resultType"] == "input_required"
        ((key, request),) = first_round["inputRequests"].items()
        assert request == {"method": method, "params": {"message": "well?"}}
        answer = await send(
            http,
            identity="second",
            capabilities={"roots": {}, **CAN_ASK},
            inputResponses={key: {"said": "yes"}},
            requestState=first_round["requestState"],
            **tool("ask", method=method),
        )
        assert answer.last["id"] == "second"
        assert answer.last["result"]["content"][0]["text"] == '{"said": "yes"}'
        asked_servers = [server for server in http.fleet.started if "tools/call" in server.methods()]
        assert len(asked_servers) == 1
        assert asked_servers[0].methods().count("tools/call") == 1, "the call was made once"


async def test_a_server_gets_the_capabilities_of_its_own_client_only(bridging):
    async with bridging() as http:
        await send(http, capabilities=CAN_ASK, **tool("echo", text="x"))
        shared, exclusive = http.fleet.started
        assert (shared.capabilities_of_client, exclusive.capabilities_of_client) == ({}, CAN_ASK)


async def test_concurrent_input_requests_of_two_clients_use_a_process_each(bridging):
    async with bridging() as http:
        first = (await ask(http, 1)).last["result"]
        second = (await ask(http, 1)).last["result"]
        assert first["requestState"] != second["requestState"]
        for name, round_ in (("second", second), ("first", first)):
            key = next(iter(round_["inputRequests"]))
            answer = await ask(http, 1, inputResponses={key: {"for": name}}, requestState=round_["requestState"])
            assert answer.last["result"]["content"][0]["text"] == json.dumps({"for": name})
        assert len(http.fleet.started) == 3


async def test_a_request_state_is_valid_once_and_for_its_own_call_only(bridging):
    async with bridging() as http:
        first_round = (await ask(http)).last["result"]
        state = first_round["requestState"]
        other = await send(http, capabilities=CAN_ASK, requestState=state, inputResponses={}, **tool("echo", text="x"))
        assert "requestState" in other.last["error"]["message"]
        key = next(iter(first_round["inputRequests"]))
        assert (await ask(http, inputResponses={key: {}}, requestState=state)).last["result"]["content"]
        repeated = await ask(http, inputResponses={key: {}}, requestState=state)
        assert (repeated.status, repeated.last["error"]["code"]) == (400, -32602)


async def test_an_unanswered_input_request_is_repeated(bridging):
    async with bridging() as http:
        first_round = (await ask(http)).last["result"]
        second_round = (await ask(http, requestState=first_round["requestState"])).last["result"]
        assert second_round["resultType"] == "input_required"
        assert second_round["inputRequests"] == first_round["inputRequests"]


async def test_a_leased_process_is_reused_after_a_finished_call(bridging):
    async with bridging() as http:
        for _ in range(3):
            await send(http, capabilities=CAN_ASK, **tool("echo", text="x"))
        assert len(http.fleet.started) == 2


async def test_a_process_that_got_a_clients_roots_serves_no_other_client(bridging):
    async with bridging() as http:
        roots = {"roots": {}}
        first_round = (await ask(http, capabilities=roots, method="roots/list")).last["result"]
        key = next(iter(first_round["inputRequests"]))
        await send(
            http,
            capabilities=roots,
            inputResponses={key: {"roots": []}},
            requestState=first_round["requestState"],
            **tool("ask", method="roots/list"),
        )
        knowing = http.fleet.started[1]
        assert knowing.over
        await send(http, capabilities=roots, **tool("echo", text="x"))
        assert len(http.fleet.started) == 3


async def test_a_process_with_a_cancelled_call_serves_no_other_client(bridging, wait_until):
    async with bridging() as http:
        message, headers = http.modern(capabilities=CAN_ASK, **tool("hold", key=1))
        request = http.begin(message, headers)
        await wait_until(lambda: len(http.fleet.started) == 2 and http.fleet.started[1].held)
        request.vanish()
        await request
        assert http.fleet.started[1].over


async def test_a_call_whose_client_never_answers_expires(bridging, wait_until):
    async with bridging(call_seconds=1) as http:
        first_round = (await ask(http)).last["result"]
        await http.bridge._modern.expire(asyncio.get_running_loop().time() + 2)
        await wait_until(lambda: http.fleet.started[1].over)
        late = await ask(http, requestState=first_round["requestState"])
        assert late.last["error"]["code"] == -32602


async def test_leased_processes_are_limited_by_the_settings(bridging):
    async with bridging(exclusive=1, queue=0) as http:
        await ask(http)
        refused = await ask(http)
        assert (refused.status, refused.last["error"]["code"]) == (503, -32000)
        assert (await send(http, **tool("echo", text="x"))).status == 200, "other calls are not in the way"


async def test_a_call_waiting_for_its_client_yields_its_process_to_a_waiting_call(bridging, wait_until):
    async with bridging(exclusive=2) as http:
        first, second = [(await ask(http)).last["result"] for _ in range(2)]
        message, headers = http.modern(capabilities=CAN_ASK, **tool("echo", text="at last"))
        request = http.begin(message, headers)
        await wait_until(lambda: http.bridge.leases.count_waiting()[0] == 1)
        now = asyncio.get_running_loop().time()
        await http.bridge._modern.expire(now + 9)
        assert not [server for server in http.fleet.started if server.over], "a client has some seconds to answer"
        await http.bridge._modern.expire(now + 11)
        assert (await request).last["result"]["content"][0]["text"] == "at last"
        late = await ask(http, requestState=first["requestState"])
        assert late.last["error"]["code"] == -32602
        key = next(iter(second["inputRequests"]))
        resumed = await ask(http, inputResponses={key: {}}, requestState=second["requestState"])
        assert resumed.last["result"]["content"], "one gave way, for one waited"


async def test_concurrent_requests_of_a_server_are_one_round_for_the_client(bridging, fake_server):
    class Curious(fake_server):
        def act(self, message):
            if message.get("method") == "tools/call":
                self.number, self.answers = message["id"], {}
                for place, method in enumerate(("elicitation/create", "sampling/createMessage", "roots/list")):
                    later = asyncio.get_running_loop().call_later
                    later(0.001 * place, lambda method=method: self.say(id=method, method=method, params={}))
            elif message.get("method") is None:
                self.answers[message["id"]] = message["result"]
                if len(self.answers) == 3:
                    self.say(id=self.number, result={"content": [], "said": self.answers})
            else:
                super().act(message)

    async with bridging(server=Curious) as http:
        able = CAN_ASK | {"roots": {}}
        first_round = (await send(http, capabilities=able, **tool("all"))).last["result"]
        responses = {key: {"to": question["method"]} for key, question in first_round["inputRequests"].items()}
        assert len(responses) == 3
        done = await send(
            http, capabilities=able, inputResponses=responses, requestState=first_round["requestState"], **tool("all")
        )
        results = done.last["result"]["said"]
        assert results == {
            method: {"to": method} for method in ("elicitation/create", "sampling/createMessage", "roots/list")
        }


async def test_an_error_after_the_first_event_is_the_last_event(bridging, fake_server, monkeypatch):
    class Telling(fake_server):
        def tool_ask(self, number, params):
            token = params["_meta"]["progressToken"]
            self.say(method="notifications/progress", params={"progressToken": token, "progress": 1})
            asyncio.get_running_loop().call_later(0.01, super().tool_ask, number, params)

    monkeypatch.setattr(modern, "MAX_SUSPENDED", 0)
    async with bridging(server=Telling) as http:
        arguments = tool("ask", method="elicitation/create")
        answer = await send(http, capabilities=CAN_ASK, meta={"progressToken": "mine"}, **arguments)
        assert (answer.status, answer.headers["content-type"], answer.ended) == (200, "text/event-stream", True)
        progress, refusal = answer.messages
        assert progress["params"]["progressToken"] == "mine"
        assert (refusal["id"], refusal["error"]["code"]) == (1, -32000)


async def test_an_idle_process_is_replaced_for_other_client_capabilities(bridging):
    async with bridging(exclusive=1) as http:
        await send(http, capabilities={"sampling": {}}, **tool("echo", text="x"))
        await send(http, capabilities={"elicitation": {}}, **tool("echo", text="x"))
        assert [server.over for server in http.fleet.started] == [False, True, False]


async def test_a_servers_request_during_a_method_without_input_is_declined(bridging, fake_server):
    class Curious(fake_server):
        def act(self, message):
            if message.get("method") == "tools/list":
                self.asked["q"] = message["id"]
                self.say(id="q", method="sampling/createMessage", params={})
            elif message.get("method") is None:
                self.say(id=self.asked.pop("q"), result={"tools": [], "said": message["error"]["message"]})
            else:
                super().act(message)

    async with bridging(server=Curious) as http:
        answer = await send(http, "tools/list", capabilities=CAN_ASK)
        assert answer.last["result"]["tools"] == []
        assert "can't be answered with a question" in answer.last["result"]["said"]


async def test_log_messages_go_to_the_client_that_asked_for_them(bridging):
    async with bridging() as http:
        answer = await send(http, meta={f"{META}logLevel": "info"}, **tool("log", text="for you"))
        log, result = answer.messages
        assert (log["method"], log["params"]["data"]) == ("notifications/message", "for you")
        assert result["result"]["content"][0]["text"] == "logged"
        assert {"level": "info"} in [message.get("params") for message in http.fleet.started[1].heard]


async def test_a_crash_during_a_question_answers_the_next_round(bridging):
    async with bridging() as http:
        first_round = (await ask(http)).last["result"]
        http.fleet.started[1].end("it exited with code 9")
        answer = await ask(http, requestState=first_round["requestState"])
        assert "it exited with code 9" in answer.last["error"]["message"]


# --- subscriptions/listen ---------------------------------------------------------------------------------


async def test_subscribers_get_only_their_notifications_with_their_own_id(bridging, wait_until):
    async with bridging() as http:
        (server,) = http.fleet.started
        lists = http.begin(*http.modern("subscriptions/listen", identity="l", notifications={"toolsListChanged": True}))
        filters = {"resourceSubscriptions": ["file:///x"]}
        resource_stream = http.begin(*http.modern("subscriptions/listen", identity="r", notifications=filters))
        await wait_until(lambda: "resources/subscribe" in server.methods())
        server.say(method="notifications/tools/list_changed")
        server.say(method="notifications/resources/updated", params={"uri": "file:///x"})
        server.say(method="notifications/resources/updated", params={"uri": "file:///y"})
        await wait_until(lambda: len(lists.answer.messages) == 2 and len(resource_stream.answer.messages) == 2)
        http.bridge.drain()
        first, second = (await lists).messages, (await resource_stream).messages
        assert [message.get("method", "result") for message in first] == [
            "notifications/subscriptions/acknowledged",
            "notifications/tools/list_changed",
            "result",
        ]
        assert first[0]["params"]["notifications"] == {"toolsListChanged": True}
        assert [message["params"].get("uri") for message in second[:2]] == [None, "file:///x"]
        for messages, identity in ((first, "l"), (second, "r")):
            for message in messages:
                members = message.get("params") or message["result"]
                assert members["_meta"][f"{META}subscriptionId"] == identity
        assert first[-1]["result"]["resultType"] == "complete"


async def test_a_restarted_server_is_resubscribed_and_unsubscribed_without_listeners(bridging, wait_until):
    async with bridging() as http:
        filters = {"resourceSubscriptions": ["file:///x"]}
        request = http.begin(*http.modern("subscriptions/listen", notifications=filters))
        await wait_until(lambda: "resources/subscribe" in http.fleet.started[0].methods())
        await http.post(http.call("crash"))
        await wait_until(
            lambda: len(http.fleet.started) == 2 and "resources/subscribe" in http.fleet.started[1].methods()
        )
        request.vanish()
        await request
        assert "resources/unsubscribe" in http.fleet.started[1].methods()
