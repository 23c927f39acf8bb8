"""Finds the state that all callers of a server share because one process answers them, as far as names show it.

A stdio server was written for one user, who starts it. Behind the bridge one process answers all callers: the next
caller continues in the previous caller's browser, notes or history.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from pulumi_mcpfleet.sources.build_plan import BuildPlanError
from pulumi_mcpfleet.sources.layout import Layout, table

FILE_STATE: Final = "a file"
"""The beginning of descriptions of state that separate processes share, too."""

_BROWSER: Final = "a browser"
_HISTORY: Final = "a history"
_DATABASE: Final = f"{FILE_STATE} (a database)"
_MEMORY: Final = f"{FILE_STATE} (its memory)"

# Words in the name of a server's package.
_SERVERS: Final[Mapping[str, re.Pattern[str]]] = {
    _BROWSER: re.compile(r"playwright|puppeteer|selenium|patchright|stagehand|browser-?use|chrome-devtools"),
    _HISTORY: re.compile(r"sequential-?thinking"),
    _DATABASE: re.compile(r"sqlite|duckdb"),
    _MEMORY: re.compile(r"(?:^|[/_-])memory(?:$|[_-])"),
}

# Dependencies of a repository. Ambiguous libraries are left out, because users stop reading wrong hints.
_LIBRARIES: Final[Mapping[str, frozenset[str]]] = {
    _BROWSER: frozenset(
        {"playwright", "playwright-core", "patchright", "puppeteer", "puppeteer-core", "selenium", "selenium-webdriver"}
    ),
    _DATABASE: frozenset({"better-sqlite3", "sqlite3", "aiosqlite", "duckdb", "tinydb"}),
}

_PYTHON_NAME: Final = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)", re.MULTILINE)


def find_package_state(name: str) -> str:
    """Return the state that the callers of a package of npm or PyPI share; empty if its name doesn't show it."""
    return next((state for state, words in _SERVERS.items() if words.search(name.lower())), "")


def find_source_state(layout: Layout) -> str:
    """Return the state that the callers of a repository share; empty if its dependencies don't show it."""
    try:
        names = {name.lower().replace("_", "-") for name in _dependencies(layout)}
    except BuildPlanError:  # a source with its own Dockerfile is built all the same
        return ""
    return next((state for state, libraries in _LIBRARIES.items() if libraries & names), "")


def separation_advice(state: str, *, bridged: bool) -> str:
    """Return the message about state that callers share, with the way to separate it."""
    start = f"its callers share {state}, because one process answers all of them"
    if state.startswith(FILE_STATE):
        return f"{start}; if they may not see each other's data, deploy a server for each group of callers"
    if bridged:
        return f"{start}; with sessions: stateful, each session has a process of its own (2026-07-28 has none)"
    return f"{start}; if the server keeps it by session, write sessions: stateful"


def _dependencies(layout: Layout) -> Iterable[str]:
    yield from table(layout.json("package.json"), "dependencies")
    project_dependencies = table(layout.toml("pyproject.toml"), "project").get("dependencies")
    requirement_texts = [
        layout.texts.get("requirements.txt", ""),
        *(cast("list[Any]", project_dependencies) if isinstance(project_dependencies, list) else []),
    ]
    for text in requirement_texts:
        yield from _PYTHON_NAME.findall(str(text))
