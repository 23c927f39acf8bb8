"""How a Python repository is installed and started."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pulumi_mcpfleet.sources.layout import Layout, table, text
from pulumi_mcpfleet.sources.python_version import broken_rules, given_way
from pulumi_mcpfleet.sources.recipe import (
    LEFT_OUT,
    Mistake,
    Recipe,
    RecipeError,
    Wish,
    built,
)

POETRY_VERSION: Final = "2.5.1"

INSTALLERS: Final = ("uv", "poetry", "pylock", "requirements", "project")
"""What `installer` may say for Python, best first."""

_FILES: Final = ("server.py", "main.py", "app.py", "mcp_server.py", "__main__.py")
"""Where a server without a package begins, by custom."""

_FOREIGN: Final = {
    "pdm.lock": "PDM's lock file",
    "Pipfile.lock": "Pipenv's lock file",
    "Pipfile": "Pipenv's file",
    "environment.yml": "conda's environment",
    "conda-lock.yml": "conda's lock file",
}
_SCRIPT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,100}")
"""The name of a script, as the entry points' specification advises: it is a file's name, and a word of a command."""

_REFUSED_STARTS: Final = re.compile(r"^(uv|uvx|pipx|poetry)$")


@dataclass(frozen=True)
class _Install:
    """One way to install.

    Attributes:
        why: What it goes by, for the report.
        early: Lines before the code is copied, for the layer that stays when only code changes.
        late: Lines after.
    """

    why: str
    early: str
    late: str


def is_python(layout: Layout) -> bool:
    """Whether the folder is a Python repository."""
    return any(map(layout.has, ("pyproject.toml", "requirements.txt", "setup.py", "setup.cfg", "pylock.toml")))


def python_recipe(layout: Layout, wish: Wish) -> Recipe:
    """The Dockerfile of a Python repository.

    Raises:
        RecipeError: Something can't be decided, or is not supported.
    """
    project = layout.toml("pyproject.toml")
    mistakes: list[Mistake] = list(broken_rules(layout, project, wish.build_args))
    installer, install = "", _Install("", "", "")
    try:
        installer = wish.installer or _installer(layout, project)
        install = _INSTALLS[installer](layout, project)
    except RecipeError as error:
        mistakes += error.mistakes
    except KeyError:
        mistakes.append(Mistake("installer", f"{wish.installer!r} is no installer of Python; write one of {_or()}"))
    start, why = tuple(wish.start), "as `start` says"
    try:
        if not start:
            start, why = _start(layout, project)
        elif _REFUSED_STARTS.match(start[0]):
            sentence = f"{start[0]} is not in the image; write what it would start, such as [python, -m, my_server]"
            mistakes.append(Mistake("start", sentence))
    except RecipeError as error:
        mistakes += error.mistakes
    if mistakes:
        raise RecipeError(mistakes)
    dockerfile = built(
        install.early + "COPY . .\n" + LEFT_OUT + install.late,
        "COPY --from=build /opt/venv /opt/venv\nCOPY --from=build /app /app\n",
        environment="PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1",
        start=start,
        wish=wish,
    )
    decided = [
        "Python (`language`)",
        *given_way(layout, wish.build_args),
        f"{installer}: {install.why} (`installer`)",
        f"{' '.join(start)}: {why} (`start`)",
    ]
    return Recipe(dockerfile=dockerfile, decided=decided)


def _or() -> str:
    return ", ".join(INSTALLERS)


# --- what it needs ----------------------------------------------------------------------------------------


def _installer(layout: Layout, project: Mapping[str, Any]) -> str:
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
        raise RecipeError.of(
            "installer",
            f"{foreign[0]}, which is not supported; add a uv.lock (uv lock) or a requirements.txt, or write"
            " installer: project, which takes the newest versions that pyproject.toml allows",
        )
    if "build-system" in project or "project" in project or layout.has("setup.py") or layout.has("setup.cfg"):
        return "project"
    raise RecipeError.of(
        "installer",
        "nothing says what the server depends on: there is no uv.lock, poetry.lock, pylock.toml,"
        " requirements.txt and no [project] in pyproject.toml; add one of them, or a Dockerfile",
    )


def _needs(layout: Layout, name: str, installer: str) -> None:
    if not layout.has(name):
        raise RecipeError.of("installer", f"{installer} needs {name}, and there is none; write another of {_or()}")


def _uv(layout: Layout, project: Mapping[str, Any]) -> _Install:
    _needs(layout, "uv.lock", "uv")
    _needs(layout, "pyproject.toml", "uv")
    sync = "RUN uv sync --frozen --no-dev"
    package = "build-system" in project and table(project, "tool", "uv").get("package") is not False
    own_parts = "workspace" in table(project, "tool", "uv") or any(
        isinstance(source, dict) and {"path", "workspace"} & set(source)  # pyright: ignore[reportUnknownArgumentType]
        for source in table(project, "tool", "uv", "sources").values()
    )
    # Packages of the repository's own are not there before its code is.
    early = "" if own_parts else f"COPY pyproject.toml uv.lock ./\n{sync} --no-install-project\n"
    late = f"{sync} --no-editable\n" if package or own_parts else f"{sync} --no-install-project\n" if not early else ""
    return _Install("uv.lock", early, late)


def _poetry(layout: Layout, project: Mapping[str, Any]) -> _Install:
    _needs(layout, "poetry.lock", "poetry")
    tool = (
        f"RUN python3 -m venv /opt/poetry && /opt/poetry/bin/pip install --quiet poetry=={POETRY_VERSION}"
        " && python3 -m venv /opt/venv\n"
        # An environment that is active is the one that poetry installs into.
        "ENV VIRTUAL_ENV=/opt/venv POETRY_NO_INTERACTION=1 POETRY_VIRTUALENVS_CREATE=false\n"
    )
    poetry = "RUN . /opt/venv/bin/activate && /opt/poetry/bin/poetry install --only main --compile"
    early = f"{tool}COPY pyproject.toml poetry.lock ./\n{poetry} --no-root --no-directory\n"
    package = table(project, "tool", "poetry").get("package-mode") is not False
    # Not in editable form: the environment has to hold what it runs.
    late = f"{poetry}{'' if package else ' --no-root'}\n"
    return _Install("poetry.lock", early, late)


def _venv(arguments: str, files: str) -> str:
    copied = f"COPY {files} ./\n" if files else ""
    return (
        f"{copied}RUN uv venv --quiet /opt/venv && uv pip install --quiet --python /opt/venv/bin/python {arguments}\n"
    )


def _pylock(layout: Layout, project: Mapping[str, Any]) -> _Install:
    _needs(layout, "pylock.toml", "pylock")
    return _Install("pylock.toml", _venv("-r pylock.toml", "pylock.toml"), _own_package(project))


def _requirements(layout: Layout, project: Mapping[str, Any]) -> _Install:
    _needs(layout, "requirements.txt", "requirements")
    content = layout.texts.get("requirements.txt", "")
    lines = [line.partition("#")[0].strip() for line in content.splitlines()]
    wanted = [line for line in lines if line and not line.startswith("-")]
    loose = [line for line in wanted if "==" not in line and "@" not in line]
    why = "requirements.txt" + (f", {len(loose)} of {len(wanted)} entries without a version" if loose else "")
    # Files that it names, and folders to install, have to be there as well.
    others = any(
        line.startswith(("-r", "-c", "-e", "--requirement", "--constraint", "--editable", ".")) for line in lines
    )
    install = _venv("-r requirements.txt", "" if others else "requirements.txt")
    own = _own_package(project)
    return _Install(why, "" if others else install, (install if others else "") + own)


def _project(layout: Layout, project: Mapping[str, Any]) -> _Install:
    if not ("project" in project or "build-system" in project or layout.has("setup.py") or layout.has("setup.cfg")):
        raise RecipeError.of("installer", "project needs a [project] in pyproject.toml, a setup.py or a setup.cfg")
    return _Install("no lock file, so the newest versions that are allowed when it is built", "", _venv(".", ""))


def _own_package(project: Mapping[str, Any]) -> str:
    """The repository itself, where it is a package: its scripts are then there to start."""
    if "build-system" not in project:
        return ""
    return "RUN uv pip install --quiet --python /opt/venv/bin/python --no-deps .\n"


_INSTALLS: Final[Mapping[str, Callable[[Layout, Mapping[str, Any]], _Install]]] = {
    "uv": _uv,
    "poetry": _poetry,
    "pylock": _pylock,
    "requirements": _requirements,
    "project": _project,
}


# --- how it starts ----------------------------------------------------------------------------------------


def _start(layout: Layout, project: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    scripts = {**table(project, "tool", "poetry", "scripts"), **table(project, "project", "scripts")}
    name = text(table(project, "project").get("name")) or text(table(project, "tool", "poetry").get("name")) or ""
    if scripts and "build-system" not in project and not table(project, "tool", "poetry"):
        # Without a build system nothing is installed, the scripts neither.
        scripts = {}
    if odd := [script for script in scripts if not _SCRIPT.fullmatch(script)]:
        raise _undecided(
            f"pyproject.toml has the script {odd[0][:100]!r}, no program's name; mend it, or write start: [NAME]"
        )
    if len(scripts) == 1:
        (script,) = scripts
        return (script,), "the only script of pyproject.toml"
    if same := [script for script in scripts if _folded(script) == _folded(name)]:
        return (same[0],), "the script that is called as the project"
    if scripts:
        raise _undecided(f"pyproject.toml has the scripts {_listed(scripts)}; write one of them, start: [NAME]")
    modules = sorted({_package(name) for name in layout.names if _package(name)})
    if len(modules) == 1:
        return ("python", "-m", modules[0]), f"{modules[0]} has a __main__.py"
    if modules:
        raise _undecided(f"several packages have a __main__.py: {_listed(modules)}; write start: [python, -m, NAME]")
    files = [name for name in _FILES if layout.has(name)]
    if len(files) == 1:
        return ("python", files[0]), f"{files[0]} is where it begins, by its name"
    if files:
        raise _undecided(f"any of {_listed(files)} may be where it begins; write start: [python, {files[0]}]")
    raise _undecided(
        "nothing says how the server starts: no [project.scripts], no package with a __main__.py and none of"
        f" {', '.join(_FILES[:-1])}; write start: [python, FILE.py]"
    )


def _package(name: str) -> str:
    found = re.fullmatch(r"(?:src/)?([A-Za-z_]\w*)/__main__\.py", name)
    return found[1] if found and found[1] not in ("tests", "test", "examples", "docs", "src") else ""


def _folded(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(sorted(names)[:10])


def _undecided(sentence: str) -> RecipeError:
    return RecipeError.of("start", sentence)
