"""Resources, a template with completion, a prompt with arguments; an image, a sound and an embedded resource."""

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

# The sixteen names of HTML 3.2: few enough to list, enough to complete.
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
_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_SIDE: Final = 32
_RATE: Final = 8000


def register(server: MCPServer[Any]) -> None:
    """Add them to a server."""
    _tools(server)

    @server.resource("color://palette", mime_type="application/json")
    async def palette() -> str:
        """All the colors that have a name here."""
        return json.dumps(COLORS)

    @server.resource(_TEMPLATE, mime_type="application/json")
    async def color(name: str) -> str:
        """One color by its name."""
        return json.dumps(_described(name))

    @server.prompt(title="Describe a color")
    async def describe_color(name: str, mood: str = "calm") -> str:
        """Ask for a description of a color in a mood."""
        return f"Describe the color {name} ({COLORS.get(name, 'of your choice')}) in two sentences, in a {mood} mood."

    @server.completion()
    async def complete(
        ref: PromptReference | ResourceTemplateReference, argument: CompletionArgument, context: Any
    ) -> Completion | None:
        """The names that begin as the client has typed."""
        ours = ref.uri == _TEMPLATE if isinstance(ref, ResourceTemplateReference) else ref.name == "describe_color"
        values = {"name": tuple(COLORS), "mood": _MOODS}.get(argument.name, ()) if ours else ()
        found = [value for value in values if value.startswith(argument.value.lower())]
        return Completion(values=found, total=len(found), has_more=False)


def _tools(server: MCPServer[Any]) -> None:
    @server.tool(annotations=_READS)
    async def swatch(color: Annotated[str, Field(description="a name such as teal, or #rrggbb")]) -> Image:
        """Show a color as a small picture."""
        return Image(data=png(_SIDE, _SIDE, _rgb(color) * _SIDE * _SIDE), format="png")

    @server.tool(annotations=_READS)
    async def tone(
        hertz: Annotated[int, Field(ge=20, le=4000, description="how high")] = 440,
        seconds: Annotated[float, Field(gt=0, le=2, description="how long")] = 0.25,
    ) -> Audio:
        """Play a pure tone."""
        count = int(_RATE * seconds)
        samples = bytes(128 + round(100 * math.sin(2 * math.pi * hertz * n / _RATE)) for n in range(count))
        return Audio(data=wav(samples, _RATE), format="wav")

    @server.tool(annotations=_READS)
    async def look_up_color(name: str) -> EmbeddedResource:
        """Give what is known of a color as a resource that a client can keep."""
        try:
            text = json.dumps(_described(name))
        except ResourceNotFoundError as error:
            raise ToolError(str(error)) from None
        contents = TextResourceContents(uri=f"color://{name}", mime_type="application/json", text=text)
        return EmbeddedResource(type="resource", resource=contents)


def _described(name: str) -> dict[str, str]:
    if name not in COLORS:
        raise ResourceNotFoundError(f"there is no color {name!r}; color://palette has them all")
    return {"name": name, "hex": COLORS[name]}


def _rgb(color: str) -> bytes:
    text = COLORS.get(color.lower(), color)
    if re.fullmatch(r"#[0-9a-fA-F]{6}", text) is None:
        raise ToolError(f"{color!r} is no color; give a name of color://palette, or #rrggbb")
    return bytes.fromhex(text[1:])
