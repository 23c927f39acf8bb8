"""The grammar of a stack's outputs: a word that does not fit becomes no argument of a command.

Whoever writes an outputs file, or a state, chooses words that this package puts into clients' configuration files and
into commands that people copy. A word that fits here never begins with a `-`, holds no character that a shell or a
terminal obeys, and names one host.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, cast

from mcpfleet.errors import UsageError
from mcpfleet.inert import inert
from mcpfleet.target import Target

# As the fleet writes them (pulumi_mcpfleet.naming, pulumi_mcpfleet.fleet.values); a test holds the two together.
NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,24}[a-z0-9]")
SERVICE: Final = re.compile(r"[a-z]([a-z0-9-]{0,47}[a-z0-9])?")
REGION: Final = re.compile(r"[a-z]+(-[a-z]+)+[0-9]{1,2}")
PROJECT: Final = re.compile(r"([a-z0-9.-]{1,63}:)?[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
AUDIENCE: Final = re.compile(r"[!-+.-~][!-+\--~]{0,2047}")
MEMBER: Final = re.compile(r"[A-Za-z]+(:[!-~]{1,1024})?")
DOMAIN: Final = re.compile(r"(?=.{4,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
PATH: Final = re.compile(r"/[A-Za-z0-9._~/-]{0,255}")
ACCESS: Final = ("iam", "iap", "oauth", "public")
REACHED: Final = ("proxy", "url", "network")
DEPTH: Final = 20

Wrong = str | None
"""What is wrong with a word, to stand behind it; None where nothing is."""


def is_name(text: object) -> bool:
    """Whether it can be a server's or a client's name in a fleet."""
    return isinstance(text, str) and NAME.fullmatch(text) is not None


def wrong_url(value: object) -> Wrong:
    """A URL of a service: https, or http on this machine; a path and no more."""
    if not isinstance(value, str) or {"?", "#"} & set(value) or value != value.strip():
        return "is not a service's URL"
    try:
        Target.parse(value)
    except UsageError as error:
        return str(error).removeprefix(f"{value[:200]!r} ").rstrip(".")
    return None


def _matching(pattern: re.Pattern[str], problem: str) -> Callable[[object], Wrong]:
    return lambda value: None if isinstance(value, str) and pattern.fullmatch(value) else problem


def _one_of(words: tuple[str, ...]) -> Callable[[object], Wrong]:
    return lambda value: None if value in words else f"is none of {', '.join(words)}"


def _list_of(check: Callable[[object], Wrong]) -> Callable[[object], Wrong]:
    def wrong(value: object) -> Wrong:
        if not isinstance(value, list):
            return "is not a list"
        return next(
            (f"has {shown(one)}, which {why}" for one in cast("list[object]", value) if (why := check(one))), None
        )

    return wrong


def _map_of(check: Callable[[object], Wrong], key: Callable[[object], Wrong]) -> Callable[[object], Wrong]:
    def wrong(value: object) -> Wrong:
        if not isinstance(value, dict):
            return "is not an object"
        for name, one in cast("dict[str, object]", value).items():
            if why := key(name) or check(one):
                return f"has {shown(name)}: {shown(one)}, which {why}"
        return None

    return wrong


def _wrong_config(value: object) -> Wrong:
    entries = cast("dict[str, object]", value).get("mcpServers") if isinstance(value, dict) else None
    urls = _map_of(
        lambda one: wrong_url(cast("dict[str, object]", one).get("url")) if isinstance(one, dict) else "is no entry",
        _NAMED,
    )
    return urls(entries)


_NAMED: Final = _matching(NAME, "is not a server's name")
_AUDIENCE: Final = _matching(AUDIENCE, "is not an audience: it has spaces, commas or controls, or begins with -")
_MEMBER: Final = _matching(MEMBER, "is not a member as IAM writes it, such as user:ada@acme.dev")
_REGION: Final = _matching(REGION, "is not a region")

_FIELDS: Final[Mapping[str, Callable[[object], Wrong]]] = {
    "mcp_url": wrong_url,
    "service_url": wrong_url,
    "url": wrong_url,
    "urls": _map_of(wrong_url, _REGION),
    "audience": _AUDIENCE,
    "program_audience": _AUDIENCE,
    "health_path": _matching(PATH, "is not a path of a URL"),
    "service": _matching(SERVICE, "is not a Cloud Run service's name"),
    "region": _REGION,
    "project": _matching(PROJECT, "is not a project's id"),
    "access": _one_of(ACCESS),
    "reached": _one_of(REACHED),
    "invokers": _list_of(_MEMBER),
    "calls": _list_of(_NAMED),
    "domain": _matching(DOMAIN, "is not a domain"),
    "client_config": _wrong_config,
    "proxy_port": lambda value: None if type(value) is int and 0 < value < 2**16 else "is not a port",
}
_MAY_BE_NULL: Final = frozenset(
    {"domain", "client_config", "health_path", "program_audience", "address", "proxy_command", "proxy_port", "invokers"}
)


def shown(value: object) -> str:
    """A value as a message quotes it."""
    return inert(repr(value), 80)


def mistakes(kind: str, listed: Mapping[str, Any], required: tuple[str, ...]) -> Iterator[str]:
    """What is wrong with an output, each mistake in a line that begins with its key.

    Args:
        kind: The output: `servers` or `clients`.
        listed: Its services by name.
        required: The keys that each must have.
    """
    for name, one in listed.items():
        if not is_name(name):
            yield f"{kind}: {shown(name)} is not a name of 2 to 26 of a-z, 0-9 and -, a letter first, no - last"
            continue
        place = f"{kind}.{name}"
        if not isinstance(one, dict):
            yield f"{place}: is not an object"
            continue
        fields = cast("dict[str, object]", one)
        if missing := [key for key in required if not isinstance(fields.get(key), str)]:
            yield f"{place} has no {' and '.join(missing)}"
        for key, value in fields.items():
            check = _FIELDS.get(key)
            if value is None and key in _MAY_BE_NULL:
                continue
            if key in missing:
                continue
            if why := (check(value) if check else None) or _unsafe(value):
                yield f"{place}.{inert(key)}: {shown(value)} {why}"


def _unsafe(value: object, depth: int = 0) -> Wrong:
    """What no value holds, whatever its key: a character that a terminal or a line obeys."""
    if depth > DEPTH:
        return "is nested too deeply"
    if isinstance(value, str):
        return None if inert(value) == value else "has control characters, or ones that are not seen"
    if isinstance(value, dict):
        parts: list[object] = [part for pair in cast("dict[object, object]", value).items() for part in pair]
    else:
        parts = cast("list[object]", value) if isinstance(value, list) else []
    return next((why for one in parts if (why := _unsafe(one, depth + 1))), None)
