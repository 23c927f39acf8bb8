"""The settings of the bridge, read from the container's environment. No other module reads the environment.

Cloud Run sets `PORT` and `K_SERVICE` (its container contract). The fleet sets `FORWARDED_ALLOW_IPS` and `MCPFLEET_*`;
each of the latter replaces the `MCP_*` variable with the same ending. The image and the user set `MCP_STDIO_*`. An
empty variable counts as unset.

This module does not use pydantic, which would double the bridge's memory and startup time.
"""

import os
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeVar, cast

import msgspec

from mcpfleet_server.allowlist import HostPattern, OriginPattern
from mcpfleet_server.caller import ACCESS_MODES, AccessMode
from mcpfleet_server.environment import (
    SettingsError,
    fleet_variable,
    merge_fleet_variables,
    name_variables_read,
    variable_read,
)

Value = TypeVar("Value")

_PATH_PATTERN = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_TRANSPORTS = ("streamable-http", "sse")

_BRIDGE_VARIABLES: Final = re.compile(
    r"MCP_STDIO_\w+|MCPFLEET_\w+|FORWARDED_ALLOW_IPS|PORT"
    r"|MCP_(PATH|HEALTH_PATH|ALLOWED_HOSTS|ALLOWED_ORIGINS|BASE_URL|AUDIENCE|ACCESS|IAP_AUDIENCE|TRANSPORTS|STATELESS|LOG_LEVEL|OAUTH_\w+)"
    r"|FASTMCP_(TRANSPORT|HOST|PORT|STREAMABLE_HTTP_PATH|STATELESS_HTTP|HTTP_\w+|SHOW_SERVER_BANNER|CHECK_FOR_UPDATES)"
)
"""The variables for a server that listens. They are not passed on, so that a stdio server does not open a port."""

MEBIBYTE: Final = 2**20


def _number_parser(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) is None or not low <= int(text) <= high:
            raise ValueError(f"give a whole number from {low} to {high}")
        return int(text)

    return parse


def _parse_boolean(text: str) -> bool:
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise ValueError("give true or false")


def _choice_parser(choices: tuple[str, ...], normalize: Callable[[str], str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if normalize(text) not in choices:
            raise ValueError(f"give one of {', '.join(choices)}")
        return normalize(text)

    return parse


def _parse_access(text: str) -> AccessMode:
    for mode in ACCESS_MODES:
        if text == mode:
            return mode
    raise ValueError(f"give one of {', '.join(ACCESS_MODES)}")


def _list_parser(parse: Callable[[str], Value]) -> Callable[[str], tuple[Value, ...]]:
    return lambda text: tuple(parse(entry.strip()) for entry in text.split(",") if entry.strip())


def _parse_path(text: str) -> str:
    text = text.removesuffix("/") or text  # the endpoint is served with the slash and without
    if _PATH_PATTERN.fullmatch(text) is None:
        raise ValueError("give a path such as /mcp: a leading slash, plain words, no slash at the end")
    return text


def _parse_strings(text: str) -> tuple[str, ...]:
    try:
        values = msgspec.json.decode(text.encode(), type=list[Any])
    except (msgspec.MsgspecError, UnicodeError):
        raise ValueError('give a JSON list of texts: ["--verbose"]') from None
    if not all(isinstance(value, str) and "\0" not in value for value in values):
        raise ValueError('give a JSON list of texts: ["--verbose"]')
    return tuple(cast("list[str]", values))


def _parse_command(text: str) -> tuple[str, ...]:
    arguments = _parse_strings(text)
    if not arguments or not arguments[0]:
        raise ValueError('give the program and its arguments as a JSON list: ["mcp-server-time"]')
    return arguments


_parse_transports: Final = _list_parser(_choice_parser(_TRANSPORTS, str.lower))


def _setting(name: str, parse: Callable[[str], Any], default: Value) -> Value:
    """Define a field that is read from the variable *name*."""
    return field(default=default, metadata={"name": name, "parse": parse})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of the bridge."""

    command: tuple[str, ...]
    """`MCP_STDIO_COMMAND` and `MCP_STDIO_ARGS`, JSON lists: the stdio server and its arguments."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """The server's environment: that of the bridge without the bridge's variables. Has secrets; never shown."""
    variables: Container[str] = field(default=frozenset[str](), repr=False)
    """The names of the variables that are set, for messages."""
    directory: str | None = _setting("MCP_STDIO_CWD", str, None)
    """`MCP_STDIO_CWD`: the working directory of the server."""

    port: int = _setting("PORT", _number_parser(1, 65535), 8080)
    path: str = _setting("MCP_PATH", _parse_path, "/mcp")
    """`MCP_PATH`: path of the MCP endpoint."""
    health_path: str = _setting("MCP_HEALTH_PATH", _parse_path, "/health")
    """`MCP_HEALTH_PATH`: 200 while calls can be served, 503 while no server can be started."""
    allowed_hosts: tuple[HostPattern, ...] = _setting("MCP_ALLOWED_HOSTS", _list_parser(HostPattern.parse), ())
    allowed_origins: tuple[OriginPattern, ...] = _setting("MCP_ALLOWED_ORIGINS", _list_parser(OriginPattern.parse), ())
    access: AccessMode | None = _setting("MCP_ACCESS", _parse_access, None)  # noqa: RUF009  # makes a field
    """`MCP_ACCESS`: who has verified the caller (`mcpfleet_server.caller`); None is the same as `public`."""
    iap_audience: tuple[str, ...] = _setting("MCP_IAP_AUDIENCE", _list_parser(str), ())
    """`MCP_IAP_AUDIENCE`: the audiences of Identity-Aware Proxy's assertions for this service."""
    forwarded_allow_ips: str = _setting("FORWARDED_ALLOW_IPS", str, "127.0.0.1")
    service: str | None = _setting("K_SERVICE", str, None)
    project: str | None = _setting("GOOGLE_CLOUD_PROJECT", str, None)
    log_level: str = _setting("MCP_LOG_LEVEL", _choice_parser(_LEVELS, str.upper), "INFO")

    sse: bool = _setting("MCP_TRANSPORTS", lambda text: "sse" in _parse_transports(text), False)
    """`MCP_TRANSPORTS` contains `sse`: also serve the HTTP+SSE transport of 2024-11-05 at /sse."""
    stateless: bool = _setting("MCP_STATELESS", _parse_boolean, True)
    """`MCP_STATELESS`: whether clients with a handshake share the pool, or each have a session."""

    pool: int = _setting("MCP_STDIO_POOL", _number_parser(1, 64), 1)
    """`MCP_STDIO_POOL`: processes that all stateless clients share."""
    warm: bool = _setting("MCP_STDIO_WARM", _parse_boolean, True)
    """`MCP_STDIO_WARM`: start these processes with the bridge, not with the first call."""
    concurrency: int = _setting("MCP_STDIO_CONCURRENCY", _number_parser(1, 1000), 32)
    """`MCP_STDIO_CONCURRENCY`: concurrent calls in one shared process."""
    exclusive: int = _setting("MCP_STDIO_EXCLUSIVE", _number_parser(0, 64), 4)
    """`MCP_STDIO_EXCLUSIVE`: maximum number of processes for calls in which the server may ask the client."""
    sessions: int = _setting("MCP_STDIO_SESSIONS", _number_parser(1, 1000), 20)
    """`MCP_STDIO_SESSIONS`: maximum number of sessions, each with a process, if not stateless."""
    session_idle: float = _setting("MCP_STDIO_SESSION_IDLE", _number_parser(1, 86_400), 1800.0)
    """`MCP_STDIO_SESSION_IDLE`: seconds until an unused session, or an idle exclusive process, ends."""
    queue: int = _setting("MCP_STDIO_QUEUE", _number_parser(0, 10_000), 128)
    """`MCP_STDIO_QUEUE`: calls that may wait for a process; more are refused with 503."""
    queue_seconds: float = _setting("MCP_STDIO_QUEUE_SECONDS", _number_parser(1, 3600), 30.0)
    """`MCP_STDIO_QUEUE_SECONDS`: maximum seconds of that wait."""
    call_seconds: float = _setting("MCP_STDIO_CALL_SECONDS", _number_parser(1, 3600), 300.0)
    """`MCP_STDIO_CALL_SECONDS`: seconds that a call may take; then it is cancelled."""
    start_seconds: float = _setting("MCP_STDIO_START_SECONDS", _number_parser(1, 600), 60.0)
    """`MCP_STDIO_START_SECONDS`: seconds that the server may take to answer `initialize`."""
    max_request: int = _setting("MCP_STDIO_MAX_REQUEST", _number_parser(1024, 32 * MEBIBYTE), 4 * MEBIBYTE)
    """`MCP_STDIO_MAX_REQUEST`: maximum bytes of a message from a client."""
    max_answer: int = _setting("MCP_STDIO_MAX_ANSWER", _number_parser(1024, 512 * MEBIBYTE), 16 * MEBIBYTE)
    """`MCP_STDIO_MAX_ANSWER`: maximum bytes of a message from the server."""
    memory: int = _setting("MCP_STDIO_MEMORY", _number_parser(0, 32 * 1024), 0)
    """`MCP_STDIO_MEMORY`: MiB of data that one process may have (RLIMIT_DATA); 0: no limit."""
    open_files: int = _setting("MCP_STDIO_OPEN_FILES", _number_parser(16, 1_048_576), 1024)
    """`MCP_STDIO_OPEN_FILES`: files that one process may have open (RLIMIT_NOFILE)."""

    def variable(self, name: str) -> str:
        """Return the variable that the setting *name* was read from; see `environment.variable_read`."""
        return variable_read(name, self.variables)


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from the environment.

    Args:
        environment: Replaces the environment of the process.

    Raises:
        SettingsError: With one line for each mistake, which begins with the variable.
    """
    variables = {key: value for key, value in (environment or os.environ).items() if value}
    reader = _Reader(merge_fleet_variables(variables), variables)
    values: dict[str, Any] = {
        setting.name: reader.read(setting.metadata["name"], setting.metadata["parse"], setting.default)
        for setting in fields(Settings)
        if setting.metadata
    }
    settings = Settings(
        command=(
            *reader.read("MCP_STDIO_COMMAND", _parse_command, ()),
            *reader.read("MCP_STDIO_ARGS", _parse_strings, ()),
        ),
        # If the fleet has set its own variable, the one with the usual name is the user's, for the server.
        environment={
            key: value
            for key, value in variables.items()
            if not _BRIDGE_VARIABLES.fullmatch(key) or _is_replaced(key, variables)
        },
        variables=frozenset(variables),
        **values,
    )
    if not settings.command and not reader.mistakes:
        reader.add(
            "MCP_STDIO_COMMAND: missing; give the command that starts the stdio server, as a JSON list:"
            ' ["mcp-server-time", "--verbose"]'
        )
    if (settings.access == "iap") != bool(settings.iap_audience):
        reader.add("MCP_IAP_AUDIENCE: required for MCP_ACCESS=iap, and allowed only there")
    if "MCP_OAUTH_ISSUER" in reader.values or settings.access == "oauth":
        reader.add(
            "MCP_OAUTH_ISSUER: the bridge does not check OAuth tokens, so anybody could call;"
            " use access: iam or access: iap"
        )
    if settings.path == settings.health_path:
        reader.add(f"MCP_PATH: {settings.path} is the path of the health check; choose a different one")
    if reader.mistakes:
        raise SettingsError("\n".join(reader.mistakes))
    return settings


def _is_replaced(name: str, variables: Mapping[str, str]) -> bool:
    return name.startswith("MCP_") and fleet_variable(name) in variables


class _Reader:
    """Reads variables and collects the mistakes in them."""

    def __init__(self, values: Mapping[str, str], variables: Container[str]) -> None:
        self.values = values
        self._variables = variables
        self.mistakes: list[str] = []

    def read(self, name: str, parse: Callable[[str], Value], default: Value) -> Value:
        text = self.values.get(name)
        if text is None:
            return default
        try:
            return parse(text.strip())
        except ValueError as mistake:
            self.mistakes.append(f"{variable_read(name, self._variables)}: {mistake} (it is {text[:200]!r})")
            return default

    def add(self, mistake: str) -> None:
        self.mistakes.append(name_variables_read(mistake, self._variables))
