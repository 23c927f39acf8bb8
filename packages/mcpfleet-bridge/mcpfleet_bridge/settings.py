"""The environment of the container, read once and checked: the only module that reads it.

`PORT` and `K_SERVICE` come from Cloud Run's container contract, `FORWARDED_ALLOW_IPS` and `MCPFLEET_*` from the fleet,
where each stands for the `MCP_*` of the same end and wins, `MCP_STDIO_*` from the image and the user. An empty variable
counts as unset.

No pydantic here: it would double the bridge's memory and its start.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeVar, cast

import msgspec

from mcpfleet_server.allowlist import HostPattern, OriginPattern
from mcpfleet_server.caller import ACCESS_MODES, AccessMode
from mcpfleet_server.environment import SettingsError, fleet_variable, merge_fleet_variables

Value = TypeVar("Value")

_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_TRANSPORTS = ("streamable-http", "sse")

_OURS: Final = re.compile(
    r"MCP_STDIO_\w+|MCPFLEET_\w+|FORWARDED_ALLOW_IPS|PORT"
    r"|MCP_(PATH|HEALTH_PATH|ALLOWED_HOSTS|ALLOWED_ORIGINS|BASE_URL|AUDIENCE|ACCESS|IAP_AUDIENCE|TRANSPORTS|STATELESS|LOG_LEVEL|OAUTH_\w+)"
    r"|FASTMCP_(TRANSPORT|HOST|PORT|STREAMABLE_HTTP_PATH|STATELESS_HTTP|HTTP_\w+|SHOW_SERVER_BANNER|CHECK_FOR_UPDATES)"
)
"""What is said to a server that listens. A stdio server is not to open a port because of it."""

MEBIBYTE: Final = 2**20


def _number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) is None or not low <= int(text) <= high:
            raise ValueError(f"give a whole number from {low} to {high}")
        return int(text)

    return parse


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise ValueError("give true or false")


def _one_of(words: tuple[str, ...], fold: Callable[[str], str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if fold(text) not in words:
            raise ValueError(f"give one of {', '.join(words)}")
        return fold(text)

    return parse


def _access(text: str) -> AccessMode:
    for access in ACCESS_MODES:
        if text == access:
            return access
    raise ValueError(f"give one of {', '.join(ACCESS_MODES)}")


def _each(parse: Callable[[str], Value]) -> Callable[[str], tuple[Value, ...]]:
    return lambda text: tuple(parse(entry.strip()) for entry in text.split(",") if entry.strip())


def _path(text: str) -> str:
    text = text.removesuffix("/") or text  # the endpoint is served with the slash and without
    if _PATH.fullmatch(text) is None:
        raise ValueError("give a path such as /mcp: a leading slash, plain words, no slash at the end")
    return text


def _strings(text: str) -> tuple[str, ...]:
    try:
        values = msgspec.json.decode(text.encode(), type=list[Any])
    except (msgspec.MsgspecError, UnicodeError):
        raise ValueError('give a JSON list of texts: ["--verbose"]') from None
    if not all(isinstance(value, str) and "\0" not in value for value in values):
        raise ValueError('give a JSON list of texts: ["--verbose"]')
    return tuple(cast("list[str]", values))


def _command(text: str) -> tuple[str, ...]:
    words = _strings(text)
    if not words or not words[0]:
        raise ValueError('give the program and its arguments as a JSON list: ["mcp-server-time"]')
    return words


_transports: Final = _each(_one_of(_TRANSPORTS, str.lower))


def _variable(name: str, parse: Callable[[str], Any], default: Value) -> Value:
    """A setting that stands in the variable *name*."""
    return field(default=default, metadata={"name": name, "parse": parse})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the environment says."""

    command: tuple[str, ...]
    """`MCP_STDIO_COMMAND` and `MCP_STDIO_ARGS`, JSON lists: the stdio server and its arguments."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """The server's own environment: all of ours but what is said to the bridge. Holds secrets; never shown."""
    directory: str | None = _variable("MCP_STDIO_CWD", str, None)
    """`MCP_STDIO_CWD`: the folder the server is started in."""

    port: int = _variable("PORT", _number(1, 65535), 8080)
    path: str = _variable("MCP_PATH", _path, "/mcp")
    """`MCP_PATH`: path of the MCP endpoint."""
    health_path: str = _variable("MCP_HEALTH_PATH", _path, "/health")
    """`MCP_HEALTH_PATH`: 200 while calls can be served, 503 while no server can be started."""
    allowed_hosts: tuple[HostPattern, ...] = _variable("MCP_ALLOWED_HOSTS", _each(HostPattern.parse), ())
    allowed_origins: tuple[OriginPattern, ...] = _variable("MCP_ALLOWED_ORIGINS", _each(OriginPattern.parse), ())
    access: AccessMode | None = _variable("MCP_ACCESS", _access, None)  # noqa: RUF009  # makes a field
    """`MCP_ACCESS`: who has checked the caller (`caller.py`); None believes nobody, as `public` does."""
    iap_audience: tuple[str, ...] = _variable("MCP_IAP_AUDIENCE", _each(str), ())
    """`MCP_IAP_AUDIENCE`: what Identity-Aware Proxy's assertions for this service are made for."""
    forwarded_allow_ips: str = _variable("FORWARDED_ALLOW_IPS", str, "127.0.0.1")
    service: str | None = _variable("K_SERVICE", str, None)
    project: str | None = _variable("GOOGLE_CLOUD_PROJECT", str, None)
    log_level: str = _variable("MCP_LOG_LEVEL", _one_of(_LEVELS, str.upper), "INFO")

    sse: bool = _variable("MCP_TRANSPORTS", lambda text: "sse" in _transports(text), False)
    """`MCP_TRANSPORTS` holds `sse`: also serve the HTTP+SSE transport of 2024-11-05 at /sse."""
    stateless: bool = _variable("MCP_STATELESS", _boolean, True)
    """`MCP_STATELESS`: whether clients of the handshake era share the pool, or have a session each."""

    pool: int = _variable("MCP_STDIO_POOL", _number(1, 64), 1)
    """`MCP_STDIO_POOL`: processes that all stateless clients share."""
    warm: bool = _variable("MCP_STDIO_WARM", _boolean, True)
    """`MCP_STDIO_WARM`: start them at once, and not with the first call."""
    concurrency: int = _variable("MCP_STDIO_CONCURRENCY", _number(1, 1000), 32)
    """`MCP_STDIO_CONCURRENCY`: calls at once in one shared process."""
    exclusive: int = _variable("MCP_STDIO_EXCLUSIVE", _number(0, 64), 4)
    """`MCP_STDIO_EXCLUSIVE`: most processes for calls in which the server may ask the client something."""
    sessions: int = _variable("MCP_STDIO_SESSIONS", _number(1, 1000), 20)
    """`MCP_STDIO_SESSIONS`: most sessions, each a process, when not stateless."""
    session_idle: float = _variable("MCP_STDIO_SESSION_IDLE", _number(1, 86_400), 1800.0)
    """`MCP_STDIO_SESSION_IDLE`: seconds after which an unused session ends, and an idle exclusive process."""
    queue: int = _variable("MCP_STDIO_QUEUE", _number(0, 10_000), 128)
    """`MCP_STDIO_QUEUE`: calls that may wait for a process; more are refused with 503."""
    queue_seconds: float = _variable("MCP_STDIO_QUEUE_SECONDS", _number(1, 3600), 30.0)
    """`MCP_STDIO_QUEUE_SECONDS`: how long they may."""
    call_seconds: float = _variable("MCP_STDIO_CALL_SECONDS", _number(1, 3600), 300.0)
    """`MCP_STDIO_CALL_SECONDS`: how long a call may take; then it is cancelled."""
    start_seconds: float = _variable("MCP_STDIO_START_SECONDS", _number(1, 600), 60.0)
    """`MCP_STDIO_START_SECONDS`: how long the server may take to answer `initialize`."""
    max_request: int = _variable("MCP_STDIO_MAX_REQUEST", _number(1024, 32 * MEBIBYTE), 4 * MEBIBYTE)
    """`MCP_STDIO_MAX_REQUEST`: bytes of the largest message from a client."""
    max_answer: int = _variable("MCP_STDIO_MAX_ANSWER", _number(1024, 512 * MEBIBYTE), 16 * MEBIBYTE)
    """`MCP_STDIO_MAX_ANSWER`: bytes of the largest message from the server."""
    memory: int = _variable("MCP_STDIO_MEMORY", _number(0, 32 * 1024), 0)
    """`MCP_STDIO_MEMORY`: MiB of data that one process may have (RLIMIT_DATA); 0: as much as there is."""
    open_files: int = _variable("MCP_STDIO_OPEN_FILES", _number(16, 1_048_576), 1024)
    """`MCP_STDIO_OPEN_FILES`: files that one process may have open (RLIMIT_NOFILE)."""


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Read the environment of the process, or *environment* instead of it.

    Raises:
        SettingsError: With every mistake, each under the name of its variable.
    """
    said = {key: value for key, value in (environment or os.environ).items() if value}
    reader = _Reader(merge_fleet_variables(said))
    given: dict[str, Any] = {
        one.name: reader.read(one.metadata["name"], one.metadata["parse"], one.default)
        for one in fields(Settings)
        if one.metadata
    }
    settings = Settings(
        command=(*reader.read("MCP_STDIO_COMMAND", _command, ()), *reader.read("MCP_STDIO_ARGS", _strings, ())),
        # Where the fleet has said it under its own name, the other one is the user's, for the server.
        environment={key: value for key, value in said.items() if not _OURS.fullmatch(key) or _is_replaced(key, said)},
        **given,
    )
    if not settings.command and not reader.mistakes:
        reader.mistakes.append(
            "MCP_STDIO_COMMAND: missing; say how the stdio server is started, as a JSON list:"
            ' ["mcp-server-time", "--verbose"]'
        )
    if (settings.access == "iap") != bool(settings.iap_audience):
        reader.mistakes.append("MCP_IAP_AUDIENCE: needed for MCP_ACCESS=iap, and for it alone")
    if "MCP_OAUTH_ISSUER" in reader.values or settings.access == "oauth":
        reader.mistakes.append(
            "MCP_OAUTH_ISSUER: the bridge checks no OAuth tokens, and behind this access nobody else does:"
            " everybody could call; let Cloud Run check callers (access: iam or iap)"
        )
    if settings.path == settings.health_path:
        reader.mistakes.append(f"MCP_PATH: {settings.path} is the health check's path already; choose another")
    if reader.mistakes:
        raise SettingsError("\n".join(reader.mistakes))
    return settings


def _is_replaced(name: str, said: Mapping[str, str]) -> bool:
    return name.startswith("MCP_") and fleet_variable(name) in said


class _Reader:
    """Reads variables one by one and collects what is wrong with them."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values
        self.mistakes: list[str] = []

    def read(self, name: str, parse: Callable[[str], Value], default: Value) -> Value:
        text = self.values.get(name)
        if text is None:
            return default
        try:
            return parse(text.strip())
        except ValueError as mistake:
            self.mistakes.append(f"{name}: {mistake} (it is {text[:200]!r})")
            return default
