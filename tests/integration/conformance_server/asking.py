"""Tools that send requests to the client during a call: sampling and elicitation with a handshake."""

from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp_types import SamplingMessage, TextContent
from pydantic import BaseModel, Field, JsonValue

Ctx = Context[Any, Any]


class Person(BaseModel):
    """The name of a user."""

    username: str = Field(description="User's response")
    email: str = Field(description="User's email address")


class Defaults(BaseModel):
    """A default for each primitive type (SEP-1034)."""

    name: str = Field("John Doe", description="User name")
    age: int = Field(30, description="User age")
    score: float = Field(95.5, description="User score")
    status: str = Field(
        "active", description="User status", json_schema_extra={"enum": ["active", "inactive", "pending"]}
    )
    verified: bool = Field(default=True, description="Verification status")


def _titled(**titles: str) -> list[JsonValue]:
    return [{"const": value, "title": title} for value, title in titles.items()]


class Choices(BaseModel):
    """Every way to write a choice (SEP-1330)."""

    untitled_single: str = Field(alias="untitledSingle", json_schema_extra={"enum": ["option1", "option2", "option3"]})
    titled_single: str = Field(
        alias="titledSingle",
        json_schema_extra={"oneOf": _titled(value1="First Option", value2="Second Option", value3="Third Option")},
    )
    legacy_enum: str = Field(
        alias="legacyEnum",
        json_schema_extra={
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
    )
    untitled_multi: list[str] = Field(
        alias="untitledMulti",
        json_schema_extra={"items": {"type": "string", "enum": ["option1", "option2", "option3"]}},
    )
    titled_multi: list[str] = Field(
        alias="titledMulti",
        json_schema_extra={
            "items": {"anyOf": _titled(value1="First Choice", value2="Second Choice", value3="Third Choice")}
        },
    )


def register(server: MCPServer[Any]) -> None:
    """Add the tools."""

    @server.tool()
    async def test_sampling(prompt: str, ctx: Ctx) -> str:
        """Ask the client's model."""
        answer = await ctx.session.create_message(  # pyright: ignore[reportDeprecated]
            messages=[SamplingMessage(role="user", content=TextContent(type="text", text=prompt))],
            max_tokens=100,
            related_request_id=ctx.request_context.request_id,
        )
        content = answer.content
        return f"LLM response: {content.text if isinstance(content, TextContent) else content}"

    @server.tool()
    async def test_elicitation(message: str, ctx: Ctx) -> str:
        """Ask the user."""
        return await _ask(ctx, message, Person, "User response")

    @server.tool()
    async def test_elicitation_sep1034_defaults(ctx: Ctx) -> str:
        """Ask the user, with defaults."""
        return await _ask(ctx, "Please review these values", Defaults, "Elicitation completed")

    @server.tool()
    async def test_elicitation_sep1330_enums(ctx: Ctx) -> str:
        """Ask the user to choose."""
        return await _ask(ctx, "Please choose", Choices, "Elicitation completed")


async def _ask(ctx: Ctx, message: str, schema: type[BaseModel], label: str) -> str:
    answer = await ctx.elicit(message, schema)
    content = answer.data.model_dump_json(by_alias=True) if answer.action == "accept" else "{}"
    return f"{label}: action={answer.action}, content={content}"
