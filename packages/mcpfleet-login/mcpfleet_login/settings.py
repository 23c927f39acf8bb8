"""The settings of the login container, read from its environment. No other module reads the environment.

Cloud Run sets `PORT`. The fleet sets the others as `MCPFLEET_*`, which replaces the `MCP_*` variable with the same
ending. An empty variable counts as unset.
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator

from mcpfleet_login.members import Members
from mcpfleet_login.sealing import parse_key
from mcpfleet_server.allowlist import OriginPattern
from mcpfleet_server.environment import SettingsError, merge_fleet_variables, variable_read

_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+", re.ASCII)
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", re.ASCII)
_SECRETS: Final = ("MCP_LOGIN_KEYS", "MCP_LOGIN_CLIENT_SECRET")


def _each(parse: Callable[[str], object]) -> BeforeValidator:
    def parse_entries(value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(parse(entry) for entry in re.split(r"[\s,]+", value.strip()) if entry)

    return BeforeValidator(parse_entries)


def _parse_members(value: object) -> object:
    entries = filter(None, re.split(r"[\s,]+", value)) if isinstance(value, str) else None
    return value if entries is None else Members.parse(entries)


class Settings(BaseModel):
    """The settings. Pass fields by the name of their variable: `Settings(PORT="9000")`."""

    model_config = ConfigDict(frozen=True, extra="ignore", arbitrary_types_allowed=True, hide_input_in_errors=True)

    port: int = Field(8080, ge=1, le=65535, validation_alias="PORT", description="TCP port to listen on")
    application_port: int = Field(
        8081, ge=1, le=65535, validation_alias="MCP_LOGIN_APPLICATION_PORT", description="the application's port"
    )
    base_url: str = Field(validation_alias="MCP_BASE_URL", description="URL of the service for clients")
    mcp_path: str = Field("/mcp", validation_alias="MCP_PATH", description="path of the MCP endpoint")
    health_path: str | None = Field(
        None, validation_alias="MCP_HEALTH_PATH", description="path of the application that needs no token"
    )
    allowed_origins: Annotated[tuple[OriginPattern, ...], _each(OriginPattern.parse)] = Field(
        (), validation_alias="MCP_ALLOWED_ORIGINS", description="web origins whose pages may call the server"
    )
    issuer: str = Field(validation_alias="MCP_LOGIN_ISSUER", description="OpenID Connect issuer where people log in")
    client_id: str = Field(
        min_length=1, validation_alias="MCP_LOGIN_CLIENT_ID", description="ID of the OAuth client at the issuer"
    )
    client_secret: SecretStr = Field(
        min_length=1, validation_alias="MCP_LOGIN_CLIENT_SECRET", description="secret of that client"
    )
    members: Annotated[Members, BeforeValidator(_parse_members)] = Field(
        Members(frozenset(), frozenset(), frozenset()),
        validation_alias="MCP_LOGIN_MEMBERS",
        description="comma-separated list of `user:EMAIL`, `domain:DOMAIN` and `group:NAME`; empty: nobody",
    )
    keys: Annotated[tuple[bytes, ...], _each(parse_key)] = Field(
        min_length=1,
        repr=False,
        validation_alias="MCP_LOGIN_KEYS",
        description="keys of 32 bytes in base64, newest first, separated by commas or line ends",
    )
    bucket: str = Field(
        validation_alias="MCP_LOGIN_BUCKET", description="bucket of Cloud Storage for the logins; its objects expire"
    )
    registration: bool = Field(
        default=True,
        validation_alias="MCP_LOGIN_REGISTRATION",
        description="whether clients may register themselves; those with a metadata document need not",
    )
    forwarded_allow_ips: str = Field(
        "127.0.0.1", validation_alias="FORWARDED_ALLOW_IPS", description="proxies whose X-Forwarded-* are trusted"
    )
    log_level: str = Field(
        "INFO",
        pattern="^(DEBUG|INFO|WARNING|ERROR|CRITICAL)$",
        validation_alias="MCP_LOG_LEVEL",
        description="log level",
    )
    project: str | None = Field(
        None, validation_alias="GOOGLE_CLOUD_PROJECT", description="project of the traces in logs"
    )

    @property
    def resource(self) -> str:
        """The URL of the MCP endpoint."""
        return f"{self.base_url}{self.mcp_path}"

    @field_validator("base_url", "issuer")
    @classmethod
    def _check_url(cls, value: str) -> str:
        parts = urlsplit(value)
        is_loopback = parts.hostname in ("localhost", "127.0.0.1", "::1")
        if not parts.netloc or not (parts.scheme == "https" or (parts.scheme == "http" and is_loopback)):
            raise ValueError("give an https URL: https://mcp.example.org (http for a loopback host only)")
        if parts.query or parts.fragment or "@" in parts.netloc or value != value.strip():
            raise ValueError("give a URL without user, query or fragment")
        return value

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, value: str) -> str:
        if urlsplit(value).path not in ("", "/"):
            raise ValueError("give only scheme and host: https://mcp.example.org; set the path in MCP_PATH")
        return value.rstrip("/")

    @field_validator("mcp_path", "health_path")
    @classmethod
    def _check_path(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if _PATH.fullmatch(value) is None:
            raise ValueError("give a path such as /mcp: a leading slash, plain words, no slash at the end")
        if f"{value}/".startswith(("/oauth/", "/.well-known/")):
            raise ValueError(f"{value} is a path of the login; choose a different one")
        return value

    @field_validator("bucket")
    @classmethod
    def _check_bucket(cls, value: str) -> str:
        if _BUCKET.fullmatch(value) is None:
            raise ValueError("give the name of a bucket")
        return value


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from the environment.

    Args:
        environ: Replaces the environment of the process.

    Raises:
        SettingsError: With one line for each mistake, which begins with the variable.
    """
    environ = os.environ if environ is None else environ
    names = frozenset(name for name, value in environ.items() if value)
    variables: dict[str, Any] = merge_fleet_variables(environ)
    try:
        return Settings.model_validate(variables)
    except pydantic.ValidationError as error:
        lines: list[str] = []
        for mistake in error.errors(include_url=False):
            name = str(mistake["loc"][0])
            message = "required" if mistake["type"] == "missing" else mistake["msg"].removeprefix("Value error, ")
            value = "" if name in _SECRETS or name not in variables else f" (it is {variables[name]!r})"
            lines.append(f"{variable_read(name, names)}: {message}{value}")
        raise SettingsError("\n".join(lines)) from None
