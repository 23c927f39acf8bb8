"""`CallerMiddleware`: the verified caller in an ASGI server that does not use the hosting layer."""

import base64
import json
from contextlib import AsyncExitStack

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import MCPServer

from mcpfleet_server.caller import LOGIN_HEADER, CallerMiddleware, current_caller
from mcpfleet_server.environment import SettingsError
from mcpfleet_server.iap import AssertionVerifier, KeysError
from tests.unit.asgi import lifespan
from tests.unit.mcp_server.assertions import AUDIENCE, asserted, assertion, published
from tests.unit.mcp_server.tokens import ADA, BOB, id_token

pytestmark = pytest.mark.anyio
URL = "http://127.0.0.1:8080"
IAM = {"MCPFLEET_ACCESS": "iam"}
IAP = {"MCPFLEET_ACCESS": "iap", "MCPFLEET_IAP_AUDIENCE": AUDIENCE}


def bearer(claims, name=b"authorization"):
    return (name, f"Bearer {id_token(claims)}".encode())


class Server:
    """An ASGI application that answers with the caller's name, and begins the session `new` if there is none."""

    def __init__(self, environ, session=b"new", **options):
        self.app = CallerMiddleware(self.respond, environ, **options)
        self.session = session

    async def respond(self, scope, receive, send):
        caller = current_caller()
        headers = [(b"Mcp-Session-Id", self.session)] if self.session else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": (caller.name if caller else "nobody").encode()})

    async def request(self, *headers, method="POST", query=b""):
        messages = []

        async def send(message):
            messages.append(message)

        scope = {"type": "http", "method": method, "headers": [*headers], "path": "/mcp", "query_string": query}
        await self.app(scope, None, send)
        status = messages[0]["status"]
        return messages[1]["body"].decode() if status == 200 else status


async def test_with_iam_the_token_that_cloud_run_has_checked_names_the_caller():
    server = Server(IAM)
    assert await server.request(bearer(ADA)) == "ada@mcpfleet.test"
    assert await server.request(bearer(BOB, b"x-serverless-authorization"), bearer(ADA)) == BOB["email"]
    assert await server.request() == "nobody"
    assert await server.request((b"authorization", b"Bearer a.b.c")) == "nobody"


async def test_with_login_the_gate_names_the_caller():
    server = Server({"MCPFLEET_ACCESS": "login"})
    claims = base64.urlsafe_b64encode(json.dumps({"iss": "https://login.acme.dev", "sub": "7"}).encode())
    assert await server.request((LOGIN_HEADER, claims), bearer(ADA)) == "https://login.acme.dev 7"
    assert await Server(IAM).request((LOGIN_HEADER, claims)) == "nobody"


@pytest.mark.parametrize("environ", [{}, {"MCPFLEET_ACCESS": "public"}, {"MCPFLEET_ACCESS": "oauth"}])
async def test_the_caller_is_unknown_where_cloud_run_has_not_checked_it(environ):
    server = Server(environ)
    assert await server.request(bearer(ADA), *asserted(assertion())) == "nobody"


async def test_only_the_caller_who_began_a_session_can_use_it():
    server = Server(IAM)
    assert await server.request(bearer(ADA)) == "ada@mcpfleet.test"
    session = (b"mcp-session-id", b"new")
    assert await server.request(bearer(ADA), session) == "ada@mcpfleet.test"
    assert await server.request(bearer(BOB), session) == 404
    assert await server.request(session) == 404
    assert await server.request(bearer(ADA), session, session) == 404
    assert await server.request(bearer(ADA), (b"mcp-session-id", b"other")) == 404
    assert await server.request(bearer(ADA), session) == "ada@mcpfleet.test"
    assert await server.request(bearer(BOB)) == BOB["email"], "a response with her session hands it over to nobody"
    assert await server.request(bearer(BOB), session) == 404


async def test_the_number_of_remembered_sessions_is_limited():
    server = Server({})
    for number in range(10_001):
        server.session = b"%d" % number
        await server.request()
    assert await server.request((b"mcp-session-id", b"0")) == 404
    assert await server.request((b"mcp-session-id", b"10000")) == "nobody"


async def test_a_caller_who_begins_too_many_sessions_loses_its_own_and_not_those_of_others():
    server = Server(IAM, session=b"hers")
    await server.request(bearer(ADA))
    for number in range(20_000):
        server.session = b"%d" % number
        await server.request(bearer(BOB))
    assert await server.request(bearer(ADA), (b"mcp-session-id", b"hers")) == "ada@mcpfleet.test"
    assert await server.request(bearer(BOB), (b"mcp-session-id", b"19999")) == BOB["email"]
    assert await server.request(bearer(BOB), (b"mcp-session-id", b"0")) == 404


@pytest.mark.parametrize("query", [b"x=1&session_id=5", b"session%5Fid=5", b"%73ession_id=5", b"session_id"])
async def test_the_deprecated_sse_transport_gets_404(query):
    assert await Server(IAM).request(bearer(ADA), query=query) == 404
    assert await Server(IAM).request(bearer(ADA), query=query.replace(b"s", b"S")) == "ada@mcpfleet.test"


async def test_with_iap_only_a_valid_assertion_names_the_caller():
    server = Server(IAP, session=b"", verifier=AssertionVerifier([AUDIENCE], published))
    assert "@" in await server.request(*asserted(assertion()))
    assert await server.request(bearer(ADA)) == 401
    assert await server.request(*asserted(assertion(aud="other"))) == 401
    assert await server.request(method="GET") == "nobody", "a probe"
    assert await server.request((b"mcp-session-id", b"x"), method="GET") == 401
    assert await server.request(*asserted("x.y.z"), method="GET") == 401


async def test_without_the_keys_of_iap_a_request_gets_503():
    def fetch():
        raise KeysError("no network")

    server = Server(IAP, verifier=AssertionVerifier([AUDIENCE], fetch))
    assert await server.request(*asserted(assertion())) == 503


@pytest.mark.parametrize("environ", [{"MCPFLEET_ACCESS": "all"}, {"MCP_ACCESS": "iap"}])
def test_an_environment_that_no_fleet_sets_is_an_error(environ):
    with pytest.raises(SettingsError, match="MCP_"):
        CallerMiddleware(Server.respond, environ)


@settings(deadline=None)
@given(headers=st.lists(st.tuples(st.sampled_from([b"authorization", b"mcp-session-id"]), st.binary(max_size=60))))
async def test_no_arbitrary_header_names_a_caller(headers):
    assert await Server(IAM).request(*headers) in {"nobody", 404}


@pytest.mark.parametrize("is_stateless", [True, False])
async def test_tools_of_an_sdk_server_that_serves_itself_know_the_caller_of_each_call(is_stateless, protocol):
    server = MCPServer("orders")

    @server.tool()
    def name() -> str:
        caller = current_caller()
        return caller.name if caller else "unknown"

    app = CallerMiddleware(server.streamable_http_app(stateless_http=is_stateless), IAM)
    names = {}
    async with lifespan(app), AsyncExitStack() as stack:
        clients = {}
        for claims in (ADA, BOB):
            http = httpx2.AsyncClient(
                transport=httpx2.ASGITransport(app),
                base_url=URL,
                headers={"authorization": f"Bearer {id_token(claims)}"},
            )
            await stack.enter_async_context(http)
            clients[claims["email"]] = await stack.enter_async_context(
                Client(streamable_http_client(f"{URL}/mcp", http_client=http), mode=protocol)
            )
        for email, client in [*clients.items(), *clients.items()]:
            names[email] = (await client.call_tool("name", {})).content[0].text
    assert names == {email: email for email in clients}
