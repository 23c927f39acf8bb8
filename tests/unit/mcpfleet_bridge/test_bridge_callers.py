"""Isolation of two callers: neither can use, see or take what belongs to the other, in any access mode."""

import asyncio
import base64
import json

import pytest
from hypothesis import given
from hypothesis import settings as quickly
from hypothesis import strategies as st

import mcpfleet_bridge.edge as edge
from mcpfleet_bridge.settings import SettingsError, load_settings
from mcpfleet_server.caller import caller_share, has_full_share
from mcpfleet_server.iap import AssertionVerifier, KeysError
from tests.unit.mcp_server.assertions import AUDIENCE, OTHER, assertion, published
from tests.unit.mcp_server.tokens import ADA, BOB, id_token

pytestmark = pytest.mark.anyio

CAN_ASK = {"sampling": {}, "elicitation": {"form": {}}}
LEVEL = {"io.modelcontextprotocol/logLevel": "info"}
GREETING = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}},
}


def bearer(claims, name="authorization"):
    return {name: f"Bearer {id_token(claims)}"}


def vouched(**claims):
    return {"x-goog-iap-jwt-assertion": assertion(**claims)}


def named_by_gate(subject: str) -> dict[str, str]:
    claims = {"iss": "https://login.acme.dev", "sub": subject}
    return {"x-mcpfleet-caller": base64.urlsafe_b64encode(json.dumps(claims).encode()).decode()}


IAM = {"access": "iam"}
LOGIN = {"access": "login"}
IAP = {"access": "iap", "iap_audience": (AUDIENCE,)}
MODES = {
    "iam": (IAM, bearer(ADA), bearer(BOB)),
    "iam, the other header": (IAM, bearer(ADA, "x-serverless-authorization"), bearer(BOB)),
    # Bob has a token of his own, and writes Ada's where nobody checks it.
    "iam, forged": (IAM, bearer(ADA), {**bearer(BOB, "x-serverless-authorization"), **bearer(ADA)}),
    "login": (LOGIN, named_by_gate("ada"), named_by_gate("bob")),
    "login, forged": (LOGIN, named_by_gate("ada"), {**named_by_gate("bob"), **bearer(ADA)}),
    "iap": (IAP, vouched(), vouched(sub="accounts.google.com:1002")),
    "iap, forged": (IAP, vouched(), {**vouched(sub="accounts.google.com:1002"), **bearer(ADA)}),
}


@pytest.fixture(autouse=True)
def google(monkeypatch):
    """The proxy's published keys, without a network."""
    monkeypatch.setattr(edge, "AssertionVerifier", lambda audiences: AssertionVerifier(audiences, published))


@pytest.fixture(params=MODES)
def two(request):
    """The bridge's settings, and the headers of Ada and of Bob."""
    return MODES[request.param]


async def session_of(http, headers):
    answer = await http.post(GREETING, headers)
    return answer.status, {"mcp-session-id": answer.headers.get("mcp-session-id", "")}


async def send(http, who, *arguments, **options):
    message, headers = http.modern(*arguments, **options)
    return await http.post(message, {**headers, **who})


def ask(http, who, **more):
    return send(http, who, capabilities=CAN_ASK, name="ask", arguments={"method": "elicitation/create"}, **more)


def echo(http, who, **more):
    return send(http, who, capabilities=CAN_ASK, name="echo", arguments={"text": "x"}, **more)


def leased(http):
    return [server for server in http.fleet.started if server.capabilities_of_client == CAN_ASK]


# --- sessions -----------------------------------------------------------------------------------------------


async def test_only_its_caller_can_use_stream_and_end_a_session(bridging, two):
    options, ada, bob = two
    async with bridging(stateless=False, warm=False, **options) as http:
        _, session = await session_of(http, ada)
        server = http.fleet.started[-1]
        message_count = len(server.heard)
        for headers in ({**session, **bob},):
            assert (await http.post(http.call("echo", text="x"), headers)).status == 404
            assert (await http.post({"jsonrpc": "2.0", "id": "x", "result": {}}, headers)).status == 404
            for method in ("GET", "DELETE"):
                assert (await http.request(method, headers=http.headers(headers))).status == 404
        assert (len(server.heard), server.over) == (message_count, False)
        assert (await http.post(http.call("echo", text="x"), {**session, **ada})).status == 200


async def test_only_the_caller_who_opened_a_stream_can_post_to_it(bridging, two, wait_until):
    options, ada, bob = two
    async with bridging(sse=True, **options) as http:
        stream = http.request("GET", "/sse", http.headers(ada))
        await wait_until(lambda: stream.answer.body)
        query = stream.answer.body.decode().strip().rpartition("?")[2].encode()
        assert (await http.post(GREETING, bob, path="/messages/", query=query)).status == 404
        assert not stream.answer.messages
        assert (await http.post(GREETING, ada, path="/messages/", query=query)).status == 202
        stream.vanish()
        await stream


async def test_one_caller_cannot_use_all_sessions(bridging, two):
    options, ada, bob = two
    async with bridging(stateless=False, warm=False, sessions=4, **options) as http:
        assert [(await session_of(http, ada))[0] for _ in range(4)] == [200, 200, 200, 503]
        assert (await session_of(http, bob))[0] == 200
        assert (await http.request("GET", "/sse", http.headers(ada))).status in (404, 503)


# --- calls that wait for their client -------------------------------------------------------------------------


async def test_another_callers_attempt_does_not_use_up_a_request_state(bridging, two):
    options, ada, bob = two
    async with bridging(**options) as http:
        first_round = (await ask(http, ada)).last["result"]
        key = next(iter(first_round["inputRequests"]))
        answers = {"inputResponses": {key: {"said": "by Bob"}}, "requestState": first_round["requestState"]}
        stolen = await ask(http, bob, **answers)
        assert (stolen.status, stolen.last["error"]["code"]) == (400, -32602)
        answers["inputResponses"] = {key: {"said": "by Ada"}}
        assert "by Ada" in (await ask(http, ada, **answers)).last["result"]["content"][0]["text"]


async def test_a_leased_process_serves_only_one_caller(bridging, two):
    options, ada, bob = two
    async with bridging(**options) as http:
        for headers in (ada, ada, bob, ada, bob):
            await echo(http, headers)
        assert [server.methods().count("tools/call") for server in leased(http)] == [3, 2]


async def test_late_messages_of_a_process_reach_only_the_caller_that_it_served(bridging, two, wait_until):
    options, ada, bob = two
    async with bridging(exclusive=1, **options) as http:
        await echo(http, ada, meta=LEVEL)
        (server,) = leased(http)
        held_call = {"capabilities": CAN_ASK, "meta": LEVEL, "name": "hold", "arguments": {"key": 1}}
        message, headers = http.modern(**held_call)
        call = http.begin(message, {**headers, **bob})
        await wait_until(lambda: any(item.held for item in leased(http)))
        server.say(method="notifications/message", params={"level": "info", "data": "Ada's secret"})
        http.fleet.alive[-1].release(1)
        assert b"secret" not in (await call).body
        assert server.over, "with one process for all, hers had to go"


async def test_one_caller_cannot_lease_all_processes_and_waits_for_its_own_to_be_free(bridging, two, wait_until):
    options, ada, bob = two
    async with bridging(exclusive=4, queue=4, **options) as http:
        first_rounds = [(await ask(http, ada)).last["result"] for _ in range(3)]
        message, headers = http.modern(capabilities=CAN_ASK, name="echo", arguments={"text": "x"})
        waiting = [http.begin(message, {**headers, **ada}) for _ in range(4)]
        refused = await waiting[3]
        assert refused.status == 503, "nor all places of those that wait"
        assert (await echo(http, bob)).status == 200
        now = asyncio.get_running_loop().time()
        bob_round = (await ask(http, bob)).last["result"]
        await http.bridge._modern.expire(now + 11)
        key = next(iter(bob_round["inputRequests"]))
        answered = await ask(http, bob, inputResponses={key: {}}, requestState=bob_round["requestState"])
        assert answered.last["result"]["content"], "who waits because of his own calls takes nothing from others"
        assert [(await request).status for request in waiting[:3]] == [200] * 3
        expired = await ask(http, ada, requestState=first_rounds[0]["requestState"])
        assert expired.status == 400


async def test_one_caller_cannot_fill_the_queue_of_the_pool(bridging, two, wait_until):
    options, ada, bob = two
    async with bridging(concurrency=1, queue=4, **options) as http:
        first = http.begin(http.call("hold", key=1), ada)
        await wait_until(lambda: http.fleet.started[0].held)
        waiting = [http.begin(http.call("echo", text="x"), ada) for _ in range(4)]
        assert (await waiting[3]).status == 503
        other = http.begin(http.call("echo", text="x"), bob)
        await wait_until(lambda: len(http.bridge.pool._waiting) == 4)
        http.fleet.started[0].release(1)
        assert [(await request).status for request in (first, *waiting[:3], other)] == [200] * 5


async def test_one_caller_cannot_use_all_subscriptions(bridging, two, wait_until, monkeypatch):
    options, ada, bob = two
    monkeypatch.setattr("mcpfleet_bridge.subscriptions.MAX_STREAMS", 4)
    async with bridging(**options) as http:
        message, headers = http.modern("subscriptions/listen", notifications={"toolsListChanged": True})
        open_ = [http.begin(message, {**headers, **ada}) for _ in range(3)]
        await wait_until(lambda: len(http.bridge.subscriptions._listeners) == 3)
        assert (await http.post(message, {**headers, **ada})).status == 503
        other = http.begin(message, {**headers, **bob})
        await wait_until(lambda: other.answer.messages)
        http.bridge.drain()
        for stream in (*open_, other):
            assert (await stream).status == 200


# --- where nobody is known ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"access": "public"}], ids=["unset", "public"])
async def test_a_public_bridge_identifies_no_caller(bridging, options):
    async with bridging(stateless=False, warm=False, sessions=2, **options) as http:
        _, session = await session_of(http, bearer(ADA))
        for claimed in (bearer(BOB), vouched(), {}):
            assert (await http.post(http.call("echo", text="x"), {**session, **claimed})).status == 200
        assert [(await session_of(http, bearer(ADA)))[0] for _ in range(2)] == [200, 503], "all are for everybody"


async def test_unidentified_callers_share_leased_processes_without_log_messages(bridging):
    async with bridging() as http:
        for _ in range(3):
            await echo(http, {})
        assert len(leased(http)) == 1
        for _ in range(2):
            await echo(http, {}, meta=LEVEL)
        assert len(leased(http)) == 3


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer(ADA),
        bearer(ADA, "x-serverless-authorization"),
        {"x-goog-authenticated-user-email": "accounts.google.com:ada@mcpfleet.test"},
        vouched(key=OTHER),
        vouched(key=OTHER, kid="unknown"),
        vouched(aud="/projects/1/locations/x/services/y"),
        vouched(exp=1),
        vouched(iss="https://accounts.google.com"),
        {"x-goog-iap-jwt-assertion": id_token(ADA)},
        [("x-goog-iap-jwt-assertion", assertion()), ("x-goog-iap-jwt-assertion", assertion())],
    ],
    ids=range(11),
)
@pytest.mark.parametrize("path", ["/mcp", "/mcp/", "/sse", "/messages/", "/nowhere"])
async def test_with_iap_every_route_except_the_health_check_requires_an_assertion(bridging, headers, path):
    async with bridging(sse=True, **IAP) as http:
        sent = [*http.headers().items(), *(headers if isinstance(headers, list) else headers.items())]
        assert (await http.request("GET" if path == "/sse" else "POST", path, sent, b"{}")).status == 401
        assert (await http.request("GET", "/health")).status == 200


async def test_without_the_keys_of_iap_a_client_is_told_to_retry(bridging, monkeypatch):
    def down():
        raise KeysError("no route")

    monkeypatch.setattr(edge, "AssertionVerifier", lambda audiences: AssertionVerifier(audiences, down))
    async with bridging(**IAP) as http:
        assert (await http.post(http.call("echo", text="x"), vouched())).status == 503


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"MCP_ACCESS": "iap"}, "MCP_IAP_AUDIENCE: required for MCP_ACCESS=iap"),
        ({"MCP_IAP_AUDIENCE": AUDIENCE}, "MCP_IAP_AUDIENCE: required for MCP_ACCESS=iap, and allowed only there"),
        ({"MCP_ACCESS": "oauth"}, "the bridge does not check OAuth tokens"),
        ({"MCP_ACCESS": "private"}, "MCP_ACCESS: give one of iam, iap, login, oauth, public"),
    ],
)
def test_an_access_mode_that_the_bridge_cannot_enforce_is_refused_at_startup(environment, said):
    with pytest.raises(SettingsError, match=said):
        load_settings({"MCP_STDIO_COMMAND": '["x"]', **environment})


@quickly(derandomize=True, deadline=None)
@given(st.integers(1, 10_000))
def test_a_callers_share_is_at_least_one_and_never_all_of_several(limit):
    assert 1 <= caller_share(limit) <= limit
    assert caller_share(limit) < limit or limit == 1
    ada = ("i", "ada")
    assert not has_full_share(ada, [ada] * (caller_share(limit) - 1), limit)
    assert has_full_share(ada, [ada] * caller_share(limit), limit)
    assert not has_full_share(None, [None] * limit, limit)
