"""MCP servers on Google Cloud Run, for Pulumi programs in Python.

What a program imports is loaded when it is first named: checking a fleet needs no Pulumi.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pulumi_mcpfleet.components.fleet import Fleet

__all__ = ["Fleet"]

_MODULES: Final = {"Fleet": "components.fleet"}
"""The module of each public name."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
