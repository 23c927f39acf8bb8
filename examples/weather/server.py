"""Weather: formulas for temperature, humidity and wind, served as MCP over streamable HTTP at /mcp.

It is an example of a repository without a Dockerfile: it has its dependencies in requirements.txt and starts with
`server.py`.
"""

import math
import os
from typing import Annotated

from mcp.server.mcpserver import MCPServer
from mcp_types import ToolAnnotations
from pydantic import Field

# Without this hint, clients must assume that a tool is destructive.
READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)

Celsius = Annotated[float, Field(examples=[8.0])]

server = MCPServer("weather", version="1.0.0", instructions="Formulas of meteorology, in metric units.")


@server.tool(annotations=READS)
def dew_point(temperature: Celsius, humidity: Annotated[float, Field(examples=[50.0])]) -> float:
    """Calculate the dew point in °C from temperature in °C and relative humidity in percent (Magnus formula)."""
    if not 0 < humidity <= 100:
        raise ValueError("humidity is a percentage above 0")
    gamma = math.log(humidity / 100) + 17.62 * temperature / (243.12 + temperature)
    return round(243.12 * gamma / (17.62 - gamma), 1)


@server.tool(annotations=READS)
def wind_chill(temperature: Celsius, wind: Annotated[float, Field(examples=[20.0])]) -> float:
    """Calculate the wind chill in °C from temperature (°C) and wind (km/h), for up to 10 °C and at least 4.8 km/h."""
    if temperature > 10 or wind < 4.8:
        return temperature
    return round(13.12 + 0.6215 * temperature + (0.3965 * temperature - 11.37) * wind**0.16, 1)


if __name__ == "__main__":
    server.run("streamable-http", host="0.0.0.0", port=int(os.environ.get("PORT", "8080")), stateless_http=True)  # noqa: S104
