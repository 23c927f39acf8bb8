"""A server of an MCP registry: its server.json, which is looked up once and saved beside Pulumi.yaml, and its package.

The file is untrusted: names must match their grammar, values become words of a list, and nothing is run as a command.
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
from pulumi_mcpfleet.sources.layout import table, text
from pulumi_mcpfleet.sources.lock import COMMAND, LOCKS
from pulumi_mcpfleet.sources.safe_paths import is_file_in, read_file_in
from pulumi_mcpfleet.sources.stdio import StdioSpec, npm_name, pypi_name

OFFICIAL: Final = "https://registry.modelcontextprotocol.io"
MAX_SERVER_JSON_BYTES: Final = 2**20
"""The maximum size of a server.json."""

# Reverse DNS, a slash, a name (the schema's pattern of `name`); a version, not a range.
NAME_AND_VERSION: Final = r"[A-Za-z0-9.-]{1,150}/[A-Za-z0-9._-]{1,50}@[0-9A-Za-z][0-9A-Za-z.+-]{0,100}"
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_INNER: Final = re.compile(r"\{([A-Za-z0-9_]+)\}")
_IGNORED_ARGUMENTS: Final = frozenset({"-y", "--yes"})
_MAX_ITEMS: Final = 200


@dataclass(frozen=True)
class Variable:
    """An environment variable that a server requires and that has no default.

    Attributes:
        name: The variable's name.
        secret: Whether its value is secret.
        description: Its description.
    """

    name: str
    secret: bool
    description: str


@dataclass(frozen=True)
class RegistryServer:
    """The contents of a server.json that a deployment needs.

    Attributes:
        server: The package.
        required_variables: Variables that the user must set.
        environment: Variables that have a value.
    """

    server: StdioSpec
    required_variables: tuple[Variable, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class RegistryEntry:
    """One version of a server in a registry.

    Attributes:
        registry: The registry's address.
        server: `NAME@VERSION`.
    """

    registry: str
    server: str

    @property
    def folder(self) -> str:
        """The folder of its saved server.json, relative to the folder of Pulumi.yaml."""
        digest = hashlib.sha256(f"{self.registry}\n{self.server}".encode()).hexdigest()[:8]
        return f"{LOCKS}/registry/{re.sub(r'[^A-Za-z0-9.+]+', '-', self.server).strip('.-')}-{digest}"

    @property
    def address(self) -> str:
        """The URL of the version in the registry's API (v0.1)."""
        name, _, version = self.server.rpartition("@")
        parts = f"v0.1/servers/{quote(name, safe='')}/versions/{quote(version, safe='')}"
        return f"{self.registry.rstrip('/')}/{parts}"

    def exists(self, root: Path) -> bool:
        """Whether it has been looked up and saved."""
        return is_file_in(root, f"{self.folder}/server.json")

    def save(self, content: bytes, root: Path) -> None:
        """Save the registry's response.

        Raises:
            BuildPlanError: It is another server or version, or can't be deployed.
        """
        document = _parse(content, self.address)
        server = table(document, "server") or document
        name, _, version = self.server.rpartition("@")
        if (server.get("name"), server.get("version")) != (name, version):
            raise BuildPlanError.of("", f"{self.address} answers with another server or version; correct the registry")
        status = table(document, "_meta", "io.modelcontextprotocol.registry/official").get("status")
        if status == "deleted":
            raise BuildPlanError.of("", f"{self.server} is deleted in the registry; take another version")
        read_server_json(server, self.server, ())
        folder = root / self.folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "server.json").write_text(json.dumps(server, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def read(self, root: Path, args: Sequence[str] | None) -> RegistryServer:
        """Read the saved server.json.

        Raises:
            BuildPlanError: It has not been looked up, or can't be deployed.
        """
        if not self.exists(root):
            message = f"{self.server} has not been looked up; run `{COMMAND}` and commit the files that it writes"
            raise BuildPlanError.of("registry", message)
        content = read_file_in(root, f"{self.folder}/server.json", MAX_SERVER_JSON_BYTES)
        return read_server_json(_parse(content, f"{self.folder}/server.json"), self.server, args)


def _parse(content: bytes, source: str) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or len(content) > MAX_SERVER_JSON_BYTES:
        raise BuildPlanError.of("registry", f"{inert(source)} is not a valid server.json")
    return cast("dict[str, Any]", document)


def read_server_json(document: Mapping[str, Any], server: str, args: Sequence[str] | None) -> RegistryServer:
    """The contents of a server.json that a deployment needs.

    Args:
        document: The parsed file.
        server: `NAME@VERSION`.
        args: The user's arguments; if empty, those of the file that have values; None for the same, but a required
            argument without a value is refused.

    Raises:
        BuildPlanError: It has no package that speaks stdio and can be deployed, or requires an argument.
    """
    package, kind = _choose_package(document, server)
    identifier, version = text(package.get("identifier")) or "", text(package.get("version")) or ""
    try:
        if kind == "npm":
            npm_name(pinned_package := f"{identifier}@{version}")
        else:
            pypi_name(pinned_package := f"{identifier}=={version}")
    except ValueError as mistake:
        raise BuildPlanError.of("registry", f"{server} names an invalid package: {mistake}") from None
    runner_arguments = [
        argument
        for argument in argument_values(package, "runtimeArguments", server, strict=False)
        if argument not in _IGNORED_ARGUMENTS
    ]
    if runner_arguments:
        message = (
            f"{server} starts its package with {' '.join(runner_arguments)[:200]}, which only its runner"
            f" supports; write"
        )
        raise BuildPlanError.of("registry", f'{message} stdio: {{{kind}: "{pinned_package}"}}, with command and args')
    arguments = args or tuple(argument_values(package, "packageArguments", server, strict=args is None))
    values, required = _read_variables(package)
    is_npm = kind == "npm"
    spec = StdioSpec(
        npm=pinned_package if is_npm else None, pypi=None if is_npm else pinned_package, args=tuple(arguments)
    )
    return RegistryServer(spec, tuple(required), values)


def _choose_package(document: Mapping[str, Any], server: str) -> tuple[dict[str, Any], str]:
    listed = document.get("packages")
    packages = (
        [table(package) for package in cast("list[Any]", listed)[:_MAX_ITEMS]] if isinstance(listed, list) else []
    )
    for package in packages:
        if package.get("registryType") in ("npm", "pypi") and table(package, "transport").get("type") == "stdio":
            return package, str(package["registryType"])
    for package in packages:
        if package.get("registryType") == "oci" and (image := text(package.get("identifier"))):
            advice = "source: {image: …, port: …}, or source: {stdio: {image: …, command: […]}} where it speaks stdio"
            raise BuildPlanError.of("registry", f"{server} is the image {image[:200]}; write {advice}")
    kinds = sorted(
        {f"{package.get('registryType')} over {table(package, 'transport').get('type')}" for package in packages}
    )
    if not kinds:
        message = f"{server} has no package, so it can't be deployed: it is a remote service"
        raise BuildPlanError.of("registry", f"{message}, which clients call directly")
    message = f"{server} has {', '.join(kinds)[:200]}, and packages of npm and PyPI that speak stdio are deployed"
    raise BuildPlanError.of("registry", f"{message}; write another source")


def argument_values(package: Mapping[str, Any], key: str, server: str = "", *, strict: bool = False) -> Iterator[str]:
    """Yield the arguments of a package that have a value.

    Args:
        package: A package of a server.json.
        key: The key of the arguments.
        server: The server's name, for messages.
        strict: Whether to refuse a required argument without a value.

    Raises:
        BuildPlanError: A required argument has no value, or a text is invalid.
    """
    listed = package.get(key)
    for entry in cast("list[Any]", listed)[:_MAX_ITEMS] if isinstance(listed, list) else []:
        argument = table(entry)
        name, value = text(argument.get("name")), _find_value(argument)
        if value is None:
            is_required = argument.get("isRequired") is True
            if is_required and strict and (name is None or text(argument.get("valueHint"))):
                hint = name or text(argument.get("valueHint")) or "an argument"
                message = (
                    f"{server} needs {hint[:100]} ({_description(argument)}); write args with all of its arguments"
                )
                raise BuildPlanError.of("args", message)
            if not is_required or name is None:
                continue
        if name is not None:
            yield name
        if value is not None:
            yield value


def _read_variables(package: Mapping[str, Any]) -> tuple[dict[str, str], list[Variable]]:
    values: dict[str, str] = {}
    required: list[Variable] = []
    listed = package.get("environmentVariables")
    for entry in cast("list[Any]", listed)[:_MAX_ITEMS] if isinstance(listed, list) else []:
        variable = table(entry)
        name = text(variable.get("name")) or ""
        if not _VARIABLE.fullmatch(name) or name == "PORT" or name.startswith(("K_", "MCP_STDIO_")):
            continue
        value = _find_value(variable)
        if value is not None and variable.get("isSecret") is not True:
            values[name] = value
        elif variable.get("isRequired") is True:
            required.append(Variable(name, variable.get("isSecret") is True, _description(variable)))
    return values, required


def _find_value(declaration: Mapping[str, Any]) -> str | None:
    """Return the value of an argument or a variable, with `{NAME}` replaced; None if it or such a name has no value."""
    value = text(declaration.get("value")) or text(declaration.get("default"))
    if value is None:
        return None
    variables = table(declaration, "variables")
    values = {
        name: text(table(variables, name).get("value")) or text(table(variables, name).get("default"))
        for name in variables
    }
    if any(values.get(name) is None for name in _INNER.findall(value) if name in values):
        return None
    return _INNER.sub(lambda match: values.get(match[1]) or match[0], value)


def _description(declaration: Mapping[str, Any]) -> str:
    return inert(str(declaration.get("description") or "no description"))[:200]
