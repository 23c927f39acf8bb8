"""Validates a stack's outputs before their values become arguments of commands.

The author of an outputs file or a state chooses values that this package writes into clients' configuration files and
into commands that people copy. A valid value does not begin with `-`, has no special characters of shells or
terminals, and names one host.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, cast

from mcpfleet.errors import UsageError
from mcpfleet.inert import inert
from mcpfleet.target import Target

# The same patterns as in pulumi_mcpfleet.naming and pulumi_mcpfleet.fleet.values; a test compares them.
NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,24}[a-z0-9]")
SERVICE: Final = re.compile(r"[a-z]([a-z0-9-]{0,47}[a-z0-9])?")
REGION: Final = re.compile(r"[a-z]+(-[a-z]+)+[0-9]{1,2}")
PROJECT: Final = re.compile(r"([a-z0-9.-]{1,63}:)?[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
AUDIENCE: Final = re.compile(r"[!-+.-~][!-+\--~]{0,2047}")
MEMBER: Final = re.compile(r"[A-Za-z]+(:[!-~]{1,1024})?")
DOMAIN: Final = re.compile(r"(?=.{4,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
PATH: Final = re.compile(r"/[A-Za-z0-9._~/-]{0,255}")
ACCESS: Final = ("iam", "iap", "login", "oauth", "public")
REACHED: Final = ("proxy", "url", "network")
MAX_DEPTH: Final = 20

Problem = str | None
"""The problem of a value, to follow the value in a message; None for a valid value."""


def is_name(text: object) -> bool:
    """Return whether a value is a valid name of a server or client in a fleet."""
    return isinstance(text, str) and NAME.fullmatch(text) is not None


def check_url(value: object) -> Problem:
    """Check a service's URL: https, or http on this machine, with no query or fragment."""
    if not isinstance(value, str) or {"?", "#"} & set(value) or value != value.strip():
        return "is not a service's URL"
    try:
        Target.parse(value)
    except UsageError as error:
        return str(error).removeprefix(f"{value[:200]!r} ").rstrip(".")
    return None


def _matches(pattern: re.Pattern[str], problem: str) -> Callable[[object], Problem]:
    return lambda value: None if isinstance(value, str) and pattern.fullmatch(value) else problem


def _one_of(values: tuple[str, ...]) -> Callable[[object], Problem]:
    return lambda value: None if value in values else f"is not one of {', '.join(values)}"


def _list_of(check: Callable[[object], Problem]) -> Callable[[object], Problem]:
    def check_list(value: object) -> Problem:
        if not isinstance(value, list):
            return "is not a list"
        return next(
            (f"has {quote(item)}, which {problem}" for item in cast("list[object]", value) if (problem := check(item))),
            None,
        )

    return check_list


def _map_of(check: Callable[[object], Problem], key: Callable[[object], Problem]) -> Callable[[object], Problem]:
    def check_map(value: object) -> Problem:
        if not isinstance(value, dict):
            return "is not an object"
        for name, item in cast("dict[str, object]", value).items():
            if problem := key(name) or check(item):
                return f"has {quote(name)}: {quote(item)}, which {problem}"
        return None

    return check_map


def _check_client_config(value: object) -> Problem:
    entries = cast("dict[str, object]", value).get("mcpServers") if isinstance(value, dict) else None
    urls = _map_of(
        lambda entry: (
            check_url(cast("dict[str, object]", entry).get("url")) if isinstance(entry, dict) else "is not an entry"
        ),
        _NAMED,
    )
    return urls(entries)


_NAMED: Final = _matches(NAME, "is not a server's name")
_AUDIENCE: Final = _matches(
    AUDIENCE, "is not an audience: it has spaces, commas or control characters, or begins with -"
)
_MEMBER: Final = _matches(MEMBER, "is not an IAM member such as user:ada@acme.dev")
_REGION: Final = _matches(REGION, "is not a region")

_FIELDS: Final[Mapping[str, Callable[[object], Problem]]] = {
    "mcp_url": check_url,
    "service_url": check_url,
    "url": check_url,
    # A service without its default URL (`default_url: false`) has an empty one.
    "urls": _map_of(lambda url: None if url == "" else check_url(url), _REGION),
    "audience": _AUDIENCE,
    "program_audience": _AUDIENCE,
    "health_path": _matches(PATH, "is not a path of a URL"),
    "service": _matches(SERVICE, "is not a Cloud Run service's name"),
    "region": _REGION,
    "project": _matches(PROJECT, "is not a project's id"),
    "access": _one_of(ACCESS),
    "reached": _one_of(REACHED),
    "invokers": _list_of(_MEMBER),
    "calls": _list_of(_NAMED),
    "domain": _matches(DOMAIN, "is not a domain"),
    "client_config": _check_client_config,
    "proxy_port": lambda value: None if type(value) is int and 0 < value < 2**16 else "is not a port",
}
_MAY_BE_NULL: Final = frozenset(
    {"domain", "client_config", "health_path", "program_audience", "address", "proxy_command", "proxy_port", "invokers"}
)


def quote(value: object) -> str:
    """A value as a message quotes it."""
    return inert(repr(value), 80)


def find_mistakes(kind: str, services: Mapping[str, Any], required: tuple[str, ...]) -> Iterator[str]:
    """Find the mistakes in an output; each is one line that begins with its key.

    Args:
        kind: The output: `servers` or `clients`.
        services: Its services by name.
        required: The keys that each must have.
    """
    for name, output in services.items():
        if not is_name(name):
            yield f"{kind}: {quote(name)} is not a name: use 2 to 26 of a-z, 0-9 and -, a letter first, no - last"
            continue
        path = f"{kind}.{name}"
        if not isinstance(output, dict):
            yield f"{path}: is not an object"
            continue
        fields = cast("dict[str, object]", output)
        if missing := [key for key in required if not isinstance(fields.get(key), str)]:
            yield f"{path} has no {' and '.join(missing)}"
        for key, value in fields.items():
            check = _FIELDS.get(key)
            if value is None and key in _MAY_BE_NULL:
                continue
            if key in missing:
                continue
            if problem := (check(value) if check else None) or _check_characters(value):
                yield f"{path}.{inert(key)}: {quote(value)} {problem}"


def _check_characters(value: object, depth: int = 0) -> Problem:
    """Check any value, whatever its key, for characters that a terminal obeys."""
    if depth > MAX_DEPTH:
        return "is nested too deeply"
    if isinstance(value, str):
        return None if inert(value) == value else "has control characters or invisible characters"
    if isinstance(value, dict):
        parts: list[object] = [part for pair in cast("dict[object, object]", value).items() for part in pair]
    else:
        parts = cast("list[object]", value) if isinstance(value, list) else []
    return next((problem for part in parts if (problem := _check_characters(part, depth + 1))), None)
