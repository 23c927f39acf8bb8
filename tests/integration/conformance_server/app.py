"""The features that the suite checks in both protocol versions: content, errors, progress, logging, and so on."""

import base64
import json
from typing import Annotated, Any

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp_types import (
    AudioContent,
    CallToolResult,
    Completion,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from pydantic import Field

from mcp_server.media import png, wav
from mcpfleet_server.hosting.adapt import lowlevel_of
from mcpfleet_server.hosting.settings import Settings
from tests.integration.conformance_server import asking, asking_2026

ONE_PIXEL = png(1, 1, b"\xff\x00\x00")
SILENCE = wav(b"\x80" * 80)

Ctx = Context[Any, Any]

_SCHEMA_2020_12 = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def build_server(settings: Settings) -> MCPServer[Any]:
    """The server of the suite."""
    server: MCPServer[Any] = MCPServer(settings.service or "mcp-server-conformance", version="1.0.0")
    _content(server)
    _behaviour(server)
    _resources(server)
    _prompts(server)
    asking.register(server)
    asking_2026.register(server)
    _handlers(server)
    return server


def _image() -> ImageContent:
    return ImageContent(type="image", data=base64.b64encode(ONE_PIXEL).decode(), mime_type="image/png")


def _embedded(uri: str, text: str, mime_type: str = "text/plain") -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, mime_type=mime_type, text=text))


def _content(server: MCPServer[Any]) -> None:
    @server.tool()
    async def test_simple_text() -> str:
        """Answer with one text."""
        return "This is a simple text response for testing."

    @server.tool()
    async def test_image_content() -> ImageContent:
        """Answer with an image."""
        return _image()

    @server.tool()
    async def test_audio_content() -> AudioContent:
        """Answer with a sound."""
        return AudioContent(type="audio", data=base64.b64encode(SILENCE).decode(), mime_type="audio/wav")

    @server.tool()
    async def test_embedded_resource() -> EmbeddedResource:
        """Answer with an embedded resource."""
        return _embedded("test://embedded-resource", "This is an embedded resource content.")

    @server.tool()
    async def test_multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
        """Answer with a text, an image and a resource."""
        return [
            TextContent(type="text", text="Multiple content types test:"),
            _image(),
            _embedded("test://mixed-content-resource", json.dumps({"test": "data", "value": 123}), "application/json"),
        ]

    @server.tool()
    async def test_error_handling() -> str:
        """Fail."""
        raise ToolError("This tool intentionally returns an error for testing")


def _behaviour(server: MCPServer[Any]) -> None:
    @server.tool()
    async def test_tool_with_logging(ctx: Ctx) -> str:
        """Send three log messages."""
        for number, message in enumerate(
            ("Tool execution started", "Tool processing data", "Tool execution completed")
        ):
            if number:
                await anyio.sleep(0.05)
            await ctx.session.send_log_message("info", message, related_request_id=ctx.request_context.request_id)  # pyright: ignore[reportDeprecated]
        return "Three messages were sent."

    @server.tool()
    async def test_tool_with_progress(ctx: Ctx) -> str:
        """Report progress three times."""
        for done in (0, 50, 100):
            if done:
                await anyio.sleep(0.05)
            await ctx.report_progress(done, 100, f"{done} of 100")
        return "Progress was reported."

    @server.tool()
    async def test_reconnection(ctx: Ctx) -> str:
        """Close the stream in the middle of the call."""
        await ctx.close_sse_stream()
        await anyio.sleep(0.2)
        return "Reconnection test completed"

    @server.tool()
    async def test_x_mcp_header(
        region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})],
    ) -> str:
        """Take an argument that clients repeat in a header."""
        return f"Region: {region}"

    @server.tool()
    async def test_trigger_tool_change(ctx: Ctx) -> str:
        """Say that the tools have changed."""
        await ctx.notify_tools_changed()
        return "Said."

    @server.tool()
    async def test_trigger_prompt_change(ctx: Ctx) -> str:
        """Say that the prompts have changed."""
        await ctx.notify_prompts_changed()
        return "Said."

    @server.tool()
    async def json_schema_2020_12_tool(name: str = "", address: dict[str, str] | None = None) -> CallToolResult:
        """Have an input schema that uses what JSON Schema 2020-12 has."""
        return CallToolResult(content=[TextContent(type="text", text=f"{name} {address}")])

    # Written by hand: no signature gives such a schema.
    tools: Any = server._tool_manager  # pyright: ignore[reportPrivateUsage]
    tools.get_tool("json_schema_2020_12_tool").parameters = _SCHEMA_2020_12


def _resources(server: MCPServer[Any]) -> None:
    @server.resource("test://static-text", mime_type="text/plain")
    def static_text() -> str:
        """A text."""
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", mime_type="image/png")
    def static_binary() -> bytes:
        """An image."""
        return ONE_PIXEL

    @server.resource("test://template/{id}/data", mime_type="application/json")
    def template(id: str) -> str:  # noqa: A002  # the suite's name
        """Return the data of an ID."""
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})

    @server.resource("test://watched-resource", mime_type="text/plain")
    def watched() -> str:
        """A text that one can subscribe to."""
        return "Watched resource content"


def _prompts(server: MCPServer[Any]) -> None:
    @server.prompt()
    async def test_simple_prompt() -> str:
        """A prompt without arguments."""
        return "This is a simple prompt for testing."

    @server.prompt()
    async def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
        """A prompt with two arguments."""
        return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"

    @server.prompt()
    async def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:  # noqa: N803  # the suite's name
        """A prompt with a resource."""
        return [
            UserMessage(content=_embedded(resourceUri, "Embedded resource content for testing.")),
            UserMessage(content=TextContent(type="text", text="Please process the embedded resource above.")),
        ]

    @server.prompt()
    async def test_prompt_with_image() -> list[UserMessage]:
        """A prompt with an image."""
        return [
            UserMessage(content=_image()),
            UserMessage(content=TextContent(type="text", text="Please analyze the image above.")),
        ]

    @server.completion()
    async def complete(ref: Any, argument: Any, context: Any) -> Completion:
        words = [word for word in ("paris", "park", "party") if word.startswith(argument.value)]
        return Completion(values=words, total=len(words), has_more=False)


def _handlers(server: MCPServer[Any]) -> None:
    """Three methods of protocol versions with a handshake that `MCPServer` has no decorator for."""
    lowlevel = lowlevel_of(server)
    subscribed: set[str] = set()

    async def set_level(ctx: Any, params: SetLevelRequestParams) -> EmptyResult:
        return EmptyResult()

    async def subscribe(ctx: Any, params: SubscribeRequestParams) -> EmptyResult:
        subscribed.add(str(params.uri))
        return EmptyResult()

    async def unsubscribe(ctx: Any, params: UnsubscribeRequestParams) -> EmptyResult:
        subscribed.discard(str(params.uri))
        return EmptyResult()

    lowlevel.add_request_handler("logging/setLevel", SetLevelRequestParams, set_level)
    lowlevel.add_request_handler("resources/subscribe", SubscribeRequestParams, subscribe)
    lowlevel.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, unsubscribe)
