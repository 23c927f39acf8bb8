"""What a build needs besides the package manager: Debian packages, and a version that git's tags would say."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, cast

from packaging.version import InvalidVersion, Version

from pulumi_mcpfleet.sources.build_plan import BuildPlanError
from pulumi_mcpfleet.sources.layout import Layout, table


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
_UNKNOWN: Final = "0.0.0"

_DESCRIBED: Final = re.compile(r"(?:(?P<tag>.{1,200})-(?P<since>[0-9]{1,9})-g)?(?P<commit>[0-9a-f]{7,64})")
"""What git describes a commit with: `git.described`."""


def asks_tags(layout: Layout) -> bool:
    """Whether a manifest names something that finds a version in git's tags."""
    texts = [content for name, content in layout.texts.items() if name.endswith("pyproject.toml")]
    return any(name in content for name in (*_PRETEND, "scm") for content in texts)


def version_of(ref: str, commit: str) -> str:
    """The version that a tag says, such as v1.2.0 or weather/1.2.0; else one that names the commit."""
    return _of_tag(ref) or f"{_UNKNOWN}+g{commit[:9]}"


def described_version(said: str) -> str:
    """The version of a commit as git describes it; what comes after a tag is the next one's, as setuptools-scm has it.

    Args:
        said: As `git.described` gives it.
    """
    found = _DESCRIBED.fullmatch(said)
    if found is None:
        return ""
    commit, since = found["commit"], int(found["since"] or 0)
    tagged = _of_tag(found["tag"] or "")
    if not tagged:
        return f"{_UNKNOWN}+g{commit}"
    if not since:
        return tagged
    version = Version(tagged)
    if version.is_prerelease or version.is_postrelease:
        return f"{version.public}+{since}.g{commit}"
    *before, last = version.release
    epoch = f"{version.epoch}!" if version.epoch else ""
    return f"{epoch}{'.'.join(map(str, [*before, last + 1]))}.dev{since}+g{commit}"


def _of_tag(tag: str) -> str:
    """The version that a tag's name ends with; empty where it is none."""
    found = re.search(r"(?:^|[/_-])[vV]?(?P<version>[0-9][^/]{0,99})$", tag)
    try:
        return str(Version(found["version"])) if found else ""
    except InvalidVersion:
        return ""


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
        BuildPlanError: It finds its version in a way that nobody can say it for.
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
            raise BuildPlanError.of("dockerfile", sentence)
        lines.update(dict.fromkeys(_PRETEND[name] for name in names if name in _PRETEND))
        if table(manifest, "tool", "pdm", "version").get("source") == "scm":
            lines["PDM_BUILD_SCM_VERSION"] = None
    said = version or _UNKNOWN
    told = [f"version {said}, which git's tags would say and no build has (`build_args`: {name})" for name in lines]
    return "".join(f"ARG {name}={said}\n" for name in lines), tuple(told)


def _name(requirement: str) -> str:
    found = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", requirement)
    return re.sub(r"[-_.]+", "-", found[1]).lower() if found else ""
