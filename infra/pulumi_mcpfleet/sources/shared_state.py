"""Which state the callers of a server share, because one process answers them all, as far as names say so.

A stdio server was written for one user, whose process it is. Behind the bridge one process answers everybody: the next
caller goes on in the browser, the notes or the history of the one before.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from pulumi_mcpfleet.sources.build_plan import BuildPlanError
from pulumi_mcpfleet.sources.layout import Layout, table

FILE: Final = "a file"
"""How the words about state that processes share, too, begin."""

_BROWSER: Final = "a browser"
_HISTORY: Final = "a history"
_DATABASE: Final = f"{FILE} (a database)"
_MEMORY: Final = f"{FILE} (its memory)"

# Words in the name of a server's package.
_SERVERS: Final[Mapping[str, re.Pattern[str]]] = {
    _BROWSER: re.compile(r"playwright|puppeteer|selenium|patchright|stagehand|browser-?use|chrome-devtools"),
    _HISTORY: re.compile(r"sequential-?thinking"),
    _DATABASE: re.compile(r"sqlite|duckdb"),
    _MEMORY: re.compile(r"(?:^|[/_-])memory(?:$|[_-])"),
}

# What a repository depends on. Libraries whose names say less are left out: a hint that is wrong is not read again.
_LIBRARIES: Final[Mapping[str, frozenset[str]]] = {
    _BROWSER: frozenset(
        {"playwright", "playwright-core", "patchright", "puppeteer", "puppeteer-core", "selenium", "selenium-webdriver"}
    ),
    _DATABASE: frozenset({"better-sqlite3", "sqlite3", "aiosqlite", "duckdb", "tinydb"}),
}

_PYTHON_NAME: Final = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)", re.MULTILINE)


def shared_by_package(name: str) -> str:
    """What the callers of a package of npm or PyPI share; empty where its name does not say so."""
    return next((what for what, words in _SERVERS.items() if words.search(name.lower())), "")


def shared_by_source(layout: Layout) -> str:
    """What the callers of a repository share; empty where what it depends on does not say so."""
    try:
        names = {name.lower().replace("_", "-") for name in _dependencies(layout)}
    except BuildPlanError:  # whose Dockerfile is its own is built all the same
        return ""
    return next((what for what, libraries in _LIBRARIES.items() if libraries & names), "")


def way_out(shares: str, *, bridged: bool) -> str:
    """What is told of state that callers share, and how it is kept apart."""
    said = f"its callers share {shares}, because one process answers all of them"
    if shares.startswith(FILE):
        return f"{said}; if they may not see each other's data, deploy a server for each group of callers"
    if bridged:
        return f"{said}; with sessions: stateful, each session has a process of its own (2026-07-28 has none)"
    return f"{said}; if the server keeps it by session, write sessions: stateful"


def _dependencies(layout: Layout) -> Iterable[str]:
    yield from table(layout.json("package.json"), "dependencies")
    listed = table(layout.toml("pyproject.toml"), "project").get("dependencies")
    wanted = [
        layout.texts.get("requirements.txt", ""),
        *(cast("list[Any]", listed) if isinstance(listed, list) else []),
    ]
    for text in wanted:
        yield from _PYTHON_NAME.findall(str(text))
