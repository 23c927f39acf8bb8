"""Plans the installation of a Python repository's dependencies: the tool and the layers."""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final, cast

from packaging.requirements import InvalidRequirement, Requirement

from pulumi_mcpfleet.sources.build_plan import BuildOptions, BuildPlanError, SourceMistake, strip_mark_line
from pulumi_mcpfleet.sources.layout import BYTE_ORDER_MARK, Layout, table
from pulumi_mcpfleet.sources.workspaces import Member

POETRY_VERSION: Final = "2.5.1"

INSTALLERS: Final = ("uv", "poetry", "pylock", "requirements", "project")
"""The values of `installer` for Python, in order of preference."""

_FOREIGN: Final = {
    "pdm.lock": "PDM's lock file",
    "Pipfile.lock": "Pipenv's lock file",
    "Pipfile": "Pipenv's file",
    "environment.yml": "conda's environment",
    "conda-lock.yml": "conda's lock file",
}
_PIP: Final = "uv pip install --quiet --python /opt/venv/bin/python"
_MCP: Final = ("mcp", "fastmcp")
_DEVELOPMENT_EXTRAS: Final = re.compile(r"(?i)dev|test|lint|doc|type|all|bench|ci|example")
"""Names of extras that a server doesn't need at run time."""

_SDK_1_IMPORT: Final = re.compile(r"^\s*(?:from|import)\s+mcp\.server\.fastmcp\b", re.MULTILINE)
_PLAIN_OPTIONS: Final = ("-i", "--index-url", "--extra-index-url", "--hash", "--pre", "--no-binary", "--only-binary")
"""Options of a requirements file that refer to no other file."""

_FILE_NAME: Final = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}/){0,5}[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}")
"""The path of a file that a project names: a word that needs no quotes in a shell."""


@dataclass(frozen=True)
class PythonInstall:
    """The lines of a Dockerfile that install a repository.

    Attributes:
        reason: Why this installer, for the report.
        early_lines: The lines before the code is copied, whose layer is reused if only code changes.
        late_lines: The lines after the code is copied.
        installs_package: Whether the package itself is installed, with its scripts.
        notes: Further decisions.
    """

    reason: str
    early_lines: str
    late_lines: str
    installs_package: bool = False
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class _InstallRequest:
    """The input of an installer: the source, the pyproject.toml at its top, the member, and the build options."""

    layout: Layout
    top: Mapping[str, Any]
    member: Member
    options: BuildOptions
    extras: tuple[str, ...]

    @property
    def project(self) -> Mapping[str, Any]:
        return self.member.manifest


def choose_python_installer(layout: Layout, project: Mapping[str, Any]) -> str:
    """Choose the tool that installs a repository's dependencies.

    Raises:
        BuildPlanError: Nothing determines the tool, or it is not supported.
    """
    for name, installer in (
        ("uv.lock", "uv"),
        ("poetry.lock", "poetry"),
        ("pylock.toml", "pylock"),
        ("requirements.txt", "requirements"),
    ):
        if layout.has(name):
            return installer
    foreign = [f"{name} is {kind}" for name, kind in _FOREIGN.items() if layout.has(name)]
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
        "can't find the server's dependencies: there is no uv.lock, poetry.lock, pylock.toml,"
        " requirements.txt and no [project] in pyproject.toml; add one",
    )


def plan_python_install(
    layout: Layout, top: Mapping[str, Any], member: Member, installer: str, options: BuildOptions
) -> PythonInstall:
    """Plan how the dependencies are installed, and the package itself if it is one.

    Args:
        layout: The source.
        top: The pyproject.toml at its top.
        member: The package that is the server.
        installer: The tool.
        options: The build options.

    Raises:
        BuildPlanError: The tool can't install it.
    """
    if installer not in _INSTALL_PLANS:
        listed = ", ".join(INSTALLERS)
        raise BuildPlanError.of("installer", f"{installer!r} is no installer of Python; write one of {listed}")
    extras, notes = _choose_extras(layout, member, options)
    request = _InstallRequest(layout, top, member, options, extras)
    mistakes = [*_option_mistakes(request, installer)]
    if mistakes:
        raise BuildPlanError(mistakes)
    plan = _INSTALL_PLANS[installer](request)
    early_lines, late_lines = plan.early_lines, _missing_file_lines(layout, member) + plan.late_lines
    if layout.texts.get("pyproject.toml", "").startswith(BYTE_ORDER_MARK):
        # Only uv can read the byte-order mark. It is removed once the code is copied; lines that need the file follow.
        preparation, _, install = plan.early_lines.partition("COPY ")
        early_lines, late_lines = (
            preparation,
            strip_mark_line("pyproject.toml") + install.partition("\n")[2] + late_lines,
        )
    return PythonInstall(plan.reason, early_lines, late_lines, plan.installs_package, (*plan.notes, *notes))


def _option_mistakes(request: _InstallRequest, installer: str) -> Iterator[SourceMistake]:
    is_locked = installer in ("uv", "poetry", "pylock")
    for key, value in (("bounds", request.options.bounds), ("before", request.options.before)):
        if value and is_locked:
            yield SourceMistake(
                key, "has no effect, because the lock file has each version; remove it, or write installer: project"
            )
    for key, value in (("extras", request.options.extras), ("groups", request.options.groups)):
        if value and installer in ("pylock", "requirements"):
            yield SourceMistake(
                key, f"is of pyproject.toml, and {installer} is what is installed; write installer: project"
            )


def _require_file(request: _InstallRequest, name: str, installer: str) -> None:
    if not request.layout.has(name):
        listed = ", ".join(INSTALLERS)
        raise BuildPlanError.of("installer", f"{installer} needs {name}, and there is none; write another of {listed}")


# --- the tools ----------------------------------------------------------------------------------------------


def _install_with_uv(request: _InstallRequest) -> PythonInstall:
    _require_file(request, "uv.lock", "uv")
    _require_file(request, "pyproject.toml", "uv")
    project = request.project
    options = "".join(f" --extra {shlex.quote(name)}" for name in request.extras)
    options += "".join(f" --group {shlex.quote(name)}" for name in request.options.groups)
    options += f" --package {shlex.quote(request.member.name)}" if request.member.folder else ""
    sync = f"RUN uv sync --frozen --no-dev{options}"
    is_package = _is_package(project)
    has_local_dependencies = "workspace" in table(request.top, "tool", "uv") or any(_find_local_dependencies(request))
    # The repository's own packages are not available before its code is copied.
    files = " ".join(["pyproject.toml", "uv.lock", *(["uv.toml"] if request.layout.has("uv.toml") else [])])
    early_lines = "" if has_local_dependencies else f"COPY {files} ./\n{sync} --no-install-project\n"
    late_lines = (
        f"{sync} --no-editable\n"
        if is_package or has_local_dependencies
        else f"{sync} --no-install-project\n"
        if not early_lines
        else ""
    )
    return PythonInstall("uv.lock", early_lines, late_lines, is_package)


def _is_package(project: Mapping[str, Any]) -> bool:
    setting = table(project, "tool", "uv").get("package")
    return setting is True or ("build-system" in project and setting is not False)


def _find_local_dependencies(request: _InstallRequest) -> Iterator[bool]:
    """Yield for several kinds of dependencies whether one is a file or folder of the repository."""
    for source in table(request.project, "tool", "uv", "sources").values():
        for entry in cast("list[Any]", source) if isinstance(source, list) else [source]:
            yield bool({"path", "workspace"} & set(table(entry)))
    for source in _project_requirements(request.project):
        yield "file:" in source
    yield (
        re.search(
            r'^source = \{ (?:editable|directory|path) = "(?!\.")',
            request.layout.texts.get("uv.lock", ""),
            re.MULTILINE,
        )
        is not None
    )


def _project_requirements(project: Mapping[str, Any]) -> list[str]:
    dependencies = table(project, "project").get("dependencies")
    return (
        [dependency for dependency in cast("list[Any]", dependencies) if isinstance(dependency, str)]
        if isinstance(dependencies, list)
        else []
    )


def _install_with_poetry(request: _InstallRequest) -> PythonInstall:
    _require_file(request, "poetry.lock", "poetry")
    project = request.project
    tool = (
        f"RUN python3 -m venv /opt/poetry && /opt/poetry/bin/pip install --quiet poetry=={POETRY_VERSION}"
        " && python3 -m venv /opt/venv\n"
        # poetry installs into the active environment.
        "ENV VIRTUAL_ENV=/opt/venv POETRY_NO_INTERACTION=1 POETRY_VIRTUALENVS_CREATE=false\n"
    )
    groups = ",".join(["main", *request.options.groups])
    extras = "".join(f" --extras {shlex.quote(item)}" for item in request.extras)
    poetry = f"RUN . /opt/venv/bin/activate && /opt/poetry/bin/poetry install --only {groups} --compile{extras}"
    has_local_dependencies = any(
        "path" in table(item) for item in table(project, "tool", "poetry", "dependencies").values()
    )
    files = " ".join(["pyproject.toml", "poetry.lock", *(["poetry.toml"] if request.layout.has("poetry.toml") else [])])
    early_lines = tool if has_local_dependencies else f"{tool}COPY {files} ./\n{poetry} --no-root --no-directory\n"
    is_package = table(project, "tool", "poetry").get("package-mode") is not False
    # Not editable: the environment must have the code that it runs.
    return PythonInstall("poetry.lock", early_lines, f"{poetry}{'' if is_package else ' --no-root'}\n", is_package)


def _venv_lines(arguments: str, files: str) -> str:
    copied = f"COPY {files} ./\n" if files else ""
    return f"{copied}RUN uv venv --quiet /opt/venv && {_PIP} {arguments}\n"


def _install_pylock(request: _InstallRequest) -> PythonInstall:
    _require_file(request, "pylock.toml", "pylock")
    package_line = _package_line(request)
    return PythonInstall("pylock.toml", _venv_lines("-r pylock.toml", "pylock.toml"), package_line, bool(package_line))


def _install_requirements(request: _InstallRequest) -> PythonInstall:
    _require_file(request, "requirements.txt", "requirements")
    content = request.layout.texts.get("requirements.txt", "").removeprefix(BYTE_ORDER_MARK)
    lines = [line.partition("#")[0].strip().removesuffix("\\").strip() for line in content.splitlines()]
    requirements = [line for line in lines if line and not line.startswith("-")]
    unpinned = [line for line in requirements if "==" not in line and "@" not in line]
    reason = "requirements.txt" + (
        f", {len(unpinned)} of {len(requirements)} entries without a version" if unpinned else ""
    )
    bounds, notes = _bound_arguments(request, requirements)
    # Files and folders that it names must be copied before.
    has_local_files = any(map(_is_local_requirement, lines))
    install = _venv_lines(f"-r requirements.txt{bounds}", "" if has_local_files else "requirements.txt")
    package_line = _package_line(request)
    if has_local_files:
        notes = (
            *notes,
            "the dependencies are installed behind the code: requirements.txt names files of its own (`installer`)",
        )
    return PythonInstall(
        reason,
        "" if has_local_files else install,
        (install if has_local_files else "") + package_line,
        bool(package_line),
        notes,
    )


def _is_local_requirement(line: str) -> bool:
    if line.startswith("-"):
        return line.partition("=")[0].split()[0] not in _PLAIN_OPTIONS
    name = line.partition(";")[0].strip()
    return (
        "file:" in name
        or ("/" in name and "://" not in name)
        or name.endswith((".whl", ".tar.gz", ".zip"))
        or name == "."
    )


def _install_project(request: _InstallRequest) -> PythonInstall:
    layout, project = request.layout, request.project
    if not ("project" in project or "build-system" in project or layout.has("setup.py") or layout.has("setup.cfg")):
        raise BuildPlanError.of("installer", "project needs a [project] in pyproject.toml, a setup.py or a setup.cfg")
    bounds, notes = _bound_arguments(request, _project_requirements(project))
    groups = "".join(f" --group {shlex.quote(extra)}" for extra in request.options.groups)
    reason = "no lock file, so the newest versions that are allowed when it is built"
    if request.options.before:
        reason = f"no lock file, so the newest versions of {request.options.before} that are allowed"
    folder = f"./{request.member.folder}" if request.member.folder else "."
    if _is_package(project) or "project" not in project:
        target = shlex.quote(f"{folder}[{','.join(request.extras)}]" if request.extras else folder)
        return PythonInstall(
            reason, "", _venv_lines(f"{target}{bounds}{groups}", ""), installs_package=True, notes=notes
        )
    # Without a build system it is not a package, so only its dependencies are installed.
    extras = "".join(f" --extra {shlex.quote(extra)}" for extra in request.extras)
    install = _venv_lines(f"-r {request.member.prefix}pyproject.toml{extras}{bounds}{groups}", "")
    return PythonInstall(reason, "", install, notes=notes)


def _package_line(request: _InstallRequest) -> str:
    """Return the line that installs the repository's own package with its scripts; empty if it is not a package."""
    return f"RUN {_PIP} --no-deps .\n" if "build-system" in request.project else ""


_INSTALL_PLANS: Final[Mapping[str, Callable[[_InstallRequest], PythonInstall]]] = {
    "uv": _install_with_uv,
    "poetry": _install_with_poetry,
    "pylock": _install_pylock,
    "requirements": _install_requirements,
    "project": _install_project,
}


# --- extras, bounds and files ------------------------------------------------------------------------------


def _choose_extras(layout: Layout, member: Member, options: BuildOptions) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Choose the extras to install: by default the one with the MCP library, if the project doesn't require it."""
    if options.extras is not None:
        return tuple(options.extras), ()
    project = member.manifest
    if any(_normalize_name(requirement) in _MCP for requirement in _project_requirements(project)):
        return (), ()
    if not any(re.search(r"^\s*(?:from|import)\s+(?:fast)?mcp\b", code, re.MULTILINE) for code in layout.code.values()):
        return (), ()
    candidates = [
        extra
        for extra, requirements in table(project, "project", "optional-dependencies").items()
        if isinstance(requirements, list)
        and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}", extra)
        and not _DEVELOPMENT_EXTRAS.search(extra)
        and any(
            _normalize_name(requirement) in _MCP
            for requirement in cast("list[Any]", requirements)
            if isinstance(requirement, str)
        )
    ]
    if len(candidates) != 1:
        return (), ()
    return (candidates[0],), (f"the extra {candidates[0]} is installed, which has the MCP library (`extras`)",)


def _normalize_name(requirement: str) -> str:
    match = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", requirement)
    return re.sub(r"[-_.]+", "-", match[1]).lower() if match else ""


def _bound_arguments(request: _InstallRequest, requirements: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return the user's bounds and date as arguments, plus a bound for code that needs SDK 1; and notes."""
    notes: tuple[str, ...] = ()
    bounds = [*request.options.bounds]
    sdk = next((requirement for requirement in requirements if _normalize_name(requirement) == "mcp"), None)
    uses_sdk_1 = any(map(_SDK_1_IMPORT.search, request.layout.code.values()))
    if (
        sdk is not None
        and uses_sdk_1
        and _allows_sdk_2(sdk)
        and not any(_normalize_name(requirement) == "mcp" for requirement in bounds)
    ):
        bounds.append("mcp<2")
        notes = ("mcp<2: its code imports mcp.server.fastmcp, which 2 does not have any more (`bounds`)",)
    arguments = "".join(f" {shlex.quote(requirement)}" for requirement in bounds)
    return arguments + (
        f" --exclude-newer {shlex.quote(request.options.before)}" if request.options.before else ""
    ), notes


def _allows_sdk_2(requirement: str) -> bool:
    try:
        return Requirement(requirement.partition("#")[0]).specifier.contains("2.3.0")
    except InvalidRequirement:
        return False


def _missing_file_lines(layout: Layout, member: Member) -> str:
    """Return lines that create files which a project names, such as its README, if they are missing in the context."""
    project = table(member.manifest, "project")
    values: list[Any] = [
        project.get("readme"),
        table(project, "readme").get("file"),
        table(project, "license").get("file"),
    ]
    values += [table(member.manifest, "tool", "poetry").get("readme")]
    names = {str(PurePosixPath(name)) for name in values if isinstance(name, str) and _FILE_NAME.fullmatch(name)}
    missing = sorted(name for name in names if layout.has(".dockerignore") or not layout.has(f"{member.prefix}{name}"))
    return "".join(f"RUN test -e {member.prefix}{name} || touch {member.prefix}{name}\n" for name in missing)
