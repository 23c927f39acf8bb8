"""A server of an MCP registry: its server.json, looked up once and kept beside Pulumi.yaml, and the package in it.

What is read of it is data of a stranger's: names by their grammar, values as words of a list, nothing of it a command.
The format is that of https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote

from pulumi_mcpfleet.sources.build_plan import BuildPlanError, inert
from pulumi_mcpfleet.sources.inside import is_file_in, read_in
from pulumi_mcpfleet.sources.layout import table, text
from pulumi_mcpfleet.sources.lock import COMMAND, LOCKS
from pulumi_mcpfleet.sources.stdio import Stdio, npm_name, pypi_name

OFFICIAL: Final = "https://registry.modelcontextprotocol.io"
LARGEST: Final = 2**20
"""Bytes of the longest server.json."""

# Reverse DNS, a slash, a name (the schema's pattern of `name`); a version that is one, and no range.
NAME_AND_VERSION: Final = r"[A-Za-z0-9.-]{1,150}/[A-Za-z0-9._-]{1,50}@[0-9A-Za-z][0-9A-Za-z.+-]{0,100}"
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_INNER: Final = re.compile(r"\{([A-Za-z0-9_]+)\}")
_RUNNERS_OWN: Final = frozenset({"-y", "--yes"})
_MOST: Final = 200


@dataclass(frozen=True)
class Variable:
    """A variable that a server declares and that has no value of its own.

    Attributes:
        name: The variable.
        secret: Whether its value is one.
        description: What it is for.
    """

    name: str
    secret: bool
    description: str


@dataclass(frozen=True)
class Registered:
    """What a server.json comes to.

    Attributes:
        server: The package.
        asked: Variables that the user has to give.
        environment: Those that have a value.
    """

    server: Stdio
    asked: tuple[Variable, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Entry:
    """One version of a server in a registry.

    Attributes:
        registry: The registry's address.
        server: `NAME@VERSION`.
    """

    registry: str
    server: str

    @property
    def folder(self) -> str:
        """Where its server.json is kept, as seen from Pulumi.yaml."""
        digest = hashlib.sha256(f"{self.registry}\n{self.server}".encode()).hexdigest()[:8]
        return f"{LOCKS}/registry/{re.sub(r'[^A-Za-z0-9.+]+', '-', self.server).strip('.-')}-{digest}"

    @property
    def address(self) -> str:
        """Where the registry has it (its API, v0.1: the version of a server)."""
        name, _, version = self.server.rpartition("@")
        parts = f"v0.1/servers/{quote(name, safe='')}/versions/{quote(version, safe='')}"
        return f"{self.registry.rstrip('/')}/{parts}"

    def there(self, root: Path) -> bool:
        """Whether it has been looked up."""
        return is_file_in(root, f"{self.folder}/server.json")

    def keep(self, answer: bytes, root: Path) -> None:
        """Take over what the registry answered.

        Raises:
            BuildPlanError: It is not this server, or nothing that can be deployed.
        """
        said = _parsed(answer, self.address)
        server = table(said, "server") or said
        name, _, version = self.server.rpartition("@")
        if (server.get("name"), server.get("version")) != (name, version):
            raise BuildPlanError.of("", f"{self.address} answers with another server or version; correct the registry")
        status = table(said, "_meta", "io.modelcontextprotocol.registry/official").get("status")
        if status == "deleted":
            raise BuildPlanError.of("", f"{self.server} is deleted in the registry; take another version")
        registered(server, self.server, ())
        place = root / self.folder
        place.mkdir(parents=True, exist_ok=True)
        (place / "server.json").write_text(json.dumps(server, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def read(self, root: Path, args: Sequence[str] | None) -> Registered:
        """What was kept of it.

        Raises:
            BuildPlanError: It has not been looked up, or can't be deployed as it is.
        """
        if not self.there(root):
            sentence = f"{self.server} is not looked up yet; run `{COMMAND}` and commit what it writes"
            raise BuildPlanError.of("registry", sentence)
        content = read_in(root, f"{self.folder}/server.json", LARGEST)
        return registered(_parsed(content, f"{self.folder}/server.json"), self.server, args)


def _parsed(content: bytes, what: str) -> dict[str, Any]:
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or len(content) > LARGEST:
        raise BuildPlanError.of("registry", f"{inert(what)} is no server.json")
    return cast("dict[str, Any]", said)


def registered(said: Mapping[str, Any], server: str, args: Sequence[str] | None) -> Registered:
    """What a server.json comes to.

    Args:
        said: The file.
        server: `NAME@VERSION`.
        args: The user's own arguments; empty: those of the file that have values; None: the same, and refuse what the
            file leaves to the user.

    Raises:
        BuildPlanError: It has no package that speaks stdio and that can be deployed, or needs an argument.
    """
    package, kind = _package(said, server)
    identifier, version = text(package.get("identifier")) or "", text(package.get("version")) or ""
    try:
        if kind == "npm":
            npm_name(named := f"{identifier}@{version}")
        else:
            pypi_name(named := f"{identifier}=={version}")
    except ValueError as mistake:
        raise BuildPlanError.of("registry", f"{server} names a package that is none: {mistake}") from None
    extra = [one for one in values_of(package, "runtimeArguments", server, strict=False) if one not in _RUNNERS_OWN]
    if extra:
        sentence = f"{server} starts its package with {' '.join(extra)[:200]}, which only its runner knows; write"
        raise BuildPlanError.of("registry", f'{sentence} stdio: {{{kind}: "{named}"}}, with command and args')
    words = args or tuple(values_of(package, "packageArguments", server, strict=args is None))
    given, asked = _variables(package)
    of_npm = kind == "npm"
    server_of = Stdio(npm=named if of_npm else None, pypi=None if of_npm else named, args=tuple(words))
    return Registered(server_of, tuple(asked), given)


def _package(said: Mapping[str, Any], server: str) -> tuple[dict[str, Any], str]:
    listed = said.get("packages")
    packages = [table(one) for one in cast("list[Any]", listed)[:_MOST]] if isinstance(listed, list) else []
    for one in packages:
        if one.get("registryType") in ("npm", "pypi") and table(one, "transport").get("type") == "stdio":
            return one, str(one["registryType"])
    for one in packages:
        if one.get("registryType") == "oci" and (image := text(one.get("identifier"))):
            advice = "source: {image: …, port: …}, or source: {stdio: {image: …, command: […]}} where it speaks stdio"
            raise BuildPlanError.of("registry", f"{server} is the image {image[:200]}; write {advice}")
    kinds = sorted({f"{one.get('registryType')} over {table(one, 'transport').get('type')}" for one in packages})
    if not kinds:
        sentence = f"{server} has no package, so there is nothing to deploy: it is a service of somebody's"
        raise BuildPlanError.of("registry", f"{sentence}, which clients reach by its own address")
    sentence = f"{server} has {', '.join(kinds)[:200]}, and packages of npm and PyPI that speak stdio are deployed"
    raise BuildPlanError.of("registry", f"{sentence}; write another source")


def values_of(package: Mapping[str, Any], key: str, server: str = "", *, strict: bool = False) -> Iterator[str]:
    """The arguments of a package that have a value.

    Args:
        package: One of the packages of a server.json.
        key: Which arguments.
        server: What it is called.
        strict: Whether one that is required and left to the user is refused.

    Raises:
        BuildPlanError: There is such a one, or a text is none.
    """
    listed = package.get(key)
    for one in cast("list[Any]", listed)[:_MOST] if isinstance(listed, list) else []:
        argument = table(one)
        name, value = text(argument.get("name")), _value(argument)
        if value is None:
            needed = argument.get("isRequired") is True
            if needed and strict and (name is None or text(argument.get("valueHint"))):
                hint = name or text(argument.get("valueHint")) or "an argument"
                sentence = f"{server} needs {hint[:100]} ({_told(argument)}); write args with all of its arguments"
                raise BuildPlanError.of("args", sentence)
            if not needed or name is None:
                continue
        if name is not None:
            yield name
        if value is not None:
            yield value


def _variables(package: Mapping[str, Any]) -> tuple[dict[str, str], list[Variable]]:
    given: dict[str, str] = {}
    asked: list[Variable] = []
    listed = package.get("environmentVariables")
    for one in cast("list[Any]", listed)[:_MOST] if isinstance(listed, list) else []:
        variable = table(one)
        name = text(variable.get("name")) or ""
        if not _VARIABLE.fullmatch(name) or name == "PORT" or name.startswith(("K_", "MCP_STDIO_")):
            continue
        value = _value(variable)
        if value is not None and variable.get("isSecret") is not True:
            given[name] = value
        elif variable.get("isRequired") is True:
            asked.append(Variable(name, variable.get("isSecret") is True, _told(variable)))
    return given, asked


def _value(said: Mapping[str, Any]) -> str | None:
    """The value of an argument or a variable, in which others stand as `{NAME}`; None where one of these has none."""
    value = text(said.get("value")) or text(said.get("default"))
    if value is None:
        return None
    inner = table(said, "variables")
    found = {name: text(table(inner, name).get("value")) or text(table(inner, name).get("default")) for name in inner}
    if any(found.get(name) is None for name in _INNER.findall(value) if name in found):
        return None
    return _INNER.sub(lambda match: found.get(match[1]) or match[0], value)


def _told(said: Mapping[str, Any]) -> str:
    return inert(str(said.get("description") or "no description"))[:200]
