"""What a build needs besides its package manager: Debian packages, and the version in git's tags."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, cast

from packaging.version import InvalidVersion, Version

from pulumi_mcpfleet.sources.build_plan import BuildPlanError
from pulumi_mcpfleet.sources.layout import Layout, table


class Apt(NamedTuple):
    """Debian packages for the build, and for running the image."""

    build: tuple[str, ...] = ()
    run: tuple[str, ...] = ()


_SOURCES_ONLY: Final[Mapping[str, Apt]] = {
    "psycopg2": Apt(("gcc", "libc6-dev", "libpq-dev", "python3-dev"), ("libpq5",)),
    "mysqlclient": Apt(
        ("gcc", "libc6-dev", "default-libmysqlclient-dev", "pkg-config", "python3-dev"), ("libmariadb3",)
    ),
}
"""Packages of PyPI without a wheel for Linux, with the Debian packages that their documentation requires."""

_VERSION_VARIABLES: Final[Mapping[str, str]] = {
    "hatch-vcs": "SETUPTOOLS_SCM_PRETEND_VERSION",
    "setuptools-scm": "SETUPTOOLS_SCM_PRETEND_VERSION",
    "flit-scm": "SETUPTOOLS_SCM_PRETEND_VERSION",
    "uv-dynamic-versioning": "UV_DYNAMIC_VERSIONING_BYPASS",
    "poetry-dynamic-versioning": "POETRY_DYNAMIC_VERSIONING_BYPASS",
    "pbr": "PBR_VERSION",
}
"""Build tools that read the version from git's tags, with the environment variable that overrides it."""

_UNSUPPORTED: Final = ("versioningit", "setuptools-git-versioning")
_UNKNOWN: Final = "0.0.0"

_DESCRIPTION: Final = re.compile(r"(?:(?P<tag>.{1,200})-(?P<since>[0-9]{1,9})-g)?(?P<commit>[0-9a-f]{7,64})")
"""The format of `git.describe`."""


def needs_tag_version(layout: Layout) -> bool:
    """Whether a pyproject.toml names a tool that reads the version from git's tags."""
    texts = [content for name, content in layout.texts.items() if name.endswith("pyproject.toml")]
    return any(name in content for name in (*_VERSION_VARIABLES, "scm") for content in texts)


def version_of(ref: str, commit: str) -> str:
    """Return the version in a tag such as v1.2.0 or weather/1.2.0, else 0.0.0 with the commit."""
    return _version_from_tag(ref) or f"{_UNKNOWN}+g{commit[:9]}"


def version_from_description(description: str) -> str:
    """Return the version of a commit. As in setuptools-scm, a commit after a tag has a development version of the next.

    Args:
        description: The result of `git.describe`.
    """
    match = _DESCRIPTION.fullmatch(description)
    if match is None:
        return ""
    commit, commits_since = match["commit"], int(match["since"] or 0)
    tagged = _version_from_tag(match["tag"] or "")
    if not tagged:
        return f"{_UNKNOWN}+g{commit}"
    if not commits_since:
        return tagged
    version = Version(tagged)
    if version.is_prerelease or version.is_postrelease:
        return f"{version.public}+{commits_since}.g{commit}"
    *leading, last = version.release
    epoch = f"{version.epoch}!" if version.epoch else ""
    return f"{epoch}{'.'.join(map(str, [*leading, last + 1]))}.dev{commits_since}+g{commit}"


def _version_from_tag(tag: str) -> str:
    """Return the version at the end of a tag's name; empty if there is none."""
    match = re.search(r"(?:^|[/_-])[vV]?(?P<version>[0-9][^/]{0,99})$", tag)
    try:
        return str(Version(match["version"])) if match else ""
    except InvalidVersion:
        return ""


def apt_for_python(layout: Layout, project: Mapping[str, Any]) -> tuple[Apt, tuple[str, ...]]:
    """Return the Debian packages that a Python repository's dependencies are known to need, and notes about them."""
    requirements = layout.texts.get("requirements.txt", "")
    dependencies = table(project, "project").get("dependencies")
    project_dependencies = cast("list[Any]", dependencies) if isinstance(dependencies, list) else []
    texts = "\n".join([requirements, *map(str, project_dependencies)])
    lock = layout.texts.get("uv.lock", "")
    build: list[str] = []
    run: list[str] = []
    notes: list[str] = []
    for name, apt in _SOURCES_ONLY.items():
        if re.search(rf"^\s*{name}(?![A-Za-z0-9._-])", texts, re.MULTILINE) or f'\nname = "{name}"\n' in lock:
            build += apt.build
            run += apt.run
            notes.append(
                f"{', '.join(apt.build)} while it is built and {', '.join(apt.run)} while it runs, for {name} (`apt`)"
            )
    if "git+" in texts or "source = { git =" in lock or "git+" in layout.texts.get("poetry.lock", ""):
        build.append("git")
        notes.append("git while it is built, for a dependency from a repository (`apt_build`)")
    return Apt(tuple(dict.fromkeys(build)), tuple(dict.fromkeys(run))), tuple(notes)


def apt_for_node(layout: Layout) -> tuple[Apt, tuple[str, ...]]:
    """Return the Debian packages that a Node.js repository's dependencies are known to need, and notes about them."""
    locks = "\n".join(layout.texts.get(name, "") for name in ("package-lock.json", "pnpm-lock.yaml", "yarn.lock"))
    if re.search(r"git\+(?:ssh|https?)://|\{repo: |#commit=", locks):
        return Apt(("git",)), ("git while it is built, for a dependency from a repository (`apt_build`)",)
    return Apt(), ()


def version_lines(manifests: Iterable[Mapping[str, Any]], version: str) -> tuple[str, tuple[str, ...]]:
    """Return the ARG lines that set a version which a project would read from git's tags, and notes about them.

    Args:
        manifests: The contents of each pyproject.toml that is built.
        version: The version of the source; empty if it is unknown.

    Raises:
        BuildPlanError: The build tool has no variable that overrides its version.
    """
    lines: dict[str, None] = {}
    for manifest in manifests:
        project = table(manifest, "project")
        requires = table(manifest, "build-system").get("requires")
        names = (
            [
                _normalize_name(requirement)
                for requirement in cast("list[Any]", requires)
                if isinstance(requirement, str)
            ]
            if isinstance(requires, list)
            else []
        )
        dynamic = project.get("dynamic")
        if project.get("version") is not None or (project and not (isinstance(dynamic, list) and "version" in dynamic)):
            continue
        if unsupported := [name for name in names if name in _UNSUPPORTED]:
            message = (
                f"{unsupported[0]} finds the version in git's tags, which no build has; add a Dockerfile of its own"
            )
            raise BuildPlanError.of("dockerfile", message)
        lines.update(dict.fromkeys(_VERSION_VARIABLES[name] for name in names if name in _VERSION_VARIABLES))
        if table(manifest, "tool", "pdm", "version").get("source") == "scm":
            lines["PDM_BUILD_SCM_VERSION"] = None
    used_version = version or _UNKNOWN
    notes = [
        f"version {used_version}, which git's tags would say and no build has (`build_args`: {name})" for name in lines
    ]
    return "".join(f"ARG {name}={used_version}\n" for name in lines), tuple(notes)


def _normalize_name(requirement: str) -> str:
    match = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", requirement)
    return re.sub(r"[-_.]+", "-", match[1]).lower() if match else ""
