"""Further protocol features of the reference server, through the official client over HTTP in memory."""

import base64
import json
from contextlib import asynccontextmanager

import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import MCPServer
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CreateMessageResult,
    ElicitResult,
    PromptReference,
    ResourceTemplateReference,
    TextContent,
)
from starlette.applications import Starlette
from starlette.routing import Route

from mcp_server.app import build_server
from mcp_server.examples.colors import COLORS
from mcpfleet_server.hosting import build_app
from mcpfleet_server.hosting.adapt import lowlevel_of, paginate
from mcpfleet_server.hosting.settings import Settings
from tests.unit.mcp_server.wire import call, message, post, started

pytestmark = pytest.mark.anyio

URL = "http://127.0.0.1:8080"


@pytest.fixture
def server():
    return build_server(Settings())


async def test_images_audio_and_resources_keep_their_types(connected, server):
    async with connected(server) as client:
        picture = (await client.call_tool("swatch", {"color": "#0080ff"})).content[0]
        sound = (await client.call_tool("tone", {"hertz": 440, "seconds": 0.1})).content[0]
        resource = (await client.call_tool("look_up_color", {"name": "teal"})).content[0].resource
    assert (picture.type, picture.mime_type) == ("image", "image/png")
    assert base64.b64decode(picture.data).startswith(b"\x89PNG\r\n")
    assert (sound.type, sound.mime_type) == ("audio", "audio/wav")
    assert len(base64.b64decode(sound.data)) == 44 + 800
    assert json.loads(resource.text) == {"name": "teal", "hex": "#008080"}


@pytest.mark.parametrize(("tool", "arguments"), [("swatch", {"color": "mauve"}), ("look_up_color", {"name": "mauve"})])
async def test_an_unknown_color_is_a_tool_error_that_names_the_palette(connected, server, tool, arguments):
    async with connected(server) as client:
        result = await client.call_tool(tool, arguments)
    assert result.is_error
    assert "color://palette" in result.content[0].text


async def test_resources_are_listed_and_read_by_name_and_by_template(connected, server):
    async with connected(server) as client:
        listed = {str(resource.uri) for resource in (await client.list_resources()).resources}
        templates = [template.uri_template for template in (await client.list_resource_templates()).resource_templates]
        palette = (await client.read_resource("color://palette")).contents[0]
        teal = (await client.read_resource("color://teal")).contents[0]
        with pytest.raises(MCPError) as missing:
            await client.read_resource("color://mauve")
    assert listed == {"color://palette", "countdown://last"}
    assert templates == ["color://{name}"]
    assert json.loads(palette.text) == COLORS
    assert json.loads(teal.text)["hex"] == "#008080"
    assert missing.value.error.code == -32602


async def test_arguments_of_prompts_and_templates_are_completed(connected, server):
    template, prompt = ResourceTemplateReference(uri="color://{name}"), PromptReference(name="describe_color")
    async with connected(server) as client:
        colors = await client.complete(template, {"name": "name", "value": "b"})
        moods = await client.complete(prompt, {"name": "mood", "value": "c"})
        nothing = await client.complete(PromptReference(name="other"), {"name": "mood", "value": "c"})
        text = (await client.get_prompt("describe_color", {"name": "teal", "mood": "calm"})).messages[0].content.text
    assert colors.completion.values == ["black", "blue"]
    assert moods.completion.values == ["calm", "cheerful"]
    assert nothing.completion.values == []
    assert "#008080" in text


async def test_the_user_is_asked_for_missing_arguments(serving, server):
    questions = []

    async def answer(context, params):
        questions.append(params.message)
        return ElicitResult(action="accept", content={"cups": 2, "milk": True})

    async with (
        serving(server) as http,
        Client(
            streamable_http_client(f"{URL}/mcp", http_client=http), mode="2026-07-28", elicitation_callback=answer
        ) as client,
    ):
        result = await client.call_tool("order_tea", {"kind": "mint"})
    assert questions == ["How would you like your mint tea?"]
    assert result.structured_content == {"kind": "mint", "cups": 2, "milk": True}


async def test_a_declined_elicitation_orders_nothing(serving, server):
    async def decline(context, params):
        return ElicitResult(action="decline")

    async with (
        serving(server) as http,
        Client(
            streamable_http_client(f"{URL}/mcp", http_client=http), mode="2026-07-28", elicitation_callback=decline
        ) as client,
    ):
        result = await client.call_tool("order_tea", {"kind": "mint"})
    assert result.is_error


async def test_another_instance_with_the_same_key_accepts_the_answer():
    key = {"MCP_REQUEST_STATE_KEY": "k" * 32}
    first, second = (build_app(build_server(Settings(**key)), Settings(**key)) for _ in range(2))
    other_key = {"MCP_REQUEST_STATE_KEY": "o" * 32}
    other_app = build_app(build_server(Settings(**other_key)), Settings(**other_key))
    content = message(params={"name": "order_tea", "arguments": {"kind": "mint"}})
    content["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = {"elicitation": {"form": {}}}
    async with started(first), started(second), started(other_app):
        _, first_round = await post(first, content).answer()
        (name,) = first_round["result"]["inputRequests"]
        content["params"] |= {
            "inputResponses": {name: {"action": "accept", "content": {"cups": 3, "milk": False}}},
            "requestState": first_round["result"]["requestState"],
        }
        _, answered = await post(second, content).answer()
        status, refused = await post(other_app, content).answer()
    assert answered["result"]["structuredContent"] == {"kind": "mint", "cups": 3, "milk": False}
    assert (status, refused["error"]["code"]) == (400, -32602)


async def test_the_clients_model_writes_the_haiku(serving, server):
    async def sample(context, params):
        return CreateMessageResult(
            role="assistant", model="test", content=TextContent(type="text", text=params.messages[0].content.text[:13])
        )

    async with (
        serving(server) as http,
        Client(
            streamable_http_client(f"{URL}/mcp", http_client=http), mode="2026-07-28", sampling_callback=sample
        ) as client,
    ):
        result = await client.call_tool("haiku", {"topic": "autumn"})
    assert result.content[0].text == "Write a haiku"


@pytest.mark.parametrize("modern", [False, True], ids=["legacy", "modern"])
async def test_log_messages_arrive_before_the_result_and_only_on_request(server, modern):
    content = message(params={"name": "rehearse", "arguments": {"steps": ["a", "b"]}}, modern=modern)
    if modern:
        content["params"]["_meta"]["io.modelcontextprotocol/logLevel"] = "info"
    async with started(build_app(server, Settings())) as app:
        request = post(app, content, modern=modern)
        await request.start()
        events = [await request.event() for _ in range(3)]
        if modern:
            _, quiet = await call(app, "rehearse", {"steps": ["a"]}).answer()
            assert quiet["result"]["structuredContent"] == {"result": 1}
    assert [event["params"]["data"] for event in events[:2]] == ["step 1 of 2: a", "step 2 of 2: b"]
    assert events[2]["result"]["structuredContent"] == {"result": 2}


async def test_a_subscriber_is_notified_that_the_last_countdown_changed():
    async def no_sleep(seconds):
        pass

    async with started(build_app(build_server(Settings(), sleep=no_sleep), Settings())) as app:
        filters = {"notifications": {"resourceSubscriptions": ["countdown://last"]}}
        stream = post(app, message("subscriptions/listen", filters, request_id="listen"))
        assert (await stream.start())[1]["content-type"] == "text/event-stream"
        assert (await stream.event())["method"] == "notifications/subscriptions/acknowledged"
        await call(app, "countdown", {"seconds": 2}).answer()
        event = await stream.event()
        stream.hang_up()
        await stream.task
        _, read = await post(app, message("resources/read", {"uri": "countdown://last"})).answer()
    assert (event["method"], event["params"]["uri"]) == ("notifications/resources/updated", "countdown://last")
    assert json.loads(read["result"]["contents"][0]["text"]) == {"seconds": 2}


async def test_a_long_list_has_pages_and_an_invalid_cursor_is_refused(connected):
    server = MCPServer("many")
    for number in range(120):
        server.add_tool(lambda: "", name=f"tool-{number:03}")
    paginate(lowlevel_of(server), 50)
    async with connected(server) as client:
        pages, cursor = [], None
        while True:
            page = await client.list_tools(cursor=cursor)
            pages.append([tool.name for tool in page.tools])
            cursor = page.next_cursor
            if cursor is None:
                break
        for bad in ("", "x", "LTE=", base64.b64encode(b"121").decode(), base64.b64encode(b"9" * 50).decode(), "\u017f"):
            with pytest.raises(MCPError):
                await client.list_tools(cursor=bad)
    assert [len(page) for page in pages] == [50, 50, 20]
    assert [name for page in pages for name in page] == [f"tool-{number:03}" for number in range(120)]


class LikeFastMCP:
    """The used part of a FastMCP (4.2), which creates its session manager when its application starts."""

    def __init__(self, server):
        self._mcp_server = lowlevel_of(server)

    def http_app(self, path, stateless_http, **_):
        class Endpoint:
            session_manager = None

            async def __call__(self, scope, receive, send):
                await self.session_manager.handle_request(scope, receive, send)

        endpoint = Endpoint()

        @asynccontextmanager
        async def lifespan(app):
            endpoint.session_manager = StreamableHTTPSessionManager(self._mcp_server, stateless=stateless_http)
            async with endpoint.session_manager.run():
                yield

        return Starlette(routes=[Route(path, endpoint)], lifespan=lifespan)


async def test_a_server_that_creates_its_session_manager_at_startup_is_hosted(connected):
    server = MCPServer("weather")
    server.add_tool(lambda city: f"Rain in {city}.", "forecast")
    async with connected(LikeFastMCP(server)) as client:
        assert (await client.call_tool("forecast", {"city": "Oslo"})).content[0].text == "Rain in Oslo."


async def test_the_configured_number_of_sessions_is_the_limit(serving):
    greeting = {
        **message("initialize"),
        "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}},
    }
    headers = {"accept": "application/json, text/event-stream"}
    async with serving(LikeFastMCP(MCPServer("weather")), MCP_STATELESS="false", MCP_MAX_SESSIONS="2") as http:
        statuses = [(await http.post("/mcp", json=greeting, headers=headers)).status_code for _ in range(3)]
    assert statuses == [200, 200, 503]
