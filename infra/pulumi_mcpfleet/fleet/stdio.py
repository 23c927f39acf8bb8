"""Sources for servers that speak only stdio: an npm or PyPI package, an image, or a server of an MCP registry."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final, cast

from pydantic import AfterValidator, Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from pulumi_mcpfleet.fleet import images, rules, values
from pulumi_mcpfleet.fleet.base import NO_REPEATS, PARENT, Mistake, MistakesError, Model, raise_if_any
from pulumi_mcpfleet.fleet.built_source import AptPackage, Builder, BuiltSource, CopyFrom, Date, Requirements, Writable
from pulumi_mcpfleet.fleet.field_docs import FieldDoc, pattern
from pulumi_mcpfleet.sources.build_plan import BuildPlanError
from pulumi_mcpfleet.sources.lock import COMMAND, LOCKS, lock_for
from pulumi_mcpfleet.sources.registry_entry import NAME_AND_VERSION, OFFICIAL, RegistryEntry, RegistryServer, Variable
from pulumi_mcpfleet.sources.stdio import StdioSpec, npm_name, pypi_name

_NPM_NAME: Final = r"(?:@[a-z0-9~][a-z0-9._~-]*/)?[a-z0-9~][a-z0-9._~-]*"
NpmName = Annotated[
    str,
    Field(max_length=214),
    values.matching(_NPM_NAME, "is not the name of a package of npm"),
    FieldDoc("package", "packages", "names of npm's packages", pattern(_NPM_NAME)),
]
_NPM_VERSION: Final = r"[\^~]?[0-9][0-9A-Za-z.+-]{0,100}"
NpmVersion = Annotated[
    str,
    values.matching(_NPM_VERSION, "is not a version; write it as 3.25.76 or ^3.25.76"),
    FieldDoc("version", "versions", "`VERSION`, `^VERSION` or `~VERSION`", pattern(_NPM_VERSION)),
]


def _check_npm(value: str) -> str:
    npm_name(value)
    return value


def _check_pypi(value: str) -> str:
    pypi_name(value)
    return value


_RUNNERS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("npx", "pnpx", "bunx"), 'npm: "{}@VERSION"'),
    **dict.fromkeys(("uvx", "pipx"), 'pypi: "{}==VERSION"'),
}
"""Programs with which the configs of desktop clients start packages, and the fleet's key for each."""


class StdioServer(Model):
    """A server that speaks stdio: an npm package, a PyPI package, or an image."""

    npm: Annotated[str, AfterValidator(_check_npm), FieldDoc("package", "", "`NAME@VERSION`")] | None = Field(
        default=None,
        description="An npm package, with its version.",
        examples=["@modelcontextprotocol/server-everything@2026.8.31"],
    )
    pypi: Annotated[str, AfterValidator(_check_pypi), FieldDoc("package", "", "`NAME==VERSION`")] | None = Field(
        default=None, description="A PyPI package, with its version.", examples=["mcp-server-time==2026.10.19"]
    )
    image: images.ImageUrl | None = Field(
        default=None,
        description=("An image that has the server, and Python 3.11 or later for the bridge. It needs `command`."),
        examples=["docker.io/acme/tools:1"],
    )
    command: rules.Words = Field(
        default=(),
        max_length=1000,
        description=(
            "The command that starts the server. Default: the package's program. Required with "
            "`image`, and if mcpfleet can't choose among the package's programs."
        ),
        examples=[["acme-tools", "--stdio"]],
    )
    args: rules.Words = Field(
        default=(), max_length=1000, description="Arguments for the command.", examples=[["--verbose"]]
    )
    apt: Annotated[tuple[AptPackage, ...], NO_REPEATS] = Field(
        default=(), max_length=100, description="Debian packages that the server needs at run time.", examples=[["git"]]
    )

    apt_build: Annotated[tuple[AptPackage, ...], NO_REPEATS] = Field(
        default=(),
        max_length=100,
        description="Debian packages that only the installation needs, such as a compiler.",
        examples=[["gcc", "libc6-dev"]],
    )
    bounds: Requirements = Field(
        default=(),
        max_length=100,
        description=(
            "Further requirements for a PyPI package. They limit the versions of its dependencies: "
            "many servers accept any version of `mcp`, but don't run with version 2."
        ),
        examples=[["mcp<2"]],
    )
    overrides: Annotated[
        Mapping[NpmName, NpmVersion], FieldDoc("map of packages to versions", "", "names of npm's packages to versions")
    ] = Field(
        default={},
        max_length=100,
        description="Versions of an npm package's dependencies, like `overrides` in package.json.",
        examples=[{"zod": "3.25.76"}],
    )
    before: Date = Field(
        default="",
        description="Install no version of a dependency that was published after this date.",
        examples=["2026-06-30"],
    )
    copy_from: CopyFrom = Field(default={})
    writable: Writable = ()
    install_scripts: Annotated[tuple[NpmName, ...], NO_REPEATS] = Field(
        default=(),
        max_length=100,
        description=(
            "The npm packages whose installation scripts run, for example because they are "
            "compiled. If they need a compiler, add it with `apt_build`."
        ),
        examples=[["better-sqlite3"]],
    )

    @model_validator(mode="after")
    def _check_package_options(self) -> "StdioServer":
        misplaced = {
            "bounds": bool(self.bounds) and self.pypi is None,
            "overrides": bool(self.overrides) and self.npm is None,
            "install_scripts": bool(self.install_scripts) and self.npm is None,
            "before": bool(self.before) and self.image is not None,
            "apt_build": bool(self.apt_build) and self.image is not None,
        }
        owners = {"bounds": "a package of PyPI", **dict.fromkeys(("overrides", "install_scripts"), "a package of npm")}
        return raise_if_any(
            self,
            [
                ((key,), f"is for {owners.get(key, 'a package')}; remove it")
                for key, is_misplaced in misplaced.items()
                if is_misplaced
            ],
        )

    @field_validator("command", mode="after")
    @classmethod
    def _check_command(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not {"npm", "pypi", "image"} <= info.data.keys():
            return value  # one of the keys has a mistake of its own
        forms = [name for name in ("npm", "pypi", "image") if info.data[name] is not None]
        if len(forms) > 1:
            raise MistakesError([((PARENT,), f"has {' and '.join(forms)} together; keep only one")])
        if not forms and value and value[0] in _RUNNERS:
            package = next((word for word in value[1:] if not word.startswith("-")), "NAME")
            message = f"{value[0]} would fetch a package whenever it starts; write {_RUNNERS[value[0]].format(package)}"
            raise MistakesError([((), f"{message}, and what comes after the package as args")])
        if not forms:
            message = 'names no package; add npm: "NAME@VERSION", pypi: "NAME==VERSION", or image and command'
            raise MistakesError([((PARENT,), message)])
        mistakes = [((), "missing; add the command that starts the server in the image, such as [acme-tools, --stdio]")]
        return raise_if_any(value, mistakes if forms == ["image"] and not value else [])


class Stdio(Model):
    """A server that speaks stdio, behind the stdio bridge (mcpfleet_bridge)."""

    stdio: Annotated[StdioServer, FieldDoc("[stdio server](#a-stdio-server)", "")] = Field(
        description="The server.", examples=[{"npm": "@modelcontextprotocol/server-everything@2026.8.31"}]
    )
    build_args: rules.BuildArgs = Field(
        default={},
        description=(
            "Another base image (`BASE_IMAGE`), and the variables of a proxy, such as "
            "`HTTPS_PROXY`. There are no others."
        ),
        examples=[{"BASE_IMAGE": "python:3.13"}],
    )
    builder: Builder = "docker"
    _declaration: RegistryServer = PrivateAttr(default=RegistryServer(StdioSpec()))

    def declare(self, declaration: RegistryServer) -> None:
        """Store the server's declaration in a registry: its variables, besides its package."""
        self._declaration = declaration

    @property
    def required_variables(self) -> tuple[Variable, ...]:
        """The variables that the user must set, by the registry's declaration."""
        return self._declaration.required_variables

    @property
    def spec(self) -> StdioSpec:
        """The content of the image, for `pulumi_mcpfleet.sources`."""
        return StdioSpec(**dict(self.stdio), environment=self._declaration.environment)

    @property
    def writable(self) -> tuple[str, ...]:
        """The folders of the image in which the server can write."""
        return self.stdio.writable

    @field_validator("build_args", mode="after")
    @classmethod
    def _check_build_args(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        supported = ("BASE_IMAGE", "HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
        message = "is not an ARG of the Dockerfile that is generated for a package, which has BASE_IMAGE; remove it"
        return raise_if_any(value, [((name,), message) for name in value if name.upper() not in supported])


def _check_server_version(value: str) -> str:
    if not re.fullmatch(NAME_AND_VERSION, value) or value.endswith("@latest"):
        raise ValueError(f"{value[:100]!r} is not a version of a server; write it as io.github.acme/weather@1.2.0")
    return value


def _check_registry_url(value: str) -> str:
    if not re.fullmatch(r"https://[a-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?", value):
        raise ValueError(f"{value[:200]!r} is not a registry's address; write https://HOST, without a query")
    return value


class Registered(Model):
    """A server of an MCP registry: the stdio package that its server.json names."""

    registry: Annotated[str, AfterValidator(_check_server_version), FieldDoc("server", "", "`NAME@VERSION`")] = Field(
        description="The server, with its version. `mcpfleet packages lock` looks it up.",
        examples=["io.github.acme/weather@1.2.0"],
    )
    registry_url: Annotated[
        str, Field(max_length=1024), AfterValidator(_check_registry_url), FieldDoc("address", "")
    ] = Field(default=OFFICIAL, description="The registry's address.", examples=["https://registry.acme.dev"])
    args: rules.Words = Field(
        default=(),
        max_length=1000,
        description="Arguments that replace those in the server's server.json.",
        examples=[["--verbose"]],
    )
    build_args: rules.BuildArgs = Field(
        default={},
        description=(
            "Another base image (`BASE_IMAGE`), and the variables of a proxy, such as "
            "`HTTPS_PROXY`. There are no others."
        ),
        examples=[{"BASE_IMAGE": "python:3.13"}],
    )
    builder: Builder = "docker"

    @property
    def entry(self) -> RegistryEntry:
        """The version of the server in its registry."""
        return RegistryEntry(self.registry_url, self.registry)

    def resolve(self, root: Path) -> "Stdio":
        """Convert the entry that `mcpfleet packages lock` stored to a stdio source.

        Args:
            root: The folder of Pulumi.yaml.

        Raises:
            MistakesError: The entry has not been looked up, or its server can't be deployed.
        """
        try:
            declaration = self.entry.read(root, self.args or None)
        except BuildPlanError as error:
            raise MistakesError(
                [((mistake.key or "registry",), mistake.message) for mistake in error.mistakes]
            ) from None
        server = StdioServer(
            npm=declaration.server.npm, pypi=declaration.server.pypi, args=tuple(declaration.server.args)
        )
        source = Stdio(stdio=server, build_args=self.build_args, builder=self.builder)
        source.declare(declaration)
        return source


def resolve_registry_source(value: object, info: ValidationInfo) -> object:
    """Replace a registry's server by its package, if the root folder is known; return other sources unchanged."""
    root = cast("Mapping[str, Path | None]", info.context or {}).get("root")
    return value.resolve(root) if isinstance(value, Registered) and root is not None else value


def missing_variables(source: object, env: Mapping[str, str], secrets: Iterable[str]) -> Iterator[Mistake]:
    """Find variables that a registered server requires and that neither `env` nor `secrets` sets.

    The paths of the mistakes are relative to the key `secrets`.
    """
    given_names = {*env, *secrets}
    for variable in source.required_variables if isinstance(source, Stdio) else ():
        if variable.name not in given_names:
            advice = "add {secret: NAME, version: NUMBER}" if variable.secret else "add a text"
            path = (variable.name,) if variable.secret else (PARENT, "env", variable.name)
            yield path, f"missing; {advice}: the server requires it ({variable.description})"


def is_bridged(source: object) -> bool:
    """Check whether the image of *source* gets the stdio bridge."""
    return isinstance(source, Stdio | Registered) or (isinstance(source, BuiltSource) and source.speaks == "stdio")


def lock_mistake(source: object, root: Path) -> Mistake | None:
    """The mistake that a stdio package has no lock, or its image no digest; None for a locked one and other sources.

    Args:
        source: The source of a server.
        root: The folder of Pulumi.yaml.
    """
    if not isinstance(source, Stdio):
        return None
    lock = lock_for(source.spec, source.build_args)
    if lock.kind == "image" and "@sha256:" not in lock.package:
        message = f"{lock.package} names a tag, which can move; in profile prod write the digest: …@sha256:DIGEST"
        return ("stdio", "image"), message
    if lock.exists(root):
        return None
    message = f"{lock.package} has no lock in {LOCKS}, and its dependencies could change with each build; run"
    return ("stdio", lock.kind), f"{message} `{COMMAND}` and commit what it writes"
