"""Reads how a repository starts from its manifests for hosts and registries: smithery.yaml and server.json.

Smithery's `commandFunction` is JavaScript, which is never run. It is read only if it returns literal texts, such as
`(config) => ({command: 'node', args: ['build/index.js'], env: {…}})`. For the format of server.json, see
`registry_entry`.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final, Literal, cast

from pulumi_mcpfleet.sources.build_plan import BuildPlanError
from pulumi_mcpfleet.sources.layout import Layout, table, text
from pulumi_mcpfleet.sources.registry_entry import argument_values

SMITHERY: Final = "smithery.yaml"
REGISTRY: Final = "server.json"

_MAX_LENGTH: Final = 4096
_MAX_PACKAGES: Final = 20
_TEXT: Final = r"""(?:'[^'\\\n]*+'|"[^"\\\n]*+")"""
_LIST: Final = rf"\[\s*+(?:{_TEXT}\s*+(?:,\s*+{_TEXT}\s*+)*+,?+\s*+)?+\]"
_MEMBER: Final = rf"(?:command\s*+:\s*+{_TEXT}|args\s*+:\s*+{_LIST}|env\s*+:\s*+\{{[^{{}}]*+\}})"
_FUNCTION: Final = re.compile(
    rf"\s*+(?:\([\w\s,{{}}]*+\)|\w++)\s*+=>\s*+\(\s*+\{{\s*+{_MEMBER}\s*+(?:,\s*+{_MEMBER}\s*+)*+,?+\s*+\}}\s*+\)\s*+;?+\s*+"
)
_ENVIRONMENT: Final = re.compile(r"\benv\s*+:\s*+\{[^{}]*+\}")
_COMMAND: Final = re.compile(rf"\bcommand\s*+:\s*+({_TEXT})")
_ARGS: Final = re.compile(rf"\bargs\s*+:\s*+({_LIST})")


@dataclass(frozen=True)
class RegistryPackage:
    """A package of a repository's own server.json.

    Attributes:
        kind: npm, pypi or another registry.
        name: Its name in that registry.
        transport: Its MCP transport.
        args: Its arguments that have a value.
    """

    kind: str
    name: str
    transport: str
    args: tuple[str, ...]


def find_transports(layout: Layout) -> dict[str, Literal["stdio", "http"]]:
    """Return the server's transport by manifest; `http` also if it speaks both."""
    transports: dict[str, Literal["stdio", "http"]] = {}
    kind = _read_start_command(layout).get("type")
    if kind in ("stdio", "http"):
        transports[SMITHERY] = kind
    if kinds := {package.transport for package in registry_packages(layout)} & {"stdio", "streamable-http", "sse"}:
        transports[REGISTRY] = "stdio" if kinds == {"stdio"} else "http"
    return transports


def smithery_command(layout: Layout, *, stdio: bool) -> tuple[str, ...]:
    """Return the command of smithery.yaml; empty if it is not of literal texts, or is for another transport.

    Raises:
        BuildPlanError: One of its words is not a valid text.
    """
    start = _read_start_command(layout)
    function = start.get("commandFunction")
    if (start.get("type", "stdio") == "stdio") != stdio or not isinstance(function, str) or len(function) > _MAX_LENGTH:
        return ()
    if not _FUNCTION.fullmatch(function):
        return ()
    without_env = _ENVIRONMENT.sub("", function)
    programs, lists = _COMMAND.findall(without_env), _ARGS.findall(without_env)
    if len(programs) != 1 or len(lists) > 1:
        return ()
    words = [literal[1:-1] for literal in (*programs, *(re.findall(_TEXT, lists[0]) if lists else ()))]
    # Such paths are those of Smithery's image.
    if any(PurePosixPath(word).is_absolute() or ".." in PurePosixPath(word).parts for word in words):
        return ()
    checked = tuple(text(word) or "" for word in words)
    return checked if all(checked) else ()


def registry_packages(layout: Layout) -> list[RegistryPackage]:
    """Return the packages of server.json; empty if the file is something else."""
    try:
        packages = layout.json(REGISTRY).get("packages")
        return (
            [_read_package(table(package)) for package in cast("list[Any]", packages)[:_MAX_PACKAGES]]
            if isinstance(packages, list)
            else []
        )
    except BuildPlanError:
        return []


def _read_package(package: dict[str, Any]) -> RegistryPackage:
    kind, transport = text(package.get("registryType")), text(table(package, "transport").get("type"))
    args = tuple(argument_values(package, "packageArguments"))
    return RegistryPackage(kind or "", text(package.get("identifier")) or "", transport or "", args)


def _read_start_command(layout: Layout) -> dict[str, Any]:
    try:
        return table(layout.yaml(SMITHERY), "startCommand")
    except BuildPlanError:
        return {}
