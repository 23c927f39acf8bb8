"""The environment of a container, as every program of ours begins: all mistakes are told at once, and end it."""

import logging
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from mcpfleet_server import logs


class SettingsError(Exception):
    """The environment is not valid; the text has one line for each mistake, beginning with the variable."""


class _Settings(Protocol):
    @property
    def log_level(self) -> str: ...
    @property
    def project(self) -> str | None: ...


Settings = TypeVar("Settings", bound=_Settings)


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
