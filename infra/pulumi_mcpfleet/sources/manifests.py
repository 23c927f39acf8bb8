"""What a repository tells hosts and registries of how it starts: its smithery.yaml and its server.json.

Smithery's `commandFunction` is JavaScript, which is never run: only one that gives plain texts is read, as
`(config) => ({command: 'node', args: ['build/index.js'], env: {…}})` does. The format of the other is in `registered`.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final, Literal, cast

from pulumi_mcpfleet.sources.build_plan import BuildPlanError
from pulumi_mcpfleet.sources.layout import Layout, table, text
from pulumi_mcpfleet.sources.registered import values_of

SMITHERY: Final = "smithery.yaml"
REGISTRY: Final = "server.json"

_LONGEST: Final = 4096
_MOST: Final = 20
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
        name: What it is called there.
        transport: How it speaks MCP.
        args: The arguments that have a value.
    """

    kind: str
    name: str
    transport: str
    args: tuple[str, ...]


def transports(layout: Layout) -> dict[str, Literal["stdio", "http"]]:
    """By manifest, how it says that the server speaks; `http` also where it speaks stdio besides."""
    found: dict[str, Literal["stdio", "http"]] = {}
    kind = _start_command(layout).get("type")
    if kind in ("stdio", "http"):
        found[SMITHERY] = kind
    if kinds := {one.transport for one in packages(layout)} & {"stdio", "streamable-http", "sse"}:
        found[REGISTRY] = "stdio" if kinds == {"stdio"} else "http"
    return found


def smithery_command(layout: Layout, *, stdio: bool) -> tuple[str, ...]:
    """The command of smithery.yaml; empty where it is none of plain texts, or is for another transport.

    Raises:
        BuildPlanError: One of its words is none.
    """
    start = _start_command(layout)
    said = start.get("commandFunction")
    if (start.get("type", "stdio") == "stdio") != stdio or not isinstance(said, str) or len(said) > _LONGEST:
        return ()
    if not _FUNCTION.fullmatch(said):
        return ()
    plain = _ENVIRONMENT.sub("", said)
    programs, lists = _COMMAND.findall(plain), _ARGS.findall(plain)
    if len(programs) != 1 or len(lists) > 1:
        return ()
    words = [one[1:-1] for one in (*programs, *(re.findall(_TEXT, lists[0]) if lists else ()))]
    # A path of another image's is none of this one's.
    if any(PurePosixPath(word).is_absolute() or ".." in PurePosixPath(word).parts for word in words):
        return ()
    shown = tuple(text(word) or "" for word in words)
    return shown if all(shown) else ()


def packages(layout: Layout) -> list[RegistryPackage]:
    """The packages of server.json, as far as they say what they are; none of a file of that name which is another."""
    try:
        listed = layout.json(REGISTRY).get("packages")
        return [_package(table(one)) for one in cast("list[Any]", listed)[:_MOST]] if isinstance(listed, list) else []
    except BuildPlanError:
        return []


def _package(said: dict[str, Any]) -> RegistryPackage:
    kind, transport = text(said.get("registryType")), text(table(said, "transport").get("type"))
    args = tuple(values_of(said, "packageArguments"))
    return RegistryPackage(kind or "", text(said.get("identifier")) or "", transport or "", args)


def _start_command(layout: Layout) -> dict[str, Any]:
    try:
        return table(layout.yaml(SMITHERY), "startCommand")
    except BuildPlanError:
        return {}
