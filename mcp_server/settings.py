"""The environment of the container, read once and checked: the only module that reads it.

`PORT`, `K_SERVICE` and `K_REVISION` come from Cloud Run's container contract; `MCP_*` and
`FORWARDED_ALLOW_IPS` come from the fleet. An empty variable counts as unset.
"""

import re
from typing import Annotated, Literal

import pydantic
from pydantic import Field, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from mcp_server.allowlist import HostPattern, OriginPattern

_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


class SettingsError(Exception):
    """The environment is not valid; the text has one line for each mistake, beginning with the variable."""


class Settings(BaseSettings):
    """What the environment says."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", case_sensitive=True, env_ignore_empty=True)

    port: int = Field(8080, ge=1, le=65535, validation_alias="PORT", description="TCP port to listen on")
    mcp_path: str = Field("/mcp", validation_alias="MCP_PATH", description="path of the MCP endpoint")
    allowed_hosts: Annotated[tuple[HostPattern, ...], NoDecode] = Field(
        (),
        validation_alias="MCP_ALLOWED_HOSTS",
        description="comma list of hosts that requests may name, besides the loopback ones; `*` is allowed",
    )
    allowed_origins: Annotated[tuple[OriginPattern, ...], NoDecode] = Field(
        (),
        validation_alias="MCP_ALLOWED_ORIGINS",
        description="comma list of web origins that may call; requests without an Origin always may",
    )
    forwarded_allow_ips: str = Field(
        "127.0.0.1",
        validation_alias="FORWARDED_ALLOW_IPS",
        description="proxies whose X-Forwarded-* headers are believed; `*` behind Cloud Run's front end",
    )
    service: str | None = Field(None, validation_alias="K_SERVICE", description="name of the Cloud Run service")
    revision: str | None = Field(None, validation_alias="K_REVISION", description="name of the revision")
    project: str | None = Field(
        None,
        validation_alias="GOOGLE_CLOUD_PROJECT",
        description="project whose traces the log entries belong to; without it they name the bare trace id",
    )
    log_level: LogLevel = Field("INFO", validation_alias="LOG_LEVEL", description="least severity that is logged")

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _hosts(cls, value: object) -> object:
        return [HostPattern.parse(entry) for entry in _entries(value)] if isinstance(value, str) else value

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def _origins(cls, value: object) -> object:
        return [OriginPattern.parse(entry) for entry in _entries(value)] if isinstance(value, str) else value

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("mcp_path")
    @classmethod
    def _path(cls, value: str) -> str:
        if _PATH.fullmatch(value) is None:
            raise ValueError("give a path such as /mcp: a leading slash, plain words, no slash at the end")
        if value == "/health":
            raise ValueError("/health is the health check's own path; choose another")
        return value


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        SettingsError: With every mistake, each under the name of its variable.
    """
    try:
        return Settings()  # pyright: ignore[reportCallIssue]  # every field comes from the environment
    except pydantic.ValidationError as error:
        raise SettingsError("\n".join(map(_sentence, error.errors()))) from None


def _sentence(mistake: ErrorDetails) -> str:
    message = mistake["msg"].removeprefix("Value error, ")
    return f"{mistake['loc'][0]}: {message} (it is {mistake['input']!r})"


def _entries(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",") if entry.strip()]
