"""Tools that return `input_required` and get the input with the repeated call, as in 2026-07-28."""

from typing import Any, cast

from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    TextContent,
)

Ctx = Context[Any, Any]


def _form(message: str, **properties: str) -> ElicitRequest:
    schema = {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in properties.items()},
        "required": list(properties),
    }
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def _sample(text: str, max_tokens: int) -> CreateMessageRequest:
    message = SamplingMessage(role="user", content=TextContent(type="text", text=text))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=max_tokens))


def _answered(ctx: Ctx, key: str, field: str) -> Any:
    """A field of a form that the user has accepted, or None."""
    answer = (ctx.input_responses or {}).get(key)
    if isinstance(answer, ElicitResult) and answer.action == "accept" and answer.content:
        return answer.content.get(field)
    return None


def _ask(state: str | None = None, /, **requests: InputRequest) -> InputRequiredResult:
    return InputRequiredResult(input_requests=requests, request_state=state)


def _spoken(answer: object) -> str | None:
    if isinstance(answer, CreateMessageResult) and isinstance(answer.content, TextContent):
        return answer.content.text
    return None


def register(server: MCPServer[Any]) -> None:
    """Add the tools and the prompt."""
    _one_question(server)
    _with_state(server)

    @server.prompt()
    async def test_input_required_result_prompt(ctx: Ctx) -> str | InputRequiredResult:
        """A prompt that asks for its context."""
        context = _answered(ctx, "user_context", "context")
        if context is None:
            return _ask(user_context=_form("What context should the prompt use?", context="string"))
        return f"Context: {context}"

    @server.tool()
    async def test_missing_capability(ctx: Ctx) -> str:
        """Need a client that can sample."""
        _need_sampling(ctx)
        return "The client can sample."

    @server.tool()
    async def test_streaming_elicitation(ctx: Ctx) -> str | InputRequiredResult:
        """Report progress, then ask."""
        name = _answered(ctx, "user_name", "name")
        if name is None:
            await ctx.report_progress(1, 2, "a question is left")
            return _ask(user_name=_form("What is your name?", name="string"))
        return f"Hello, {name}!"


def _need_sampling(ctx: Ctx) -> None:
    capabilities = ctx.client_capabilities
    if capabilities is None or capabilities.sampling is None:
        raise MCPError(
            MISSING_REQUIRED_CLIENT_CAPABILITY,
            "The client has not declared the capability that this tool needs: sampling",
            {"requiredCapabilities": {"sampling": {}}},
        )


def _one_question(server: MCPServer[Any]) -> None:
    @server.tool()
    async def test_input_required_result_elicitation(ctx: Ctx) -> str | InputRequiredResult:
        """Ask for a name."""
        name = _answered(ctx, "user_name", "name")
        if name is None:
            return _ask(user_name=_form("What is your name?", name="string"))
        return f"Hello, {name}!"

    @server.tool()
    async def test_input_required_result_sampling(ctx: Ctx) -> str | InputRequiredResult:
        """Ask the client's model."""
        answer = _spoken((ctx.input_responses or {}).get("capital_question"))
        return answer if answer is not None else _ask(capital_question=_sample("What is the capital of France?", 100))

    @server.tool()
    async def test_input_required_result_list_roots(ctx: Ctx) -> str | InputRequiredResult:
        """Ask for the roots."""
        answer = (ctx.input_responses or {}).get("client_roots")
        if isinstance(answer, ListRootsResult):
            return f"Roots: {', '.join(str(root.uri) for root in answer.roots)}"
        return _ask(client_roots=ListRootsRequest())

    @server.tool()
    async def test_input_required_result_capabilities(ctx: Ctx) -> str | InputRequiredResult:
        """Ask only what the client can answer."""
        capabilities, requests = ctx.client_capabilities, cast("dict[str, InputRequest]", {})
        if ctx.input_responses:
            return "Answered."
        if capabilities is not None and capabilities.sampling is not None:
            requests["sample"] = _sample("Say a word", 20)
        if capabilities is not None and capabilities.elicitation is not None:
            requests["form"] = _form("Say a word", word="string")
        return _ask(**requests) if requests else "The client can answer nothing."


def _with_state(server: MCPServer[Any]) -> None:
    @server.tool()
    async def test_input_required_result_request_state(ctx: Ctx) -> str | InputRequiredResult:
        """Have the client carry a state."""
        if ctx.request_state == "asked" and _answered(ctx, "confirm", "ok") is not None:
            return "state-ok"
        return _ask("asked", confirm=_form("Please confirm", ok="boolean"))

    @server.tool()
    async def test_input_required_result_tampered_state(ctx: Ctx) -> str | InputRequiredResult:
        """Have the client carry a state that it must not change."""
        if ctx.request_state == "sealed":
            return "The state is as it was."
        return _ask("sealed", confirm=_form("Please confirm", ok="boolean"))

    @server.tool()
    async def test_input_required_result_multiple_inputs(ctx: Ctx) -> str | InputRequiredResult:
        """Ask three things at once."""
        answers = ctx.input_responses or {}
        name, greeting, roots = (
            _answered(ctx, "user_name", "name"),
            _spoken(answers.get("greeting")),
            answers.get("client_roots"),
        )
        if ctx.request_state == "asked" and name and greeting and isinstance(roots, ListRootsResult):
            return f"{greeting}, {name}! You have {len(roots.roots)} roots."
        return _ask(
            "asked",
            user_name=_form("What is your name?", name="string"),
            greeting=_sample("Generate a greeting", 50),
            client_roots=ListRootsRequest(),
        )

    @server.tool()
    async def test_input_required_result_multi_round(ctx: Ctx) -> str | InputRequiredResult:
        """Ask in two rounds."""
        state = ctx.request_state or ""
        color = _answered(ctx, "step2", "color")
        if state.startswith("named:") and color is not None:
            return f"{state.removeprefix('named:')} likes {color}."
        name = _answered(ctx, "step1", "name")
        if state == "first" and name is not None:
            return _ask(f"named:{name}", step2=_form("Step 2: What is your favorite color?", color="string"))
        return _ask("first", step1=_form("Step 1: What is your name?", name="string"))
