"""Finds how a Python repository starts: by its manifests or scripts, else by its only file that serves."""

import configparser
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from pulumi_mcpfleet.sources.build_plan import BuildPlanError
from pulumi_mcpfleet.sources.commands import Command, parse_script
from pulumi_mcpfleet.sources.layout import BYTE_ORDER_MARK, Layout, table, text
from pulumi_mcpfleet.sources.manifests import REGISTRY, SMITHERY, registry_packages, smithery_command
from pulumi_mcpfleet.sources.workspaces import Member

_USUAL_FILES: Final = ("server.py", "main.py", "app.py", "mcp_server.py", "__main__.py")
"""The usual names of the file that starts a server without a package."""

_SCRIPT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,100}")
"""The name of a script (entry points specification): it is also a file name, and a word of a command."""

_TARGET: Final = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")
_UNAVAILABLE: Final = re.compile(r"^(uv|uvx|pipx|poetry)$")
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
    """How a Python repository starts: the command, and why this command."""

    command: tuple[str, ...]
    reason: str


def find_python_start(
    layout: Layout, member: Member, user_command: Sequence[str], *, installed: bool, stdio: bool = False
) -> PythonStart:
    """Find how a repository starts.

    Args:
        layout: The source.
        member: The package that is the server.
        user_command: The user's own command.
        installed: Whether the package itself is installed, with its scripts.
        stdio: Whether the server speaks stdio.

    Raises:
        BuildPlanError: Nothing determines the command, or several things do.
    """
    if user_command:
        if _UNAVAILABLE.match(user_command[0]):
            message = (
                f"{user_command[0]} is not in the image; write what it would start, such as [python, -m, my_server]"
            )
            raise BuildPlanError.of("start", message)
        return PythonStart(tuple(user_command), "as `start` says")
    start = None if stdio else _start_by_procfile(layout)
    return (
        start
        or _start_by_fastmcp_json(layout, stdio=stdio)
        or _start_by_smithery(layout, member, installed=installed, stdio=stdio)
        or _start_by_registry(layout, member, installed=installed, stdio=stdio)
        or _start_by_scripts(layout, member, installed=installed)
        or _start_by_module(layout, member)
        or _start_by_files(layout, member, installed=installed)
    )


def _start_by_procfile(layout: Layout) -> PythonStart | None:
    line = re.search(
        r"^web:[ \t]*(\S.*)$", layout.texts.get("Procfile", "").removeprefix(BYTE_ORDER_MARK), re.MULTILINE
    )
    if line is None:
        return None
    script = text(line[1].strip()) or ""
    parsed = parse_script(script)
    if parsed is None or len(parsed) != 1:
        raise _undecided_error(
            f"web of the Procfile is {script!r}, which needs more of a shell; write start: [python, FILE.py]"
        )
    command = parsed[0]
    words = [*command.words]
    if words[:2] in (["uv", "run"], ["poetry", "run"]) and len(words) > 2 and not words[2].startswith("-"):
        words = words[2:]
    if _UNAVAILABLE.match(words[0]):
        raise _undecided_error(
            f"web of the Procfile is {script!r}, and {words[0]} is not in the image; write what it starts"
        )
    return PythonStart(Command(command.variables, tuple(words)).executable, "web of the Procfile")


def _start_by_fastmcp_json(layout: Layout, *, stdio: bool) -> PythonStart | None:
    config = layout.json("fastmcp.json")
    path = text(table(config, "source").get("path"))
    if path is None:
        return None
    if not layout.has(str(PurePosixPath(path))):
        raise _undecided_error(f"fastmcp.json begins at {path[:100]!r}, which is not in the source; write start: […]")
    words = ["fastmcp", "run", "fastmcp.json", "--skip-env"]
    if stdio:
        return PythonStart((*words, "--transport", "stdio"), "fastmcp.json")
    if table(config, "deployment"):
        # Its network settings are for another machine. The options here take precedence.
        options = '--transport http --host 0.0.0.0 --port "$PORT"'
        return PythonStart(("sh", "-c", f"exec {' '.join(words)} {options}"), "fastmcp.json")
    return PythonStart(tuple(words), "fastmcp.json")


def _start_by_smithery(layout: Layout, member: Member, *, installed: bool, stdio: bool) -> PythonStart | None:
    """Find the start by smithery.yaml, if the image has its command: many name a path that only their authors have."""
    words = [*smithery_command(layout, stdio=stdio)]
    if words[:2] == ["uv", "run"] and len(words) > 2 and not words[2].startswith("-"):
        words = words[2:]
    if not words or member.folder:
        return None
    if words[0] in ("python", "python3"):
        can_start = _is_startable(layout, words[1:], installed=installed)
    else:
        can_start = installed and words[0] in _find_scripts(layout, member) and _SCRIPT.fullmatch(words[0]) is not None
    return PythonStart(tuple(words), f"commandFunction of {SMITHERY}") if can_start else None


def _is_startable(layout: Layout, words: Sequence[str], *, installed: bool) -> bool:
    """Whether the file or module that these arguments of Python start exists."""
    if words[:1] == ["-m"] and len(words) > 1:
        module_path = words[1].replace(".", "/")
        return installed or any(layout.has(f"{module_path}{end}") for end in (".py", "/__main__.py"))
    return bool(words) and layout.has(words[0].removeprefix("./"))


def _start_by_registry(layout: Layout, member: Member, *, installed: bool, stdio: bool) -> PythonStart | None:
    """Find the start by server.json: the script of its PyPI package, with the arguments in the file."""
    if not (installed and stdio):  # arguments for HTTP have the address and port of another machine
        return None
    scripts = [one for one in _find_scripts(layout, member) if _SCRIPT.fullmatch(one)]
    for one in registry_packages(layout):
        matching = [script for script in scripts if _normalize_name(script) == _normalize_name(one.name)]
        if one.kind == "pypi" and one.transport == "stdio" and matching:
            return PythonStart((matching[0], *one.args), f"the package of {REGISTRY}")
    return None


def _start_by_scripts(layout: Layout, member: Member, *, installed: bool) -> PythonStart | None:
    project = member.manifest
    scripts = _find_scripts(layout, member)
    name = text(table(project, "project").get("name")) or text(table(project, "tool", "poetry").get("name")) or ""
    if invalid := [script for script in scripts if not _SCRIPT.fullmatch(script)]:
        raise _undecided_error(
            f"pyproject.toml has the script {invalid[0][:100]!r}, no program's name; mend it, or write start: [NAME]"
        )
    if not installed:
        # The scripts are not installed. If a script's function is importable from the top folder, it is called there.
        scripts = {script: target for script, target in scripts.items() if _is_importable(layout, member, target)}
    if len(scripts) == 1:
        ((script, target),) = scripts.items()
        return PythonStart(_script_command(script, target, installed=installed), "the only script of pyproject.toml")
    if project_scripts := [script for script in scripts if _normalize_name(script) == _normalize_name(name)]:
        words = _script_command(project_scripts[0], scripts[project_scripts[0]], installed=installed)
        return PythonStart(words, "the script that is called as the project")
    if scripts:
        raise _undecided_error(
            f"pyproject.toml has the scripts {_join_names(scripts)}; write one of them, start: [NAME]"
        )
    return None


def _pyproject_scripts(member: Member) -> dict[str, Any]:
    """Return the scripts of pyproject.toml."""
    project = member.manifest
    return {**table(project, "tool", "poetry", "scripts"), **table(project, "project", "scripts")}


def _find_scripts(layout: Layout, member: Member) -> dict[str, Any]:
    scripts = _pyproject_scripts(member)
    if scripts or member.folder:
        return scripts
    setup = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        setup.read_string(layout.texts.get("setup.cfg", "").removeprefix(BYTE_ORDER_MARK))
        lines = setup.get("options.entry_points", "console_scripts", fallback="")
    except configparser.Error:
        return {}
    pairs = (line.split("=", 1) for line in lines.splitlines() if "=" in line)
    return {name.strip(): target.strip() for name, target in pairs}


def _is_importable(layout: Layout, member: Member, target: Any) -> bool:
    match = _TARGET.fullmatch(target) if isinstance(target, str) else None
    module_path = member.prefix + match[1].replace(".", "/") if match else ""
    return match is not None and (layout.has(f"{module_path}.py") or layout.has(f"{module_path}/__init__.py"))


def _script_command(script: str, target: Any, *, installed: bool) -> tuple[str, ...]:
    match = _TARGET.fullmatch(target) if isinstance(target, str) else None
    if installed or match is None:
        return (script,)
    return ("python", "-c", f"import sys; from {match[1]} import {match[2]}; sys.exit({match[2]}())")


def _start_by_module(layout: Layout, member: Member) -> PythonStart | None:
    modules = sorted({module for name in layout.names if (module := _module_name(name, member.prefix))})
    if len(modules) == 1:
        return PythonStart(("python", "-m", modules[0]), f"{modules[0]} has a __main__.py")
    if modules:
        raise _undecided_error(
            f"several packages have a __main__.py: {_join_names(modules)}; write start: [python, -m, NAME]"
        )
    return None


def _start_by_files(layout: Layout, member: Member, *, installed: bool) -> PythonStart:
    code_by_name = {
        name: layout.code.get(f"{member.prefix}{name}", "")
        for name in _USUAL_FILES
        if layout.has(f"{member.prefix}{name}")
    }
    # The content of an empty or long file is unknown, so only its name counts.
    runnable = [
        name for name, code in code_by_name.items() if not code.strip() or _GUARD.search(code) or _SERVES.search(code)
    ]
    if len(runnable) == 1:
        return PythonStart(("python", runnable[0]), f"{runnable[0]} is where it begins, by its name")
    servers = [server for name, code in code_by_name.items() if (server := _find_server(name, code)) is not None]
    if not runnable and len(servers) == 1:
        return servers[0]
    if (scripts := _find_scripts(layout, member)) and not installed:
        raise _undecided_error(_uninstalled_message(member, scripts))
    if runnable:
        raise _undecided_error(
            f"any of {_join_names(runnable)} may be where it begins; write start: [python, {runnable[0]}]"
        )
    if code_by_name:
        raise _undecided_error(
            f"{_join_names([*code_by_name])} has neither a main guard nor a server that could be"
            f" started; write start: [python,"
            " FILE.py]"
        )
    raise _undecided_error(
        "can't find how the server starts: there is no [project.scripts], no package with a __main__.py and none of"
        f" {', '.join(_USUAL_FILES[:-1])}; write start: [python, FILE.py]"
    )


def _uninstalled_message(member: Member, scripts: Mapping[str, Any]) -> str:
    """Return the message about scripts that are not installed, with the cause."""
    cause, fix = "no [build-system]", "add one"
    if "build-system" in member.manifest:
        cause, fix = "package (or package-mode) is false", "remove that"
    file = "pyproject.toml" if _pyproject_scripts(member) else "setup.cfg"
    start = f"{file} has the script {_join_names(scripts)}, but {cause}, so that nothing installs it"
    return f"{start}; {fix}, or write start: [python, FILE.py]"


def _find_server(name: str, code: str) -> PythonStart | None:
    """Return the command that runs the server which a file defines but doesn't start; None if it defines none."""
    if (app := _APP.search(code)) is not None:
        command = f'exec uvicorn {shlex.quote(f"{name[:-3]}:{app[1]}")} --host 0.0.0.0 --port "$PORT"'
        return PythonStart(("sh", "-c", command), f"{name} has the application {app[1]}")
    if (server := _OBJECT.search(code)) is not None and _FASTMCP.search(code):
        return PythonStart(
            ("fastmcp", "run", f"{name}:{server[1]}", "--skip-env"), f"{name} has the server {server[1]}"
        )
    return None


def _module_name(name: str, within: str) -> str:
    match = re.fullmatch(rf"{re.escape(within)}(?:src/)?([A-Za-z_]\w*)/__main__\.py", name)
    return match[1] if match and match[1] not in ("tests", "test", "examples", "docs", "src") else ""


def _normalize_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _join_names(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(sorted(names)[:10])


def _undecided_error(message: str) -> BuildPlanError:
    return BuildPlanError.of("start", message)
