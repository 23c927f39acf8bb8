"""The login as clients see it: the official SDK's OAuth client logs in and calls a tool, across instances and time."""

import json

import httpx2
import pytest
from mcp.server import MCPServer

from mcpfleet_server.caller import current_caller
from mcpfleet_server.hosting import build_app
from mcpfleet_server.hosting.settings import Settings as ServerSettings
from tests.unit.asgi import lifespan
from tests.unit.mcpfleet_login.login_world import (
    BASE_URL,
    CLIENT_CALLBACK,
    KEY,
    RESOURCE,
    MemoryTokens,
    OauthClient,
    World,
    allow,
    log_in,
    logged_in,
    response_parameters,
    sdk_auth,
    sdk_client,
)

pytestmark = pytest.mark.anyio

DOCUMENT_URL = "https://desk.example/oauth/client.json"


@pytest.fixture
def server_world():
    """A world whose application is an unchanged MCP server in our hosting layer, behind the gate."""
    server = MCPServer("weather")

    @server.tool()
    def who() -> str:
        caller = current_caller()
        return "nobody" if caller is None else f"{caller.name} at {caller.issuer}, {sorted(caller.scopes)}"

    application = build_app(server, ServerSettings(MCP_ACCESS="login", MCP_BASE_URL=BASE_URL))
    return World(application)


async def test_the_official_client_registers_logs_in_and_calls_a_tool_that_knows_the_person(server_world):
    async with (
        lifespan(server_world.application),
        server_world.http(auth=sdk_auth(server_world, MemoryTokens())) as http,
        sdk_client(http) as client,
    ):
        result = await client.call_tool("who", {})
    assert result.content[0].text == "ada@acme.dev at https://login.acme.dev, ['mcp']"


async def test_the_official_client_logs_in_with_its_metadata_document(server_world):
    document = {"client_id": DOCUMENT_URL, "client_name": "Desk", "redirect_uris": ["http://127.0.0.1/callback"]}
    server_world.documents[DOCUMENT_URL] = json.dumps(document).encode()
    storage = MemoryTokens()
    auth = sdk_auth(server_world, storage, client_metadata_url=DOCUMENT_URL)
    async with lifespan(server_world.application), server_world.http(auth=auth) as http, sdk_client(http) as client:
        await client.call_tool("who", {})
    assert storage.information is not None
    assert storage.information.client_id == DOCUMENT_URL


async def test_the_official_client_refreshes_its_token_when_it_is_too_old(server_world):
    storage = MemoryTokens()
    async with lifespan(server_world.application):
        async with server_world.http(auth=sdk_auth(server_world, storage)) as http, sdk_client(http) as client:
            await client.call_tool("who", {})
        first = storage.tokens
        assert first is not None
        server_world.time.now += 601
        requests = len(server_world.issuer.codes)
        async with server_world.http() as http:
            client = OauthClient(server_world, http, client_id=storage.information.client_id)
            assert (await client.call(first.access_token)).status_code == 401
            answer = await client.refresh(first.refresh_token)
            assert answer.status_code == 200
            assert (await client.call(answer.json()["access_token"])).status_code != 401
        assert len(server_world.issuer.codes) == requests, "nobody had to log in again"


async def test_each_step_of_a_login_may_reach_another_instance(world):
    client = OauthClient(world, world.http())
    await client.register()
    browser = world.http()
    sent = await allow(browser, client.authorize_url())
    elsewhere = world.http(cookies=browser.cookies)
    answer = await elsewhere.get(world.issuer.log_in(sent.headers["location"]))
    client.http = world.http()
    tokens = await client.redeem(response_parameters(answer)["code"])
    client.http = world.http()
    assert (await client.call(tokens.json()["access_token"])).status_code == 200


async def test_the_response_to_the_client_has_state_and_issuer(world):
    client = OauthClient(world, world.http())
    await client.register()
    answer = await log_in(world, world.http(), client.authorize_url())
    parameters = response_parameters(answer)
    assert answer.headers["location"].startswith(f"{CLIENT_CALLBACK}?")
    assert (parameters["state"], parameters["iss"]) == (client.state, BASE_URL)


async def test_metadata_leads_from_a_refused_call_to_every_endpoint(world):
    http = world.http()
    refused = await http.post("/mcp", json={})
    assert refused.status_code == 401
    challenge = refused.headers["www-authenticate"]
    resource_url = f"{BASE_URL}/.well-known/oauth-protected-resource/mcp"
    assert challenge == f'Bearer resource_metadata="{resource_url}", scope="mcp"'
    resource = (await http.get(resource_url)).json()
    assert (resource["resource"], resource["authorization_servers"]) == (RESOURCE, [BASE_URL])
    metadata = (await http.get(f"{BASE_URL}/.well-known/oauth-authorization-server")).json()
    assert metadata["issuer"] == BASE_URL
    assert metadata["code_challenge_methods_supported"] == ["S256"]
    assert metadata["client_id_metadata_document_supported"] is True
    assert metadata["authorization_response_iss_parameter_supported"] is True
    endpoints = [value for name, value in metadata.items() if name.endswith("_endpoint")]
    assert len(endpoints) == 4
    assert {(await http.options(url)).status_code for url in endpoints} <= {200, 400, 405}


async def test_a_call_reads_nothing_from_the_store(world):
    client, tokens = await logged_in(world)
    before = world.store.reads + world.store.writes
    for _ in range(3):
        assert (await client.call(tokens["access_token"])).status_code == 200
    assert world.store.reads + world.store.writes == before


async def test_the_store_has_nothing_readable(world):
    await logged_in(world)
    data = b"".join(stored.data for stored in world.store.objects.values())
    assert data
    assert not any(word in data for word in (b"ada", b"acme", b"issuer", b"127.0.0.1"))


async def test_the_issuers_tokens_never_reach_the_client_and_the_clients_never_reach_the_issuer(world):
    client, tokens = await logged_in(world)
    seen_by_client = json.dumps(tokens)
    assert "the-issuers" not in seen_by_client
    await client.refresh(tokens["refresh_token"])
    sent_to_issuer = b"".join(request.content + str(request.url).encode() for request in world.issuer.requests)
    for name in ("access_token", "refresh_token"):
        assert tokens[name].encode() not in sent_to_issuer
    assert world.issuer.refresh_tokens, "the issuer's refresh token is used"


async def test_refused_consent_tells_the_client(world):
    client = OauthClient(world, world.http())
    await client.register()
    answer = await allow(world.http(), client.authorize_url(), "deny")
    parameters = response_parameters(answer)
    assert (parameters["error"], parameters["state"], parameters["iss"]) == ("access_denied", client.state, BASE_URL)


async def test_a_revoked_login_refreshes_no_more(world):
    client, tokens = await logged_in(world)
    form = {"token": tokens["refresh_token"], "client_id": client.client_id}
    assert (await client.http.post("/oauth/revoke", data=form)).status_code == 200
    assert (await client.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"


async def test_a_store_that_is_down_loses_nothing(world):
    client = OauthClient(world, world.http())
    await client.register()
    code = await client.get_code()
    world.store.is_down = True
    refused = await client.redeem(code)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    world.store.is_down = False
    tokens = (await client.redeem(code)).json()
    world.store.is_down = True
    assert (await client.refresh(tokens["refresh_token"])).status_code == 503
    assert (await client.call(tokens["access_token"])).status_code == 200, "calls need no store"
    # This issuer's refresh tokens work once. A store that is down after that costs the login there.
    world.store.is_down = False


async def test_an_issuer_that_is_down_loses_nothing(world):
    client, tokens = await logged_in(world)
    world.issuer.is_down = True
    assert (await client.refresh(tokens["refresh_token"])).status_code == 503
    world.issuer.is_down = False
    assert (await client.refresh(tokens["refresh_token"])).status_code == 200


async def test_a_login_without_a_refresh_token_of_the_issuer_ends_after_eight_hours(world):
    world.issuer.gives_refresh_tokens = False
    client, tokens = await logged_in(world)
    world.time.now += 8 * 3600 - 1
    tokens = (await client.refresh(tokens["refresh_token"])).json()
    world.time.now += 2
    assert (await client.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"


async def test_a_new_key_seals_while_the_old_one_still_opens(world):
    client, tokens = await logged_in(world)
    newer = "A" * 43 + "="
    client.http = world.http(world.gate(MCP_LOGIN_KEYS=f"{newer},{KEY}"))
    assert (await client.call(tokens["access_token"])).status_code == 200
    fresh = (await client.refresh(tokens["refresh_token"])).json()
    client.http = world.http(world.gate(MCP_LOGIN_KEYS=newer))
    assert (await client.call(fresh["access_token"])).status_code == 200
    assert (await client.call(tokens["access_token"])).status_code == 401


async def test_the_gate_passes_on_method_path_query_and_body(world):
    client, tokens = await logged_in(world)
    headers = {"authorization": f"Bearer {tokens['access_token']}", "x-mine": "1"}
    body = b"x" * 100_000
    answer = await client.http.request("PUT", "/some/path?a=%2F&b", content=body, headers=headers)
    request = answer.json()
    assert (request["method"], request["path"], request["query"]) == ("PUT", "/some/path", "a=%2F&b")
    assert request["body"] == body.decode()
    assert ["x-mine", "1"] in request["headers"]


async def test_the_health_path_needs_no_token_and_gets_nothing_of_the_request(world):
    answer = await world.http().get("/health?x=1", headers={"authorization": "Bearer x", "x-mine": "1"})
    request = answer.json()
    assert answer.status_code == 200
    assert (request["path"], request["query"], request["body"]) == ("/health", "", "")
    assert {name for name, _ in request["headers"]} <= {"host", "content-length"}


async def test_without_a_health_path_every_path_needs_a_token(world):
    settings = world.settings.model_copy(update={"health_path": None})
    world.settings = settings
    assert (await world.http().get("/health")).status_code == 401


async def test_an_application_that_does_not_answer_is_reported(world):
    def refuse(request):
        raise httpx2.ConnectError("refused")

    gate = world.gate()
    gate._transport = httpx2.MockTransport(refuse)
    client, tokens = await logged_in(world)
    client.http = world.http(gate)
    answer = await client.call(tokens["access_token"])
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
