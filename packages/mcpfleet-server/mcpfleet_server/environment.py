"""The environment of a container, as every program of ours begins: all mistakes are told at once, and end it."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, TypeVar

from mcpfleet_server import logs


class SettingsError(Exception):
    """The environment is not valid; the text has one line for each mistake, beginning with the variable."""


class _Settings(Protocol):
    @property
    def log_level(self) -> str: ...
    @property
    def project(self) -> str | None: ...


Settings = TypeVar("Settings", bound=_Settings)


OWN: Final = "MCPFLEET_"
"""What the names begin with under which a fleet says what it decides: no other server reads them otherwise."""


def of_fleet(name: str) -> str:
    """The name under which a fleet says what *name* (`MCP_PATH`) means."""
    return f"{OWN}{name.removeprefix('MCP_')}"


def with_fleet(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables, with what a fleet says read as the setting that it is: `MCPFLEET_PATH` is `MCP_PATH`, and wins.

    Empty variables are left out: they count as unset.
    """
    said = {name: value for name, value in variables.items() if value}
    return said | {f"MCP_{name.removeprefix(OWN)}": value for name, value in said.items() if name.startswith(OWN)}


def begin(load: Callable[[], Settings], name: str, encode: Callable[[Any], str] = logs.to_json) -> Settings | None:
    """What *load* reads, once logs are as it says; None: its mistakes were logged, and the program is to end with 2.

    Args:
        load: Reads the environment, and raises SettingsError.
        name: The logger of the mistakes.
        encode: Writes log entries, see `logs.install`.
    """
    logs.install(encode=encode)
    try:
        settings = load()
    except SettingsError as error:
        for mistake in str(error).splitlines():
            logging.getLogger(name).critical("%s", mistake)
        return None
    logs.install(settings.log_level, settings.project, encode=encode)
    return settings
