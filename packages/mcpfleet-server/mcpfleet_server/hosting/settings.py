"""The environment of the container, read once and checked: the only module that reads it.

`PORT`, `K_SERVICE` and `K_REVISION` come from Cloud Run's container contract; the fleet sets those marked so in
`docs/mcp-server.md`, under names of its own (`MCPFLEET_PATH` for `MCP_PATH`), which win; the rest is yours. An empty
variable counts as unset.
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_core import ErrorDetails

from mcpfleet_server.allowlist import HostPattern, OriginPattern
from mcpfleet_server.caller import Access
from mcpfleet_server.environment import SettingsError, with_fleet

_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_TAKEN = ("/sse", "/messages", "/ready")

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
Transport = Literal["streamable-http", "sse"]

# Shorter keys can be guessed; the SDK wants 32 bytes too (`RequestStateSecurity`).
_KEY_BYTES = 32


def _entries(value: object) -> object:
    return [entry.strip() for entry in value.split(",") if entry.strip()] if isinstance(value, str) else value


def _parsed(parse: Callable[[str], object]) -> BeforeValidator:
    def entries(value: object) -> object:
        found = _entries(value)
        return [parse(one) for one in found] if isinstance(value, str) and isinstance(found, list) else value  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]

    return BeforeValidator(entries)


def _by_tool(value: object) -> object:
    """`10` for every tool, `search=4,*=10` by name; `*` stands for the tools that are not named."""
    if not isinstance(value, str):
        return value
    limits: dict[str, str] = {}
    for entry in filter(None, map(str.strip, value.split(","))):
        tool, separator, limit = entry.rpartition("=")
        tool = tool.strip() if separator else "*"
        if not tool or tool in limits:
            raise ValueError("write a number for every tool, or tool=number entries: search=4,*=10")
        limits[tool] = limit.strip()
    return limits


def _workers(value: object) -> object:
    return None if value == "auto" else value


Names = Annotated[tuple[str, ...], BeforeValidator(_entries)]
Hosts = Annotated[tuple[HostPattern, ...], _parsed(HostPattern.parse)]
Origins = Annotated[tuple[OriginPattern, ...], _parsed(OriginPattern.parse)]


class Settings(BaseModel):
    """What the environment says. Fields are set by their variable's name: `Settings(PORT="9000")`."""

    model_config = ConfigDict(frozen=True, extra="ignore", arbitrary_types_allowed=True, hide_input_in_errors=True)

    port: int = Field(8080, ge=1, le=65535, validation_alias="PORT", description="TCP port to listen on")
    mcp_path: str = Field("/mcp", validation_alias="MCP_PATH", description="path of the MCP endpoint")
    health_path: str = Field(
        "/health", validation_alias="MCP_HEALTH_PATH", description="path of the liveness check; startup is at `/ready`"
    )
    transports: Annotated[tuple[Transport, ...], BeforeValidator(_entries)] = Field(
        ("streamable-http",),
        min_length=1,
        validation_alias="MCP_TRANSPORTS",
        description="comma list of `streamable-http` and `sse` (the deprecated one: `/sse` and `/messages/`)",
    )
    stateless: bool = Field(
        default=True,
        validation_alias="MCP_STATELESS",
        description="whether any instance may answer any request; `false` keeps sessions of clients before 2026-07-28",
    )
    allowed_hosts: Hosts = Field(
        (),
        validation_alias="MCP_ALLOWED_HOSTS",
        description="comma list of hosts that requests may name, besides the loopback ones; `*` is allowed",
    )
    allowed_origins: Origins = Field(
        (),
        validation_alias="MCP_ALLOWED_ORIGINS",
        description="comma list of web origins whose pages may call, and read the answers (CORS); requests without an "
        "Origin always may call",
    )
    base_url: str | None = Field(
        None,
        validation_alias="MCP_BASE_URL",
        description="URL under which clients reach the service; its host may call",
    )
    forwarded_allow_ips: str = Field(
        "127.0.0.1",
        validation_alias="FORWARDED_ALLOW_IPS",
        description="proxies whose X-Forwarded-* headers are believed; `*` behind Cloud Run's front end",
    )
    access: Access | None = Field(
        None,
        validation_alias="MCP_ACCESS",
        description="who has checked the caller: `iam` (Cloud Run), `iap` (Identity-Aware Proxy), `oauth` (the server "
        "itself), `public` (nobody, as where it is unset)",
    )
    iap_audience: Names = Field(
        (),
        validation_alias="MCP_IAP_AUDIENCE",
        description="comma list of what Identity-Aware Proxy calls this service in its assertions; for `iap` only",
    )
    oauth_issuer: str | None = Field(
        None, validation_alias="MCP_OAUTH_ISSUER", description="authorization server; set for `access: oauth` only"
    )
    oauth_audience: str | None = Field(
        None, validation_alias="MCP_OAUTH_AUDIENCE", description="`aud` of its tokens; else the URL of the endpoint"
    )
    oauth_scopes: Names = Field(
        (), validation_alias="MCP_OAUTH_SCOPES", description="comma list of scopes that every request needs"
    )
    oauth_tool_scopes: Annotated[Mapping[str, str], BeforeValidator(_by_tool)] = Field(
        {},
        validation_alias="MCP_OAUTH_TOOL_SCOPES",
        description="scopes that single tools need besides: `delete=items:write`, several joined by `+`",
    )
    request_state_key: SecretStr | None = Field(
        None,
        validation_alias="MCP_REQUEST_STATE_KEY",
        description="secret of 32 characters or more that all instances share; seals what a client carries "
        "between the rounds of one call",
    )
    max_body_bytes: int = Field(
        4 * 1024 * 1024,
        ge=1024,
        le=32 * 1024 * 1024,
        validation_alias="MCP_MAX_BODY_BYTES",
        description="largest request body; Cloud Run itself stops at 32 MiB",
    )
    max_sessions: int = Field(
        1000,
        ge=1,
        validation_alias="MCP_MAX_SESSIONS",
        description="most sessions at once where there are sessions; one caller has three quarters at most",
    )
    tool_concurrency: Annotated[Mapping[str, Annotated[int, Field(ge=1)]], BeforeValidator(_by_tool)] = Field(
        {},
        validation_alias="MCP_TOOL_CONCURRENCY",
        description="most calls of one tool at once, further ones wait: `10`, or by tool `search=4,*=10`",
    )
    tool_timeout: Annotated[Mapping[str, Annotated[float, Field(gt=0)]], BeforeValidator(_by_tool)] = Field(
        {},
        validation_alias="MCP_TOOL_TIMEOUT",
        description="seconds that one call may take, waiting included: `30`, or by tool `search=5,*=30`",
    )
    workers: Annotated[int | None, Field(ge=1, le=64), BeforeValidator(_workers)] = Field(
        None,
        validation_alias="MCP_WORKERS",
        description="processes that serve; `auto` is one for each CPU, and one where there are sessions",
    )
    otel: bool = Field(
        default=False,
        validation_alias="MCP_OTEL",
        description="export traces and metrics by OTLP to OTEL_EXPORTER_OTLP_ENDPOINT",
    )
    service: str | None = Field(None, validation_alias="K_SERVICE", description="name of the Cloud Run service")
    revision: str | None = Field(None, validation_alias="K_REVISION", description="name of the revision")
    project: str | None = Field(
        None,
        validation_alias="GOOGLE_CLOUD_PROJECT",
        description="project whose traces the log entries belong to; without it they name the bare trace id",
    )
    log_level: Annotated[
        LogLevel, BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value)
    ] = Field("INFO", validation_alias="MCP_LOG_LEVEL", description="least severity that is logged")

    @property
    def sessions(self) -> bool:
        """Whether something of a client is kept in this process between two requests."""
        return not self.stateless or "sse" in self.transports

    @property
    def resource(self) -> str | None:
        """The endpoint's own URL, as OAuth's resource identifier has it (RFC 8707)."""
        return None if self.base_url is None else f"{self.base_url}{self.mcp_path}"

    @property
    def accepted_hosts(self) -> tuple[HostPattern, ...]:
        """The hosts of the list and that of the base URL."""
        own = () if self.base_url is None else (HostPattern.parse(urlsplit(self.base_url).netloc),)
        return (*self.allowed_hosts, *own)

    @field_validator("mcp_path", "health_path")
    @classmethod
    def _path(cls, value: str) -> str:
        value = value.removesuffix("/") or value  # the endpoint is served with the slash and without
        if _PATH.fullmatch(value) is None:
            raise ValueError("give a path such as /mcp: a leading slash, plain words, no slash at the end")
        if value in _TAKEN or value.startswith(("/messages/", "/.well-known")):
            raise ValueError(f"{value} is another endpoint's own path; choose another")
        return value

    @field_validator("base_url", "oauth_issuer")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        loopback = parts.hostname in ("localhost", "127.0.0.1", "::1")
        if not parts.netloc or not (parts.scheme == "https" or (parts.scheme == "http" and loopback)):
            raise ValueError("give an https URL: https://mcp.example.org (http for a loopback host only)")
        if parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError("give a URL without user, query or fragment")
        HostPattern.parse(parts.netloc)
        # RFC 8414: an issuer is compared character by character, so it is kept as it was written.
        return value

    @field_validator("base_url")
    @classmethod
    def _origin(cls, value: str | None) -> str | None:
        if value is not None and urlsplit(value).path not in ("", "/"):
            raise ValueError("give scheme and host alone: https://mcp.example.org; the path is MCP_PATH")
        return None if value is None else value.rstrip("/")

    @field_validator("request_state_key")
    @classmethod
    def _key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().encode()) < _KEY_BYTES:
            raise ValueError(f"give {_KEY_BYTES} characters or more: openssl rand -base64 32")
        return value

    @model_validator(mode="after")
    def _together(self) -> "Settings":
        if self.mcp_path == self.health_path:
            raise ValueError(f"MCP_PATH: {self.mcp_path} is the health check's own path; choose another")
        if self.oauth_issuer and self.access not in (None, "oauth"):
            raise ValueError(f"MCP_OAUTH_ISSUER: its tokens are not looked at with MCP_ACCESS={self.access}; unset one")
        if self.access == "oauth" and not self.oauth_issuer:
            raise ValueError("MCP_OAUTH_ISSUER: needed for MCP_ACCESS=oauth, or everybody could call")
        if (self.access == "iap") != bool(self.iap_audience):
            raise ValueError("MCP_IAP_AUDIENCE: needed for MCP_ACCESS=iap, and for it alone")
        if self.oauth_issuer and self.base_url is None:
            raise ValueError("MCP_BASE_URL: needed for MCP_OAUTH_ISSUER; clients find the issuer through it")
        if not self.oauth_issuer and (self.oauth_scopes or self.oauth_tool_scopes or self.oauth_audience):
            raise ValueError("MCP_OAUTH_ISSUER: scopes and audience mean nothing without it; set the issuer")
        if self.sessions and (self.workers or 1) > 1:
            raise ValueError("MCP_WORKERS: a session lives in one process; set 1, or MCP_STATELESS=true without sse")
        return self


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the environment.

    Args:
        environ: What to read instead of the process's own.

    Raises:
        SettingsError: With every mistake, each under the name of its variable.
    """
    given: dict[str, Any] = {**with_fleet(os.environ if environ is None else environ)}
    try:
        return Settings.model_validate(given)
    except pydantic.ValidationError as error:
        raise SettingsError("\n".join(_sentence(one, given) for one in error.errors(include_url=False))) from None


def _sentence(mistake: ErrorDetails, given: Mapping[str, str]) -> str:
    message = mistake["msg"].removeprefix("Value error, ")
    if not mistake["loc"]:
        return message
    name = str(mistake["loc"][0])
    # A key is a secret: its variable is named, its value never.
    return f"{name}: {message}" if name.endswith("_KEY") else f"{name}: {message} (it is {given.get(name, '')!r})"
