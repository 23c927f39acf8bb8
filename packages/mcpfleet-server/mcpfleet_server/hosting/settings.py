"""The settings of a hosted server, read from the container's environment. No other module reads the environment.

Cloud Run sets `PORT`, `K_SERVICE` and `K_REVISION` (its container contract). The fleet sets the variables that
`docs/mcp-server.md` marks, under names of its own (`MCPFLEET_PATH` for `MCP_PATH`), which take precedence. The others
are for you to set. An empty variable counts as unset.
"""

import os
import re
from collections.abc import Callable, Container, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import pydantic
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from mcpfleet_server.allowlist import HostPattern, OriginPattern
from mcpfleet_server.caller import AccessMode
from mcpfleet_server.environment import SettingsError, merge_fleet_variables, name_variables_read, variable_read

_PATH_PATTERN = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_RESERVED_PATHS = ("/sse", "/messages", "/ready")

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
Transport = Literal["streamable-http", "sse"]

# Shorter keys can be guessed; the SDK requires 32 bytes, too (`RequestStateSecurity`).
_MIN_KEY_BYTES = 32


def _split_entries(value: object) -> object:
    return [entry.strip() for entry in value.split(",") if entry.strip()] if isinstance(value, str) else value


def _parse_each(parse: Callable[[str], object]) -> BeforeValidator:
    def parse_entries(value: object) -> object:
        items = _split_entries(value)
        return [parse(item) for item in items] if isinstance(value, str) and isinstance(items, list) else value  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]

    return BeforeValidator(parse_entries)


def _parse_by_tool(value: object) -> object:
    """Parse `10` (each tool) or `search=4,*=10` (by name; `*` stands for each other tool)."""
    if not isinstance(value, str):
        return value
    limits: dict[str, str] = {}
    for entry in filter(None, map(str.strip, value.split(","))):
        tool, separator, limit = entry.rpartition("=")
        tool = tool.strip() if separator else "*"
        if not tool or tool in limits:
            raise ValueError("give one number for all tools, or a number for each tool: search=4,*=10")
        limits[tool] = limit.strip()
    return limits


def _parse_workers(value: object) -> object:
    return None if value == "auto" else value


Names = Annotated[tuple[str, ...], BeforeValidator(_split_entries)]
Hosts = Annotated[tuple[HostPattern, ...], _parse_each(HostPattern.parse)]
Origins = Annotated[tuple[OriginPattern, ...], _parse_each(OriginPattern.parse)]


class Settings(BaseModel):
    """The settings. Pass fields by the name of their variable: `Settings(PORT="9000")`."""

    model_config = ConfigDict(frozen=True, extra="ignore", arbitrary_types_allowed=True, hide_input_in_errors=True)

    port: int = Field(8080, ge=1, le=65535, validation_alias="PORT", description="TCP port to listen on")
    mcp_path: str = Field("/mcp", validation_alias="MCP_PATH", description="path of the MCP endpoint")
    health_path: str = Field(
        "/health",
        validation_alias="MCP_HEALTH_PATH",
        description="path of the liveness check; the startup check is at `/ready`",
    )
    transports: Annotated[tuple[Transport, ...], BeforeValidator(_split_entries)] = Field(
        ("streamable-http",),
        min_length=1,
        validation_alias="MCP_TRANSPORTS",
        description="comma-separated list of `streamable-http` and `sse` (deprecated; at `/sse` and `/messages/`)",
    )
    stateless: bool = Field(
        default=True,
        validation_alias="MCP_STATELESS",
        description="whether any instance can answer any request; `false` keeps sessions for clients older than "
        "2026-07-28",
    )
    allowed_hosts: Hosts = Field(
        (),
        validation_alias="MCP_ALLOWED_HOSTS",
        description="comma-separated list of accepted hosts, in addition to the loopback hosts; may contain `*`",
    )
    allowed_origins: Origins = Field(
        (),
        validation_alias="MCP_ALLOWED_ORIGINS",
        description="comma-separated list of web origins whose pages may call the server and read its responses "
        "(CORS); requests without an Origin are always accepted",
    )
    base_url: str | None = Field(
        None,
        validation_alias="MCP_BASE_URL",
        description="URL of the service for clients; its host is accepted",
    )
    forwarded_allow_ips: str = Field(
        "127.0.0.1",
        validation_alias="FORWARDED_ALLOW_IPS",
        description="proxies whose X-Forwarded-* headers are trusted; `*` behind Cloud Run's front end",
    )
    access: AccessMode | None = Field(
        None,
        validation_alias="MCP_ACCESS",
        description="who has verified the caller: `iam` (Cloud Run), `iap` (Identity-Aware Proxy), `login` "
        "(mcpfleet's gate), `oauth` (the server itself), `public` or unset (nobody)",
    )
    iap_audience: Names = Field(
        (),
        validation_alias="MCP_IAP_AUDIENCE",
        description="comma-separated list of audiences, of which an assertion of Identity-Aware Proxy must have one; "
        "for `iap` only",
    )
    oauth_issuer: str | None = Field(
        None,
        validation_alias="MCP_OAUTH_ISSUER",
        description="URL of the authorization server; for `access: oauth` only",
    )
    oauth_audience: str | None = Field(
        None,
        validation_alias="MCP_OAUTH_AUDIENCE",
        description="`aud` of its tokens; the URL of the endpoint by default",
    )
    oauth_scopes: Names = Field(
        (),
        validation_alias="MCP_OAUTH_SCOPES",
        description="comma-separated list of scopes that every request requires",
    )
    oauth_tool_scopes: Annotated[Mapping[str, str], BeforeValidator(_parse_by_tool)] = Field(
        {},
        validation_alias="MCP_OAUTH_TOOL_SCOPES",
        description="additional scopes of single tools: `delete=items:write`; join several scopes with `+`",
    )
    request_state_key: SecretStr | None = Field(
        None,
        validation_alias="MCP_REQUEST_STATE_KEY",
        description="secret of 32 characters or more, the same at all instances; encrypts the state that a client "
        "carries between the rounds of a call",
    )
    max_body_bytes: int = Field(
        4 * 1024 * 1024,
        ge=1024,
        le=32 * 1024 * 1024,
        validation_alias="MCP_MAX_BODY_BYTES",
        description="maximum size of a request body in bytes; Cloud Run's own limit is 32 MiB",
    )
    max_sessions: int = Field(
        1000,
        ge=1,
        validation_alias="MCP_MAX_SESSIONS",
        description="maximum number of sessions; one caller can have at most three quarters of them",
    )
    tool_concurrency: Annotated[Mapping[str, Annotated[int, Field(ge=1)]], BeforeValidator(_parse_by_tool)] = Field(
        {},
        validation_alias="MCP_TOOL_CONCURRENCY",
        description="maximum number of concurrent calls of a tool; further calls wait: `10`, or by tool "
        "`search=4,*=10`",
    )
    tool_timeout: Annotated[Mapping[str, Annotated[float, Field(gt=0)]], BeforeValidator(_parse_by_tool)] = Field(
        {},
        validation_alias="MCP_TOOL_TIMEOUT",
        description="maximum seconds of a call, including the wait: `30`, or by tool `search=5,*=30`",
    )
    workers: Annotated[int | None, Field(ge=1, le=64), BeforeValidator(_parse_workers)] = Field(
        None,
        validation_alias="MCP_WORKERS",
        description="number of processes; `auto` is one for each CPU, or one if there are sessions",
    )
    otel: bool = Field(
        default=False,
        validation_alias="MCP_OTEL",
        description="whether to export traces and metrics by OTLP to OTEL_EXPORTER_OTLP_ENDPOINT",
    )
    service: str | None = Field(None, validation_alias="K_SERVICE", description="name of the Cloud Run service")
    revision: str | None = Field(None, validation_alias="K_REVISION", description="name of the revision")
    project: str | None = Field(
        None,
        validation_alias="GOOGLE_CLOUD_PROJECT",
        description="project of the traces that log entries name; without it, an entry has only the trace ID",
    )
    log_level: Annotated[
        LogLevel, BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value)
    ] = Field("INFO", validation_alias="MCP_LOG_LEVEL", description="lowest severity that is logged")

    _variables: Container[str] = PrivateAttr(default=frozenset[str]())

    def model_post_init(self, context: Any, /) -> None:
        """Keep the names of the variables that were set, which `load_settings` passes as the context."""
        self._variables = context or frozenset()

    def variable(self, name: str) -> str:
        """Return the variable that the setting *name* was read from, for messages; see `environment.variable_read`."""
        return variable_read(name, self._variables)

    @property
    def has_sessions(self) -> bool:
        """Whether this process keeps state of a client between requests."""
        return not self.stateless or "sse" in self.transports

    @property
    def resource_url(self) -> str | None:
        """The endpoint's URL, which is its OAuth resource identifier (RFC 8707)."""
        return None if self.base_url is None else f"{self.base_url}{self.mcp_path}"

    @property
    def accepted_hosts(self) -> tuple[HostPattern, ...]:
        """The allowed hosts and the host of the base URL."""
        base_url_hosts = () if self.base_url is None else (HostPattern.parse(urlsplit(self.base_url).netloc),)
        return (*self.allowed_hosts, *base_url_hosts)

    @field_validator("mcp_path", "health_path")
    @classmethod
    def _check_path(cls, value: str) -> str:
        value = value.removesuffix("/") or value  # the endpoint is served with the slash and without
        if _PATH_PATTERN.fullmatch(value) is None:
            raise ValueError("give a path such as /mcp: a leading slash, plain words, no slash at the end")
        if value in _RESERVED_PATHS or value.startswith(("/messages/", "/.well-known")):
            raise ValueError(f"{value} is the path of another endpoint; choose a different one")
        return value

    @field_validator("base_url", "oauth_issuer")
    @classmethod
    def _check_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        loopback = parts.hostname in ("localhost", "127.0.0.1", "::1")
        if not parts.netloc or not (parts.scheme == "https" or (parts.scheme == "http" and loopback)):
            raise ValueError("give an https URL: https://mcp.example.org (http for a loopback host only)")
        if parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError("give a URL without user, query or fragment")
        HostPattern.parse(parts.netloc)
        # RFC 8414: issuers are compared character by character, so the text stays unchanged.
        return value

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, value: str | None) -> str | None:
        if value is not None and urlsplit(value).path not in ("", "/"):
            raise ValueError("give only scheme and host: https://mcp.example.org; set the path in MCP_PATH")
        return None if value is None else value.rstrip("/")

    @field_validator("request_state_key")
    @classmethod
    def _check_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().encode()) < _MIN_KEY_BYTES:
            raise ValueError(f"give {_MIN_KEY_BYTES} characters or more; for example, run openssl rand -base64 32")
        return value

    @model_validator(mode="after")
    def _check_combination(self) -> "Settings":
        if self.mcp_path == self.health_path:
            raise ValueError(f"MCP_PATH: {self.mcp_path} is the path of the health check; choose a different one")
        if self.oauth_issuer and self.access not in (None, "oauth"):
            raise ValueError(f"MCP_OAUTH_ISSUER: has no effect with MCP_ACCESS={self.access}; unset one of them")
        if self.access == "oauth" and not self.oauth_issuer:
            raise ValueError("MCP_OAUTH_ISSUER: required for MCP_ACCESS=oauth; without it, anybody could call")
        if (self.access == "iap") != bool(self.iap_audience):
            raise ValueError("MCP_IAP_AUDIENCE: required for MCP_ACCESS=iap, and allowed only there")
        if self.oauth_issuer and self.base_url is None:
            raise ValueError("MCP_BASE_URL: required for MCP_OAUTH_ISSUER, because clients find the issuer through it")
        if not self.oauth_issuer and (self.oauth_scopes or self.oauth_tool_scopes or self.oauth_audience):
            raise ValueError("MCP_OAUTH_ISSUER: required for scopes and audience; set the issuer")
        if self.has_sessions and (self.workers or 1) > 1:
            raise ValueError("MCP_WORKERS: sessions need a single process; set 1, or MCP_STATELESS=true without sse")
        return self


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from the environment.

    Args:
        environ: Replaces the environment of the process.

    Raises:
        SettingsError: With one line for each mistake, which begins with the variable.
    """
    environ = os.environ if environ is None else environ
    names = frozenset(name for name, value in environ.items() if value)
    variables = merge_fleet_variables(environ)
    try:
        return Settings.model_validate(variables, context=names)
    except pydantic.ValidationError as error:
        mistakes = error.errors(include_url=False)
        raise SettingsError("\n".join(_format_mistake(mistake, variables, names) for mistake in mistakes)) from None


def _format_mistake(mistake: ErrorDetails, variables: Mapping[str, str], names: Container[str]) -> str:
    message = name_variables_read(mistake["msg"].removeprefix("Value error, "), names)
    if not mistake["loc"]:
        return message
    name = str(mistake["loc"][0])
    # A key is a secret, so its value is not shown.
    value = "" if name.endswith("_KEY") else f" (it is {variables.get(name, '')!r})"
    return f"{variable_read(name, names)}: {message}{value}"
