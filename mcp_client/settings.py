"""Reads and checks the environment variables of the container; no other module reads them.

`PORT` comes from Cloud Run's container contract. `MCP_SERVERS` comes from the fleet: a JSON object of the servers that
this client calls, `{"reference": {"url": "https://…/mcp", "audience": "https://…"}}`. A server without an audience gets
no token: a sidecar on localhost needs none, and in a service mesh the client's proxy adds it.
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


def _parse_origins(text: object) -> object:
    try:
        return parse_origins(text) if isinstance(text, str) else text
    except UsageError as error:
        raise ValueError(str(error)) from None


class Settings(BaseModel):
    """The settings from the environment."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    port: int = Field(8080, ge=1, le=65535, alias="PORT", description="TCP port to listen on")
    servers: Json[dict[str, CalledServer]] = Field(alias="MCP_SERVERS", description="the servers, as JSON")
    timeout: float = Field(60.0, gt=0, le=3600, alias="MCP_TIMEOUT", description="maximum seconds for one question")
    origins: Annotated[tuple[str, ...], BeforeValidator(_parse_origins)] = Field(
        (),
        alias="MCP_CLIENT_ORIGINS",
        description="origins of other web pages that may send questions, separated by commas",
    )
    project: str | None = Field(
        None, alias="GOOGLE_CLOUD_PROJECT", description="project of the traces that log entries belong to"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", alias="LOG_LEVEL", description="lowest severity that is logged"
    )


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings; an empty variable counts as unset.

    Raises:
        SettingsError: The environment has mistakes; the message has all of them, each with its variable.
    """
    environ = os.environ if environ is None else environ
    variables: dict[str, Any] = {name: value for name, value in environ.items() if value}
    try:
        return Settings.model_validate(variables)
    except pydantic.ValidationError as error:
        lines = [
            f"{'.'.join(map(str, detail['loc']))}: {detail['msg'].removeprefix('Value error, ')}"
            for detail in error.errors()
        ]
        raise SettingsError("\n".join(lines)) from None
