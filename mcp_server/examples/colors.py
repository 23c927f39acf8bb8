"""Resources, a resource template with completion, a prompt with arguments, an image, a sound, an embedded resource."""

import json
import math
import re
from typing import Annotated, Any, Final

from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ResourceNotFoundError, ToolError
from mcp.server.mcpserver.utilities.types import Audio
from mcp_types import (
    Completion,
    CompletionArgument,
    EmbeddedResource,
    PromptReference,
    ResourceTemplateReference,
    TextResourceContents,
    ToolAnnotations,
)
from pydantic import Field

from mcp_server.media import png, wav

# The sixteen colors of HTML 3.2.
COLORS: Final = {
    "aqua": "#00ffff",
    "black": "#000000",
    "blue": "#0000ff",
    "fuchsia": "#ff00ff",
    "gray": "#808080",
    "green": "#008000",
    "lime": "#00ff00",
    "maroon": "#800000",
    "navy": "#000080",
    "olive": "#808000",
    "purple": "#800080",
    "red": "#ff0000",
    "silver": "#c0c0c0",
    "teal": "#008080",
    "white": "#ffffff",
    "yellow": "#ffff00",
}
_MOODS: Final = ("calm", "cheerful", "formal", "mysterious")
_TEMPLATE: Final = "color://{name}"
_READ_ONLY = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_SIDE_PIXELS: Final = 32
_SAMPLES_PER_SECOND: Final = 8000


def register(server: MCPServer[Any]) -> None:
    """Add the tools, resources, prompt and completion to a server."""
    _register_tools(server)

    @server.resource("color://palette", mime_type="application/json")
    async def palette() -> str:
        """All named colors."""
        return json.dumps(COLORS)

    @server.resource(_TEMPLATE, mime_type="application/json")
    async def color(name: str) -> str:
        """A color by name."""
        return json.dumps(_describe(name))

    @server.prompt(title="Describe a color")
    async def describe_color(name: str, mood: str = "calm") -> str:
        """Ask for a description of a color in a mood."""
        return f"Describe the color {name} ({COLORS.get(name, 'of your choice')}) in two sentences, in a {mood} mood."

    @server.completion()
    async def complete(
        ref: PromptReference | ResourceTemplateReference, argument: CompletionArgument, context: Any
    ) -> Completion | None:
        """Complete names and moods that start with the client's input."""
        has_completion = (
            ref.uri == _TEMPLATE if isinstance(ref, ResourceTemplateReference) else ref.name == "describe_color"
        )
        values = {"name": tuple(COLORS), "mood": _MOODS}.get(argument.name, ()) if has_completion else ()
        matches = [value for value in values if value.startswith(argument.value.lower())]
        return Completion(values=matches, total=len(matches), has_more=False)


def _register_tools(server: MCPServer[Any]) -> None:
    @server.tool(annotations=_READ_ONLY)
    async def swatch(color: Annotated[str, Field(description="a name such as teal, or #rrggbb")]) -> Image:
        """Show a color as a small picture."""
        return Image(
            data=png(_SIDE_PIXELS, _SIDE_PIXELS, _parse_rgb(color) * _SIDE_PIXELS * _SIDE_PIXELS), format="png"
        )

    @server.tool(annotations=_READ_ONLY)
    async def tone(
        hertz: Annotated[int, Field(ge=20, le=4000, description="how high")] = 440,
        seconds: Annotated[float, Field(gt=0, le=2, description="how long")] = 0.25,
    ) -> Audio:
        """Play a pure tone."""
        count = int(_SAMPLES_PER_SECOND * seconds)
        samples = bytes(
            128 + round(100 * math.sin(2 * math.pi * hertz * n / _SAMPLES_PER_SECOND)) for n in range(count)
        )
        return Audio(data=wav(samples, _SAMPLES_PER_SECOND), format="wav")

    @server.tool(annotations=_READ_ONLY)
    async def look_up_color(name: str) -> EmbeddedResource:
        """Return a color as an embedded resource."""
        try:
            text = json.dumps(_describe(name))
        except ResourceNotFoundError as error:
            raise ToolError(str(error)) from None
        contents = TextResourceContents(uri=f"color://{name}", mime_type="application/json", text=text)
        return EmbeddedResource(type="resource", resource=contents)


def _describe(name: str) -> dict[str, str]:
    if name not in COLORS:
        raise ResourceNotFoundError(f"there is no color {name!r}; color://palette has all names")
    return {"name": name, "hex": COLORS[name]}


def _parse_rgb(color: str) -> bytes:
    text = COLORS.get(color.lower(), color)
    if re.fullmatch(r"#[0-9a-fA-F]{6}", text) is None:
        raise ToolError(f"{color!r} is not a color; use a name from color://palette, or #rrggbb")
    return bytes.fromhex(text[1:])
