"""What a build needs besides the package manager: Debian packages, and a version that git's tags would say."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, cast

from pulumi_mcpfleet.sources.layout import Layout, table
from pulumi_mcpfleet.sources.recipe import RecipeError


class Apt(NamedTuple):
    """Debian packages: while it is built, and while it runs."""

    build: tuple[str, ...] = ()
    run: tuple[str, ...] = ()


_SOURCES_ONLY: Final[Mapping[str, Apt]] = {
    "psycopg2": Apt(("gcc", "libc6-dev", "libpq-dev", "python3-dev"), ("libpq5",)),
    "mysqlclient": Apt(
        ("gcc", "libc6-dev", "default-libmysqlclient-dev", "pkg-config", "python3-dev"), ("libmariadb3",)
    ),
}
"""Packages of PyPI that have no wheel for Linux, and what their own documentation has one install."""

_PRETEND: Final[Mapping[str, str]] = {
    "hatch-vcs": "SETUPTOOLS_SCM_PRETEND_VERSION",
    "setuptools-scm": "SETUPTOOLS_SCM_PRETEND_VERSION",
    "flit-scm": "SETUPTOOLS_SCM_PRETEND_VERSION",
    "uv-dynamic-versioning": "UV_DYNAMIC_VERSIONING_BYPASS",
    "poetry-dynamic-versioning": "POETRY_DYNAMIC_VERSIONING_BYPASS",
    "pbr": "PBR_VERSION",
}
"""What finds a version in git's tags, and the variable that says it in their place."""

_NO_WAY: Final = ("versioningit", "setuptools-git-versioning")
UNKNOWN_VERSION: Final = "0.0.0"


def apt_for_python(layout: Layout, project: Mapping[str, Any]) -> tuple[Apt, tuple[str, ...]]:
    """Debian packages that the dependencies of a Python repository are known to need, and what is told of them."""
    said = layout.texts.get("requirements.txt", "")
    listed = table(project, "project").get("dependencies")
    more = cast("list[Any]", listed) if isinstance(listed, list) else []
    wanted = "\n".join([said, *map(str, more)])
    lock = layout.texts.get("uv.lock", "")
    build: list[str] = []
    run: list[str] = []
    notes: list[str] = []
    for name, apt in _SOURCES_ONLY.items():
        if re.search(rf"^\s*{name}(?![A-Za-z0-9._-])", wanted, re.MULTILINE) or f'\nname = "{name}"\n' in lock:
            build += apt.build
            run += apt.run
            notes.append(
                f"{', '.join(apt.build)} while it is built and {', '.join(apt.run)} while it runs, for {name} (`apt`)"
            )
    if "git+" in wanted or "source = { git =" in lock or "git+" in layout.texts.get("poetry.lock", ""):
        build.append("git")
        notes.append("git while it is built, for a dependency from a repository (`apt_build`)")
    return Apt(tuple(dict.fromkeys(build)), tuple(dict.fromkeys(run))), tuple(notes)


def apt_for_node(layout: Layout) -> tuple[Apt, tuple[str, ...]]:
    """The same for Node.js."""
    locks = "\n".join(layout.texts.get(name, "") for name in ("package-lock.json", "pnpm-lock.yaml", "yarn.lock"))
    if re.search(r"git\+(?:ssh|https?)://|\{repo: |#commit=", locks):
        return Apt(("git",)), ("git while it is built, for a dependency from a repository (`apt_build`)",)
    return Apt(), ()


def version_line(manifests: Iterable[Mapping[str, Any]], version: str) -> tuple[str, tuple[str, ...]]:
    """The line that says the version which a project would find in git's tags, and what is told; nothing for others.

    Args:
        manifests: Each pyproject.toml that is built.
        version: Which version the source is, as far as it is known; empty: it is not.

    Raises:
        RecipeError: It finds its version in a way that nobody can say it for.
    """
    lines: dict[str, None] = {}
    for manifest in manifests:
        project = table(manifest, "project")
        requires = table(manifest, "build-system").get("requires")
        names = (
            [_name(one) for one in cast("list[Any]", requires) if isinstance(one, str)]
            if isinstance(requires, list)
            else []
        )
        dynamic = project.get("dynamic")
        if project.get("version") is not None or (project and not (isinstance(dynamic, list) and "version" in dynamic)):
            continue
        if found := [name for name in names if name in _NO_WAY]:
            sentence = f"{found[0]} finds the version in git's tags, which no build has; add a Dockerfile of its own"
            raise RecipeError.of("dockerfile", sentence)
        lines.update(dict.fromkeys(_PRETEND[name] for name in names if name in _PRETEND))
        if table(manifest, "tool", "pdm", "version").get("source") == "scm":
            lines["PDM_BUILD_SCM_VERSION"] = None
    said = version or UNKNOWN_VERSION
    told = [f"version {said}, which git's tags would say and no build has (`build_args`: {name})" for name in lines]
    return "".join(f"ARG {name}={said}\n" for name in lines), tuple(told)


def _name(requirement: str) -> str:
    found = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", requirement)
    return re.sub(r"[-_.]+", "-", found[1]).lower() if found else ""
