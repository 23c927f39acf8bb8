"""The environment of the container, read once and checked: the only module that reads it.

`PORT` comes from Cloud Run's container contract, `MCP_SERVERS` from the fleet: a JSON object of the servers that this
client calls, `{"reference": {"url": "https://…/mcp", "audience": "https://…"}}`. Without an audience a server is called
without a token: a sidecar on localhost asks for none, and in a service mesh the proxy beside this client adds it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Json

from mcpfleet.errors import UsageError
from mcpfleet.same_origin import parse_origins
from mcpfleet.service import CalledServer
from mcpfleet_server.environment import SettingsError


def _origins(text: object) -> object:
    try:
        return parse_origins(text) if isinstance(text, str) else text
    except UsageError as error:
        raise ValueError(str(error)) from None


class Settings(BaseModel):
    """What the environment says."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    port: int = Field(8080, ge=1, le=65535, alias="PORT", description="TCP port to listen on")
    servers: Json[dict[str, CalledServer]] = Field(alias="MCP_SERVERS", description="the servers, as JSON")
    timeout: float = Field(60.0, gt=0, le=3600, alias="MCP_TIMEOUT", description="seconds that one question may take")
    origins: Annotated[tuple[str, ...], BeforeValidator(_origins)] = Field(
        (), alias="MCP_CLIENT_ORIGINS", description="origins of other web pages that may ask, with commas between them"
    )
    project: str | None = Field(
        None, alias="GOOGLE_CLOUD_PROJECT", description="project whose traces the log entries belong to"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", alias="LOG_LEVEL", description="least severity that is logged"
    )


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the environment; an empty variable counts as unset.

    Raises:
        SettingsError: With every mistake, each under the name of its variable.
    """
    environ = os.environ if environ is None else environ
    given: dict[str, Any] = {name: value for name, value in environ.items() if value}
    try:
        return Settings.model_validate(given)
    except pydantic.ValidationError as error:
        lines = [
            f"{'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ')}" for one in error.errors()
        ]
        raise SettingsError("\n".join(lines)) from None
