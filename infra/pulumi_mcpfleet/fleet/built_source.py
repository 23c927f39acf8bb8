"""Sources for which mcpfleet generates a Dockerfile: their common keys, and the source `folder`.

The modules `git` and `stdio` have the other such sources. This module has only the keys with which a user configures
the build; `pulumi_mcpfleet.sources` plans the build and generates the Dockerfile.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal, cast

from pydantic import AfterValidator, Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from pulumi_mcpfleet.fleet import rules, values
from pulumi_mcpfleet.fleet.base import NO_REPEATS, PARENT, MistakesError, Model, raise_if_any
from pulumi_mcpfleet.fleet.field_docs import FieldDoc, pattern
from pulumi_mcpfleet.fleet.images import ImageUrl
from pulumi_mcpfleet.fleet.parts import SecretRef
from pulumi_mcpfleet.sources import BuildOptions, BuildPlan, BuildPlanError, Layout, git, plan_build
from pulumi_mcpfleet.sources.build_plan import FromImage
from pulumi_mcpfleet.sources.build_requirements import needs_tag_version, version_from_description
from pulumi_mcpfleet.sources.checkout import refuse_pointers
from pulumi_mcpfleet.sources.layout import SKIPPED
from pulumi_mcpfleet.sources.safe_paths import folder_problem

_NO_DOCKERFILE: Final = "none"


# For apt, a - at the end means "remove this package".
_APT: Final = r"[a-z0-9][a-z0-9+.-]{0,62}[a-z0-9+.]"
AptPackage = Annotated[
    str,
    values.matching(_APT, "is not a package's name; use a-z, 0-9, +, . and -"),
    FieldDoc("package", "packages", "names of Debian's packages", pattern(_APT)),
]


# A member's name follows npm's or PyPI's rules, and its folder is a path of such names.
_MEMBER: Final = r"@?[A-Za-z0-9_][A-Za-z0-9_.@/-]{0,254}"
MemberName = Annotated[
    str,
    values.matching(_MEMBER, "is not a package's name or folder; write it as servers/weather or @acme/weather"),
    FieldDoc("member", "members", "a package's name, or its folder within the source", pattern(_MEMBER)),
]


# PEP 685: the form of the names of extras and groups.
_DEPENDENCY: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?"
DependencyName = Annotated[
    str,
    values.matching(_DEPENDENCY, "is not the name of an extra or a group; use letters, digits, ., _ and -"),
    FieldDoc("name", "names", "letters, digits, `.`, `_` and `-`", pattern(_DEPENDENCY)),
]

_BOUND: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,98}(?:\[[A-Za-z0-9._,-]{1,100}\])?[<>=!~][<>=!~A-Za-z0-9.*+,]{1,100}"
Requirement = Annotated[
    str,
    values.matching(_BOUND, "is not a requirement; write a package and which versions of it, such as mcp<2"),
    FieldDoc("requirement", "requirements", "`NAME<VERSION` and the like, without spaces", pattern(_BOUND)),
]
Requirements = Annotated[tuple[Requirement, ...], NO_REPEATS]
"""Requirements that limit the versions of dependencies."""

_DATE: Final = r"(?:20[0-9]{2}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01]))?"
Date = Annotated[
    str,
    values.matching(_DATE, "is not a date; write it as 2026-06-30"),
    FieldDoc("date", "dates", "`YYYY-MM-DD`", pattern(_DATE)),
]

_STAGE: Final = r"(?:[A-Za-z][A-Za-z0-9_.-]{0,98})?"
StageName = Annotated[
    str,
    values.matching(_STAGE, "is not a stage's name; use letters, digits, _, . and -"),
    FieldDoc("stage", "stages", "`NAME` of a `FROM … AS NAME`", pattern(_STAGE)),
]


def _check_path(value: str) -> str:
    path = PurePosixPath(value)
    if not value.strip() or path.is_absolute() or ".." in path.parts or not re.fullmatch(r"[^\s\\\0]{1,255}", value):
        raise ValueError(f"{value[:200]!r} is not a path within the source; write it as docker/Dockerfile")
    return value


SourcePath = Annotated[
    str, AfterValidator(_check_path), FieldDoc("path", "paths", "within the source; no `/` first, no `..`, no spaces")
]


def _check_folder(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise ValueError("is empty, or has an invisible character; write a folder, such as ./weather")
    if Path(value).is_absolute() or value.startswith("~"):
        raise ValueError(f"{value!r} is not a relative path; write the folder as seen from Pulumi.yaml")
    return value


AnyFolder = Annotated[
    str,
    Field(max_length=1024),
    AfterValidator(_check_folder),
    FieldDoc("folder", "folders", "below or beside `Pulumi.yaml`, not absolute"),
]


_KUBECTL: Final = f"registry.k8s.io/kubectl@sha256:{'0' * 64}"

Builder = Annotated[
    Literal["docker", "cloud-build"],
    Field(
        description="What builds the image: Docker on the machine that deploys, or Cloud Build.",
        examples=["cloud-build"],
    ),
]
"""The tool that builds an image."""


class ImageFile(Model):
    """A file or folder of another image."""

    image: ImageUrl = Field(
        description="The image, named by its digest.",
        examples=[_KUBECTL],
    )
    path: values.MountPath = Field(description="The file or folder in that image.", examples=["/bin/kubectl"])

    @field_validator("image", mode="after")
    @classmethod
    def _require_digest(cls, value: str) -> str:
        if "@sha256:" not in value:
            raise ValueError(f"{value} names a tag, which can move; write the digest: …@sha256:DIGEST")
        return value


CopyFrom = Annotated[
    Mapping[values.MountPath, ImageFile],
    FieldDoc("map of places to [files of images](#a-file-of-an-image)", "", "paths in the container"),
    Field(
        max_length=20,
        description=(
            "Files and folders to copy from other images, by their path in this image. Use it for "
            "programs that Debian doesn't package."
        ),
        examples=[{"/usr/bin/kubectl": {"image": _KUBECTL, "path": "/bin/kubectl"}}],
    ),
]
Writable = Annotated[
    tuple[values.MountPath, ...],
    NO_REPEATS,
    Field(
        max_length=5,
        description=(
            "Folders of the image in which the server can write. Use it if no variable or option of"
            " the server moves its files to `/tmp`. Each folder is in memory. When an instance "
            "starts, it has the files that the image has there."
        ),
        examples=[["/app/data"]],
    ),
]


class BuiltSource(Model):
    """The common keys of sources that mcpfleet analyses to plan their build: each key overrides a part of the plan."""

    language: Literal["python", "node"] | None = Field(
        default=None,
        description=(
            "The language of the server. Default: the one that mcpfleet finds. Set it if the source has files of both."
        ),
        examples=["python"],
    )
    installer: Literal["uv", "poetry", "pylock", "requirements", "project", "npm", "pnpm", "yarn"] | None = Field(
        default=None,
        description=(
            "The tool that installs the dependencies. Default: the tool of the lock file. `project`"
            " installs the newest versions that pyproject.toml allows."
        ),
        examples=["uv"],
    )
    start: rules.Words = Field(
        default=(),
        max_length=1000,
        description=(
            "The command that starts the server. Default: [the one that mcpfleet "
            "finds](sources.md#how-mcpfleet-decides). The command must serve MCP over HTTP on "
            "`$PORT`, or speak stdio with `speaks: stdio`."
        ),
        examples=[["python", "-m", "weather_mcp"]],
    )
    package: MemberName | None = Field(
        default=None,
        description=(
            "The member of a workspace that is the server. Default: the only member that looks like a server."
        ),
        examples=["@acme/weather"],
    )
    dockerfile: SourcePath | None = Field(
        default=None,
        description=(
            "The source's own Dockerfile. Default: `Dockerfile`, if the source has one; otherwise "
            "mcpfleet generates one. `none`: ignore the source's Dockerfile, and generate one."
        ),
        examples=["deploy/Dockerfile"],
    )
    apt: Annotated[tuple[AptPackage, ...], NO_REPEATS] = Field(
        default=(), max_length=100, description="Debian packages that the server needs at run time.", examples=[["git"]]
    )
    copy_from: CopyFrom = Field(default={})
    writable: Writable = ()
    speaks: Literal["http", "stdio"] | None = Field(
        default=None,
        description=(
            "How the server speaks MCP. Default: `http`; mcpfleet then refuses a source whose files"
            " show that it speaks only stdio. `stdio` adds the bridge. You can't combine `stdio` "
            "with the source's own Dockerfile."
        ),
        examples=["stdio"],
    )
    apt_build: Annotated[tuple[AptPackage, ...], NO_REPEATS] = Field(
        default=(),
        max_length=100,
        description="Debian packages that only the build needs, such as a compiler.",
        examples=[["gcc", "libc6-dev"]],
    )
    args: rules.Words = Field(
        default=(),
        max_length=1000,
        description=(
            "Arguments that follow the start command. With the source's own Dockerfile: arguments "
            "that replace the image's CMD."
        ),
        examples=[["--transport", "http"]],
    )
    extras: Annotated[tuple[DependencyName, ...], NO_REPEATS] | None = Field(
        default=None,
        max_length=100,
        description=(
            "Extras of the Python project to install. Default: none; or the extra that installs "
            "`mcp` or `fastmcp`, if no other dependency does."
        ),
        examples=[["http"]],
    )
    groups: Annotated[tuple[DependencyName, ...], NO_REPEATS] = Field(
        default=(),
        max_length=100,
        description="Dependency groups of the Python project to install, in addition to its dependencies.",
        examples=[["prod"]],
    )
    bounds: Requirements = Field(
        default=(),
        max_length=100,
        description=(
            "Further requirements for a Python project without a lock file. They limit the versions"
            " of its dependencies."
        ),
        examples=[["mcp<2"]],
    )
    before: Date = Field(
        default="",
        description=(
            "For a Python project without a lock file: install no version that was published after this date."
        ),
        examples=["2026-06-30"],
    )
    port: rules.Port = Field(default=8080, description="The port that the container listens on.", examples=[5000])
    target: StageName = Field(
        default="",
        description="The stage of the source's own Dockerfile to build. Default: the last one.",
        examples=["prod"],
    )
    build_args: rules.BuildArgs = Field(
        default={},
        description=(
            "Values for the Dockerfile's ARGs. In a generated Dockerfile, `BASE_IMAGE` is the base "
            "image, and every other entry is an environment variable during the build. The values "
            "stay visible in the image: don't put secrets here."
        ),
        examples=[{"BASE_IMAGE": "python:3.13"}],
    )

    build_secrets: Annotated[
        Mapping[values.BuildArgName, SecretRef],
        FieldDoc("map of variables to [secrets](#secrets)", "", "names: letters, digits, `_`; no digit first"),
    ] = Field(
        default={},
        max_length=20,
        description=(
            "Secrets that the build needs, such as the token of a private index. The deployer reads"
            " them, and the build's commands find each one in the variable. The source's own "
            "Dockerfile must mount each one by this name. No layer of the image has them. The "
            "stack's state has them in encrypted form."
        ),
        examples=[{"NPM_TOKEN": {"secret": "npm-token", "version": "1"}}],
    )
    builder: Builder = "docker"

    @field_validator("builder", mode="after")
    @classmethod
    def _refuse_secrets_for_cloud_build(cls, value: str, info: ValidationInfo) -> str:
        is_refused = value == "cloud-build" and bool(info.data.get("build_secrets"))
        message = "are not supported with Cloud Build; remove them, or write builder: docker"
        return raise_if_any(value, [((PARENT, "build_secrets"), message)] if is_refused else [])

    @property
    def build_options(self) -> BuildOptions:
        """The options with which the user overrides the build plan."""
        keys = {"language", "installer", "start", "apt", "apt_build", "args", "speaks", "build_args", "package"}
        keys |= {"extras", "groups", "bounds", "before", "target", "writable"}
        options: Any = self.model_dump(include=keys)
        return BuildOptions(
            **options,
            copy_from={target: FromImage(file.image, file.path) for target, file in self.copy_from.items()},
            build_secrets=tuple(self.build_secrets),
            dockerfile="" if self.dockerfile == _NO_DOCKERFILE else self.dockerfile,
        )


def _root(info: ValidationInfo) -> Path | None:
    """The folder of Pulumi.yaml; None if the parser must not read files."""
    return cast("dict[str, Path | None]", info.context or {}).get("root")


class Folder(BuiltSource):
    """An image that `up` builds from a folder, with or without a Dockerfile."""

    folder: AnyFolder = Field(description="The folder, relative to the folder of Pulumi.yaml.", examples=["./weather"])
    lfs: Literal["refuse", "pointers"] = Field(
        default="refuse",
        description=(
            "What to do with files in Git LFS that git-lfs has not downloaded. `refuse`: don't "
            "build. `pointers`: build with the pointer files that stand for them."
        ),
        examples=["pointers"],
    )
    _plans: dict[Path, BuildPlan] = PrivateAttr(default_factory=dict[Path, BuildPlan])

    @field_validator("folder", mode="after")
    @classmethod
    def _require_folder(cls, value: str, info: ValidationInfo) -> str:
        root = _root(info)
        if root is None:
            return value
        if not (root / value).is_dir():
            raise ValueError(f"there is no {PurePosixPath(value)} beside Pulumi.yaml; correct it")
        if problem := folder_problem(root, value):
            raise ValueError(problem)
        return value

    @model_validator(mode="after")
    def _require_build_plan(self, info: ValidationInfo) -> "Folder":
        root = _root(info)
        try:
            if root is not None:
                self.build_plan(root)
        except BuildPlanError as error:
            raise MistakesError([((mistake.key or "folder",), mistake.message) for mistake in error.mistakes]) from None
        return self

    def build_plan(self, root: Path) -> BuildPlan:
        """Plan the build of the folder; later calls return the same plan.

        Args:
            root: The folder of Pulumi.yaml.

        Raises:
            BuildPlanError: The plan needs a decision of the user, or the source is not supported.
        """
        if root not in self._plans:
            if self.lfs == "refuse":
                refuse_pointers(root / self.folder, "lfs", f"run git lfs pull in {self.folder}", SKIPPED)
            layout, options = Layout.read(root / self.folder), self.build_options
            if needs_tag_version(layout):
                options = replace(options, version=version_from_description(git.describe(root / self.folder)))
            self._plans[root] = plan_build(layout, options)
        return self._plans[root]
