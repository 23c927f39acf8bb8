"""How a Python repository's dependencies are installed: by which tool, in which layer, and what goes before."""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final, cast

from packaging.requirements import InvalidRequirement, Requirement

from pulumi_mcpfleet.sources.build_plan import BuildOptions, BuildPlanError, Mistake, unmarked
from pulumi_mcpfleet.sources.layout import MARK, Layout, table
from pulumi_mcpfleet.sources.workspaces import Member

POETRY_VERSION: Final = "2.5.1"

INSTALLERS: Final = ("uv", "poetry", "pylock", "requirements", "project")
"""What `installer` may say for Python, best first."""

_FOREIGN: Final = {
    "pdm.lock": "PDM's lock file",
    "Pipfile.lock": "Pipenv's lock file",
    "Pipfile": "Pipenv's file",
    "environment.yml": "conda's environment",
    "conda-lock.yml": "conda's lock file",
}
_PIP: Final = "uv pip install --quiet --python /opt/venv/bin/python"
_MCP: Final = ("mcp", "fastmcp")
_FOR_PEOPLE: Final = re.compile(r"(?i)dev|test|lint|doc|type|all|bench|ci|example")
"""Extras that no server needs while it runs."""

_OLD_SDK: Final = re.compile(r"^\s*(?:from|import)\s+mcp\.server\.fastmcp\b", re.MULTILINE)
_WITH_LINE: Final = ("-i", "--index-url", "--extra-index-url", "--hash", "--pre", "--no-binary", "--only-binary")
"""Options of a requirements file that need no other file."""

_NAMED: Final = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}/){0,5}[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}")
"""A file that a project names, as a shell's word."""


@dataclass(frozen=True)
class PythonInstall:
    """One way to install.

    Attributes:
        why: What it goes by, for the report.
        early: Lines before the code is copied, for the layer that stays when only code changes.
        late: Lines after.
        whole: Whether the package itself is installed, and so its scripts.
        notes: What else was decided.
    """

    why: str
    early: str
    late: str
    whole: bool = False
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class _Asked:
    """What an installer works on: the source, the package.json at its top, the member, and the user's wish."""

    layout: Layout
    top: Mapping[str, Any]
    member: Member
    wish: BuildOptions
    extras: tuple[str, ...]

    @property
    def project(self) -> Mapping[str, Any]:
        return self.member.manifest


def python_installer(layout: Layout, project: Mapping[str, Any]) -> str:
    """Which tool installs a repository's dependencies.

    Raises:
        BuildPlanError: Nothing says so, or something else than these tools.
    """
    for name, installer in (
        ("uv.lock", "uv"),
        ("poetry.lock", "poetry"),
        ("pylock.toml", "pylock"),
        ("requirements.txt", "requirements"),
    ):
        if layout.has(name):
            return installer
    foreign = [f"{name} is {what}" for name, what in _FOREIGN.items() if layout.has(name)]
    if foreign:
        raise BuildPlanError.of(
            "installer",
            f"{foreign[0]}, which is not supported; add a uv.lock (uv lock) or a requirements.txt, or write"
            " installer: project, which takes the newest versions that pyproject.toml allows",
        )
    if "build-system" in project or "project" in project or layout.has("setup.py") or layout.has("setup.cfg"):
        return "project"
    raise BuildPlanError.of(
        "installer",
        "nothing says what the server depends on: there is no uv.lock, poetry.lock, pylock.toml,"
        " requirements.txt and no [project] in pyproject.toml; add one",
    )


def python_install(
    layout: Layout, top: Mapping[str, Any], member: Member, installer: str, wish: BuildOptions
) -> PythonInstall:
    """How the dependencies are installed, and the package itself where it is one.

    Args:
        layout: The source.
        top: The pyproject.toml at its top.
        member: The package that is the server.
        installer: The tool.
        wish: Extras, groups, bounds and a date, of the user's.

    Raises:
        BuildPlanError: The tool can't install it.
    """
    if installer not in _INSTALLS:
        listed = ", ".join(INSTALLERS)
        raise BuildPlanError.of("installer", f"{installer!r} is no installer of Python; write one of {listed}")
    extras, notes = _extras(layout, member, wish)
    asked = _Asked(layout, top, member, wish, extras)
    mistakes = [*_unfit(asked, installer)]
    if mistakes:
        raise BuildPlanError(mistakes)
    found = _INSTALLS[installer](asked)
    early, late = found.early, _named(layout, member) + found.late
    if layout.texts.get("pyproject.toml", "").startswith(MARK):
        # No tool reads that mark but uv: it goes when the code is there, and what needs the file goes behind it.
        before, _, install = found.early.partition("COPY ")
        early, late = before, unmarked("pyproject.toml") + install.partition("\n")[2] + late
    return PythonInstall(found.why, early, late, found.whole, (*found.notes, *notes))


def _unfit(asked: _Asked, installer: str) -> Iterator[Mistake]:
    locked = installer in ("uv", "poetry", "pylock")
    for key, said in (("bounds", asked.wish.bounds), ("before", asked.wish.before)):
        if said and locked:
            yield Mistake(key, "the lock file says each version; remove it, or write installer: project")
    for key, said in (("extras", asked.wish.extras), ("groups", asked.wish.groups)):
        if said and installer in ("pylock", "requirements"):
            yield Mistake(key, f"is of pyproject.toml, and {installer} is what is installed; write installer: project")


def _needs(asked: _Asked, name: str, installer: str) -> None:
    if not asked.layout.has(name):
        listed = ", ".join(INSTALLERS)
        raise BuildPlanError.of("installer", f"{installer} needs {name}, and there is none; write another of {listed}")


# --- the tools ----------------------------------------------------------------------------------------------


def _uv(asked: _Asked) -> PythonInstall:
    _needs(asked, "uv.lock", "uv")
    _needs(asked, "pyproject.toml", "uv")
    project = asked.project
    options = "".join(f" --extra {shlex.quote(one)}" for one in asked.extras)
    options += "".join(f" --group {shlex.quote(one)}" for one in asked.wish.groups)
    options += f" --package {shlex.quote(asked.member.name)}" if asked.member.folder else ""
    sync = f"RUN uv sync --frozen --no-dev{options}"
    package = _is_package(project)
    own_parts = "workspace" in table(asked.top, "tool", "uv") or any(_own_parts(asked))
    # Packages of the repository's own are not there before its code is.
    files = " ".join(["pyproject.toml", "uv.lock", *(["uv.toml"] if asked.layout.has("uv.toml") else [])])
    early = "" if own_parts else f"COPY {files} ./\n{sync} --no-install-project\n"
    late = f"{sync} --no-editable\n" if package or own_parts else f"{sync} --no-install-project\n" if not early else ""
    return PythonInstall("uv.lock", early, late, package)


def _is_package(project: Mapping[str, Any]) -> bool:
    said = table(project, "tool", "uv").get("package")
    return said is True or ("build-system" in project and said is not False)


def _own_parts(asked: _Asked) -> Iterator[bool]:
    """Whether a dependency is a file or folder of the repository."""
    for said in table(asked.project, "tool", "uv", "sources").values():
        for one in cast("list[Any]", said) if isinstance(said, list) else [said]:
            yield bool({"path", "workspace"} & set(table(one)))
    for said in _requirements_of(asked.project):
        yield "file:" in said
    yield (
        re.search(
            r'^source = \{ (?:editable|directory|path) = "(?!\.")', asked.layout.texts.get("uv.lock", ""), re.MULTILINE
        )
        is not None
    )


def _requirements_of(project: Mapping[str, Any]) -> list[str]:
    said = table(project, "project").get("dependencies")
    return [one for one in cast("list[Any]", said) if isinstance(one, str)] if isinstance(said, list) else []


def _poetry(asked: _Asked) -> PythonInstall:
    _needs(asked, "poetry.lock", "poetry")
    project = asked.project
    tool = (
        f"RUN python3 -m venv /opt/poetry && /opt/poetry/bin/pip install --quiet poetry=={POETRY_VERSION}"
        " && python3 -m venv /opt/venv\n"
        # An environment that is active is the one that poetry installs into.
        "ENV VIRTUAL_ENV=/opt/venv POETRY_NO_INTERACTION=1 POETRY_VIRTUALENVS_CREATE=false\n"
    )
    groups = ",".join(["main", *asked.wish.groups])
    extras = "".join(f" --extras {shlex.quote(one)}" for one in asked.extras)
    poetry = f"RUN . /opt/venv/bin/activate && /opt/poetry/bin/poetry install --only {groups} --compile{extras}"
    own_parts = any("path" in table(one) for one in table(project, "tool", "poetry", "dependencies").values())
    files = " ".join(["pyproject.toml", "poetry.lock", *(["poetry.toml"] if asked.layout.has("poetry.toml") else [])])
    early = tool if own_parts else f"{tool}COPY {files} ./\n{poetry} --no-root --no-directory\n"
    package = table(project, "tool", "poetry").get("package-mode") is not False
    # Not in editable form: the environment has to hold what it runs.
    return PythonInstall("poetry.lock", early, f"{poetry}{'' if package else ' --no-root'}\n", package)


def _venv(arguments: str, files: str) -> str:
    copied = f"COPY {files} ./\n" if files else ""
    return f"{copied}RUN uv venv --quiet /opt/venv && {_PIP} {arguments}\n"


def _pylock(asked: _Asked) -> PythonInstall:
    _needs(asked, "pylock.toml", "pylock")
    own = _own_package(asked)
    return PythonInstall("pylock.toml", _venv("-r pylock.toml", "pylock.toml"), own, bool(own))


def _requirements(asked: _Asked) -> PythonInstall:
    _needs(asked, "requirements.txt", "requirements")
    content = asked.layout.texts.get("requirements.txt", "").removeprefix(MARK)
    lines = [line.partition("#")[0].strip().removesuffix("\\").strip() for line in content.splitlines()]
    wanted = [line for line in lines if line and not line.startswith("-")]
    loose = [line for line in wanted if "==" not in line and "@" not in line]
    why = "requirements.txt" + (f", {len(loose)} of {len(wanted)} entries without a version" if loose else "")
    bounds, notes = _bounds(asked, wanted)
    # Files that it names, and folders to install, have to be there as well.
    others = any(map(_of_the_repository, lines))
    install = _venv(f"-r requirements.txt{bounds}", "" if others else "requirements.txt")
    own = _own_package(asked)
    if others:
        notes = (
            *notes,
            "the dependencies are installed behind the code: requirements.txt names files of its own (`installer`)",
        )
    return PythonInstall(why, "" if others else install, (install if others else "") + own, bool(own), notes)


def _of_the_repository(line: str) -> bool:
    if line.startswith("-"):
        return line.partition("=")[0].split()[0] not in _WITH_LINE
    name = line.partition(";")[0].strip()
    return (
        "file:" in name
        or ("/" in name and "://" not in name)
        or name.endswith((".whl", ".tar.gz", ".zip"))
        or name == "."
    )


def _project(asked: _Asked) -> PythonInstall:
    layout, project = asked.layout, asked.project
    if not ("project" in project or "build-system" in project or layout.has("setup.py") or layout.has("setup.cfg")):
        raise BuildPlanError.of("installer", "project needs a [project] in pyproject.toml, a setup.py or a setup.cfg")
    bounds, notes = _bounds(asked, _requirements_of(project))
    groups = "".join(f" --group {shlex.quote(one)}" for one in asked.wish.groups)
    why = "no lock file, so the newest versions that are allowed when it is built"
    if asked.wish.before:
        why = f"no lock file, so the newest versions of {asked.wish.before} that are allowed"
    place = f"./{asked.member.folder}" if asked.member.folder else "."
    if _is_package(project) or "project" not in project:
        what = shlex.quote(f"{place}[{','.join(asked.extras)}]" if asked.extras else place)
        return PythonInstall(why, "", _venv(f"{what}{bounds}{groups}", ""), whole=True, notes=notes)
    # Without a build system it is no package; what it depends on is all there is to install.
    extras = "".join(f" --extra {shlex.quote(one)}" for one in asked.extras)
    install = _venv(f"-r {asked.member.within}pyproject.toml{extras}{bounds}{groups}", "")
    return PythonInstall(why, "", install, notes=notes)


def _own_package(asked: _Asked) -> str:
    """The repository itself, where it is a package: its scripts are then there to start."""
    return f"RUN {_PIP} --no-deps .\n" if "build-system" in asked.project else ""


_INSTALLS: Final[Mapping[str, Callable[[_Asked], PythonInstall]]] = {
    "uv": _uv,
    "poetry": _poetry,
    "pylock": _pylock,
    "requirements": _requirements,
    "project": _project,
}


# --- what goes with it --------------------------------------------------------------------------------------


def _extras(layout: Layout, member: Member, wish: BuildOptions) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The extras to install; the one that brings the MCP library where the server itself does not ask for it."""
    if wish.extras is not None:
        return tuple(wish.extras), ()
    project = member.manifest
    if any(_name(one) in _MCP for one in _requirements_of(project)):
        return (), ()
    if not any(re.search(r"^\s*(?:from|import)\s+(?:fast)?mcp\b", code, re.MULTILINE) for code in layout.code.values()):
        return (), ()
    found = [
        extra
        for extra, said in table(project, "project", "optional-dependencies").items()
        if isinstance(said, list)
        and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}", extra)
        and not _FOR_PEOPLE.search(extra)
        and any(_name(one) in _MCP for one in cast("list[Any]", said) if isinstance(one, str))
    ]
    if len(found) != 1:
        return (), ()
    return (found[0],), (f"the extra {found[0]} is installed, which brings the MCP library (`extras`)",)


def _name(requirement: str) -> str:
    found = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", requirement)
    return re.sub(r"[-_.]+", "-", found[1]).lower() if found else ""


def _bounds(asked: _Asked, wanted: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Bounds and a date of the user's as arguments; and the bound that keeps code of the SDK's first version alive."""
    notes: tuple[str, ...] = ()
    bounds = [*asked.wish.bounds]
    sdk = next((one for one in wanted if _name(one) == "mcp"), None)
    old = any(map(_OLD_SDK.search, asked.layout.code.values()))
    if sdk is not None and old and _takes_two(sdk) and not any(_name(one) == "mcp" for one in bounds):
        bounds.append("mcp<2")
        notes = ("mcp<2: its code imports mcp.server.fastmcp, which 2 does not have any more (`bounds`)",)
    words = "".join(f" {shlex.quote(one)}" for one in bounds)
    return words + (f" --exclude-newer {shlex.quote(asked.wish.before)}" if asked.wish.before else ""), notes


def _takes_two(requirement: str) -> bool:
    try:
        return Requirement(requirement.partition("#")[0]).specifier.contains("2.3.0")
    except InvalidRequirement:
        return False


def _named(layout: Layout, member: Member) -> str:
    """Lines for files that a project names and a builder may not have: its README, its licence."""
    project = table(member.manifest, "project")
    said: list[Any] = [
        project.get("readme"),
        table(project, "readme").get("file"),
        table(project, "license").get("file"),
    ]
    said += [table(member.manifest, "tool", "poetry").get("readme")]
    names = {str(PurePosixPath(one)) for one in said if isinstance(one, str) and _NAMED.fullmatch(one)}
    missing = sorted(one for one in names if layout.has(".dockerignore") or not layout.has(f"{member.within}{one}"))
    return "".join(f"RUN test -e {member.within}{one} || touch {member.within}{one}\n" for one in missing)
