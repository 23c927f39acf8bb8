"""The environment of a container: logging and settings at the start of each program, and the names of variables."""

import logging
import re
from collections.abc import Callable, Container, Mapping
from typing import Any, Final, Protocol, TypeVar

from mcpfleet_server import logs


class SettingsError(Exception):
    """The environment is not valid. The text has one line for each mistake, which begins with the variable."""


class _Settings(Protocol):
    @property
    def log_level(self) -> str: ...
    @property
    def project(self) -> str | None: ...


Settings = TypeVar("Settings", bound=_Settings)


FLEET_PREFIX: Final = "MCPFLEET_"
"""Prefix of the variables that a fleet sets. No other software gives them another meaning."""

_VARIABLE: Final = re.compile(r"\bMCP_[A-Z_]+")


def fleet_variable(name: str) -> str:
    """Return the fleet's name for the variable *name*: `MCPFLEET_PATH` for `MCP_PATH`."""
    return f"{FLEET_PREFIX}{name.removeprefix('MCP_')}"


def variable_read(name: str, variables: Container[str]) -> str:
    """Return the variable that the setting *name* is read from: `MCPFLEET_PATH` if *variables* has it, or `MCP_PATH`.

    Args:
        name: The usual name of the variable.
        variables: The variables that are set and not empty.
    """
    return fleet_variable(name) if name.startswith("MCP_") and fleet_variable(name) in variables else name


def name_variables_read(message: str, variables: Container[str]) -> str:
    """Replace each usual name of a variable in *message* by the name that was read; see `variable_read`."""
    return _VARIABLE.sub(lambda match: variable_read(match[0], variables), message)


def merge_fleet_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with the fleet's own ones under the usual names: `MCPFLEET_PATH` replaces `MCP_PATH`.

    Empty variables count as unset and are left out.
    """
    non_empty = {name: value for name, value in variables.items() if value}
    return non_empty | {
        f"MCP_{name.removeprefix(FLEET_PREFIX)}": value
        for name, value in non_empty.items()
        if name.startswith(FLEET_PREFIX)
    }


def initialize(
    load: Callable[[], Settings], logger_name: str, encode: Callable[[Any], str] = logs.to_json
) -> Settings | None:
    """Install logging and load the settings.

    Args:
        load: Reads the environment; raises SettingsError.
        logger_name: The logger for mistakes in the environment.
        encode: Encodes log entries, see `logs.install`.

    Returns:
        The settings, or None if they have mistakes. These have been logged, and the program must exit with code 2.
    """
    logs.install(encode=encode)
    try:
        settings = load()
    except SettingsError as error:
        for mistake in str(error).splitlines():
            logging.getLogger(logger_name).critical("%s", mistake)
        return None
    logs.install(settings.log_level, settings.project, encode=encode)
    return settings
