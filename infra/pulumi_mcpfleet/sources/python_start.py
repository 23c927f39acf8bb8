"""How a Python repository starts: by its own word, else by the one file of it that serves."""

import configparser
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from pulumi_mcpfleet.sources.build_plan import BuildPlanError
from pulumi_mcpfleet.sources.commands import Command, commands
from pulumi_mcpfleet.sources.layout import MARK, Layout, table, text
from pulumi_mcpfleet.sources.manifests import REGISTRY, SMITHERY, packages, smithery_command
from pulumi_mcpfleet.sources.workspaces import Member

_FILES: Final = ("server.py", "main.py", "app.py", "mcp_server.py", "__main__.py")
"""Where a server without a package begins, by custom."""

_SCRIPT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,100}")
"""The name of a script, as the entry points' specification advises: it is a file's name, and a word of a command."""

_TARGET: Final = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")
_REFUSED: Final = re.compile(r"^(uv|uvx|pipx|poetry)$")
_GUARD: Final = re.compile(r"__name__\s*==\s*[\"']__main__[\"']")
_SERVES: Final = re.compile(
    r"^(?!def |class |async |import |from |#|@)\S.*(?:\.run\w*|serve_forever)\s*\(", re.MULTILINE
)
_OBJECT: Final = re.compile(r"^([A-Za-z_]\w*)(?:\s*:[^=\n]+)?\s*=\s*(?:fastmcp\.)?FastMCP\s*\(", re.MULTILINE)
_FASTMCP: Final = re.compile(r"^\s*(?:from\s+fastmcp\b|import\s+fastmcp\b)", re.MULTILINE)
_APP: Final = re.compile(
    r"^([A-Za-z_]\w*)(?:\s*:[^=\n]+)?\s*=\s*[\w.]*(?:http_app|sse_app|FastAPI|Starlette)\s*\(", re.MULTILINE
)


@dataclass(frozen=True)
class PythonStart:
    """How it starts: the command, and what it goes by."""

    words: tuple[str, ...]
    why: str


def python_start(
    layout: Layout, member: Member, wished: Sequence[str], *, installed: bool, stdio: bool = False
) -> PythonStart:
    """How a repository starts.

    Args:
        layout: The source.
        member: The package of it that is the server.
        wished: The user's own command.
        installed: Whether the package itself is installed, and so its scripts.
        stdio: Whether it speaks stdio.

    Raises:
        BuildPlanError: Nothing says so, or more than one thing.
    """
    if wished:
        if _REFUSED.match(wished[0]):
            sentence = f"{wished[0]} is not in the image; write what it would start, such as [python, -m, my_server]"
            raise BuildPlanError.of("start", sentence)
        return PythonStart(tuple(wished), "as `start` says")
    found = None if stdio else _procfile(layout)
    return (
        found
        or _fastmcp_json(layout, stdio=stdio)
        or _smithery(layout, member, installed=installed, stdio=stdio)
        or _registry(layout, member, installed=installed, stdio=stdio)
        or _by_scripts(layout, member, installed=installed)
        or _by_module(layout, member)
        or _by_files(layout, member, installed=installed)
    )


def _procfile(layout: Layout) -> PythonStart | None:
    line = re.search(r"^web:[ \t]*(\S.*)$", layout.texts.get("Procfile", "").removeprefix(MARK), re.MULTILINE)
    if line is None:
        return None
    said = text(line[1].strip()) or ""
    found = commands(said)
    if found is None or len(found) != 1:
        raise _undecided(
            f"web of the Procfile is {said!r}, which needs more of a shell; write start: [python, FILE.py]"
        )
    command = found[0]
    words = [*command.words]
    if words[:2] in (["uv", "run"], ["poetry", "run"]) and len(words) > 2 and not words[2].startswith("-"):
        words = words[2:]
    if _REFUSED.match(words[0]):
        raise _undecided(f"web of the Procfile is {said!r}, and {words[0]} is not in the image; write what it starts")
    return PythonStart(Command(command.variables, tuple(words)).executable, "web of the Procfile")


def _fastmcp_json(layout: Layout, *, stdio: bool) -> PythonStart | None:
    said = layout.json("fastmcp.json")
    path = text(table(said, "source").get("path"))
    if path is None:
        return None
    if not layout.has(str(PurePosixPath(path))):
        raise _undecided(f"fastmcp.json begins at {path[:100]!r}, which is not in the source; write start: […]")
    words = ["fastmcp", "run", "fastmcp.json", "--skip-env"]
    if stdio:
        return PythonStart((*words, "--transport", "stdio"), "fastmcp.json")
    if table(said, "deployment"):
        # What it says of the network is for another machine; what is written here comes first.
        options = '--transport http --host 0.0.0.0 --port "$PORT"'
        return PythonStart(("sh", "-c", f"exec {' '.join(words)} {options}"), "fastmcp.json")
    return PythonStart(tuple(words), "fastmcp.json")


def _smithery(layout: Layout, member: Member, *, installed: bool, stdio: bool) -> PythonStart | None:
    """By smithery.yaml, where its command is one that the image has: many name what only their authors have."""
    words = [*smithery_command(layout, stdio=stdio)]
    if words[:2] == ["uv", "run"] and len(words) > 2 and not words[2].startswith("-"):
        words = words[2:]
    if not words or member.folder:
        return None
    if words[0] in ("python", "python3"):
        there = _is_there(layout, words[1:], installed=installed)
    else:
        there = installed and words[0] in _scripts(layout, member) and _SCRIPT.fullmatch(words[0]) is not None
    return PythonStart(tuple(words), f"commandFunction of {SMITHERY}") if there else None


def _is_there(layout: Layout, words: Sequence[str], *, installed: bool) -> bool:
    """Whether Python finds the file, or the module, that these words have it start."""
    if words[:1] == ["-m"] and len(words) > 1:
        place = words[1].replace(".", "/")
        return installed or any(layout.has(f"{place}{end}") for end in (".py", "/__main__.py"))
    return bool(words) and layout.has(words[0].removeprefix("./"))


def _registry(layout: Layout, member: Member, *, installed: bool, stdio: bool) -> PythonStart | None:
    """By server.json: a package of PyPI is started by its script, with the arguments that stand there."""
    if not (installed and stdio):  # its arguments for HTTP are another machine's address and port
        return None
    scripts = [one for one in _scripts(layout, member) if _SCRIPT.fullmatch(one)]
    for one in packages(layout):
        named = [script for script in scripts if _folded(script) == _folded(one.name)]
        if one.kind == "pypi" and one.transport == "stdio" and named:
            return PythonStart((named[0], *one.args), f"the package of {REGISTRY}")
    return None


def _by_scripts(layout: Layout, member: Member, *, installed: bool) -> PythonStart | None:
    project = member.manifest
    scripts = _scripts(layout, member)
    name = text(table(project, "project").get("name")) or text(table(project, "tool", "poetry").get("name")) or ""
    if odd := [script for script in scripts if not _SCRIPT.fullmatch(script)]:
        raise _undecided(
            f"pyproject.toml has the script {odd[0][:100]!r}, no program's name; mend it, or write start: [NAME]"
        )
    if not installed:
        # Nothing installs them: where what one calls lies at the top, it is called there.
        scripts = {script: said for script, said in scripts.items() if _lies_here(layout, member, said)}
    if len(scripts) == 1:
        ((script, said),) = scripts.items()
        return PythonStart(_called(script, said, installed=installed), "the only script of pyproject.toml")
    if same := [script for script in scripts if _folded(script) == _folded(name)]:
        words = _called(same[0], scripts[same[0]], installed=installed)
        return PythonStart(words, "the script that is called as the project")
    if scripts:
        raise _undecided(f"pyproject.toml has the scripts {_listed(scripts)}; write one of them, start: [NAME]")
    return None


def _of_project(member: Member) -> dict[str, Any]:
    """The scripts of pyproject.toml."""
    project = member.manifest
    return {**table(project, "tool", "poetry", "scripts"), **table(project, "project", "scripts")}


def _scripts(layout: Layout, member: Member) -> dict[str, Any]:
    found = _of_project(member)
    if found or member.folder:
        return found
    setup = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        setup.read_string(layout.texts.get("setup.cfg", "").removeprefix(MARK))
        lines = setup.get("options.entry_points", "console_scripts", fallback="")
    except configparser.Error:
        return {}
    pairs = (line.split("=", 1) for line in lines.splitlines() if "=" in line)
    return {name.strip(): said.strip() for name, said in pairs}


def _lies_here(layout: Layout, member: Member, said: Any) -> bool:
    found = _TARGET.fullmatch(said) if isinstance(said, str) else None
    place = member.within + found[1].replace(".", "/") if found else ""
    return found is not None and (layout.has(f"{place}.py") or layout.has(f"{place}/__init__.py"))


def _called(script: str, said: Any, *, installed: bool) -> tuple[str, ...]:
    found = _TARGET.fullmatch(said) if isinstance(said, str) else None
    if installed or found is None:
        return (script,)
    return ("python", "-c", f"import sys; from {found[1]} import {found[2]}; sys.exit({found[2]}())")


def _by_module(layout: Layout, member: Member) -> PythonStart | None:
    modules = sorted({module for name in layout.names if (module := _module(name, member.within))})
    if len(modules) == 1:
        return PythonStart(("python", "-m", modules[0]), f"{modules[0]} has a __main__.py")
    if modules:
        raise _undecided(f"several packages have a __main__.py: {_listed(modules)}; write start: [python, -m, NAME]")
    return None


def _by_files(layout: Layout, member: Member, *, installed: bool) -> PythonStart:
    there = {
        name: layout.code.get(f"{member.within}{name}", "") for name in _FILES if layout.has(f"{member.within}{name}")
    }
    # Of a file that is empty or long nothing is known, and its name is all there is.
    runs = [name for name, code in there.items() if not code.strip() or _GUARD.search(code) or _SERVES.search(code)]
    if len(runs) == 1:
        return PythonStart(("python", runs[0]), f"{runs[0]} is where it begins, by its name")
    served = [found for name, code in there.items() if (found := _served(name, code)) is not None]
    if not runs and len(served) == 1:
        return served[0]
    if (scripts := _scripts(layout, member)) and not installed:
        raise _undecided(_uninstalled(member, scripts))
    if runs:
        raise _undecided(f"any of {_listed(runs)} may be where it begins; write start: [python, {runs[0]}]")
    if there:
        raise _undecided(
            f"{_listed([*there])} has neither a main guard nor a server that could be started; write start: [python,"
            " FILE.py]"
        )
    raise _undecided(
        "nothing says how the server starts: no [project.scripts], no package with a __main__.py and none of"
        f" {', '.join(_FILES[:-1])}; write start: [python, FILE.py]"
    )


def _uninstalled(member: Member, scripts: Mapping[str, Any]) -> str:
    """That there are scripts, and why nothing installs them."""
    lack, mend = "no [build-system]", "add one"
    if "build-system" in member.manifest:
        lack, mend = "package (or package-mode) is false", "remove that"
    file = "pyproject.toml" if _of_project(member) else "setup.cfg"
    begin = f"{file} has the script {_listed(scripts)}, but {lack}, so that nothing installs it"
    return f"{begin}; {mend}, or write start: [python, FILE.py]"


def _served(name: str, code: str) -> PythonStart | None:
    """A file that makes a server and starts none: by what runs such servers."""
    if (app := _APP.search(code)) is not None:
        words = f'exec uvicorn {shlex.quote(f"{name[:-3]}:{app[1]}")} --host 0.0.0.0 --port "$PORT"'
        return PythonStart(("sh", "-c", words), f"{name} has the application {app[1]}")
    if (server := _OBJECT.search(code)) is not None and _FASTMCP.search(code):
        return PythonStart(
            ("fastmcp", "run", f"{name}:{server[1]}", "--skip-env"), f"{name} has the server {server[1]}"
        )
    return None


def _module(name: str, within: str) -> str:
    found = re.fullmatch(rf"{re.escape(within)}(?:src/)?([A-Za-z_]\w*)/__main__\.py", name)
    return found[1] if found and found[1] not in ("tests", "test", "examples", "docs", "src") else ""


def _folded(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(sorted(names)[:10])


def _undecided(sentence: str) -> BuildPlanError:
    return BuildPlanError.of("start", sentence)
