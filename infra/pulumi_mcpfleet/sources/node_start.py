"""Finds how a Node.js package starts and what must be built first: by the user's command, its scripts or its bin."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Final

from pulumi_mcpfleet.sources.build_plan import BuildPlanError
from pulumi_mcpfleet.sources.commands import Command, parse_script
from pulumi_mcpfleet.sources.layout import BYTE_ORDER_MARK, Layout, table, text
from pulumi_mcpfleet.sources.manifests import REGISTRY, SMITHERY, registry_packages, smithery_command
from pulumi_mcpfleet.sources.workspaces import Member

_MANAGERS: Final = ("npm", "pnpm", "yarn")
_RUNNERS: Final = (("npx",), ("npm", "exec", "--"), ("pnpm", "exec"), ("yarn", "exec"), ("npx", "--no-install"))
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_:.@/-]{0,100}")
"""The name of a script or a tool: a word that needs no quotes, and is not an option."""

_OPTIONS_WITH_VALUE: Final = ("--import", "--require", "-r", "--loader", "--experimental-loader", "--env-file", "-C")
_LOADING_OPTIONS: Final = ("--import", "--require", "-r", "--loader", "--experimental-loader")
_INSTALL_SCRIPTS: Final = ("preinstall", "install", "postinstall", "prepare")
_BUILD_SCRIPTS: Final = ("build", "prepack", "prepublishOnly", "compile", "bundle", "tsc", "dist")
"""The usual names of scripts that build what a package publishes. The first one that exists is run."""

_MAX_DEPTH: Final = 5
_LISTED_LEVELS: Final = 3  # levels of folders of which Layout has the names


@dataclass(frozen=True)
class NodeStart:
    """How a Node.js package starts.

    Attributes:
        command: The command.
        reason: Why this command, for the report.
        build_scripts: Scripts of package.json that must run before.
        build_tool: A tool that builds the package if no script does.
        kept_packages: Development dependencies that the command needs.
        notes: Further decisions.
        is_dependency_program: Whether the program is one of a dependency.
    """

    command: tuple[str, ...]
    reason: str
    build_scripts: tuple[str, ...] = ()
    build_tool: tuple[str, ...] = ()
    kept_packages: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    is_dependency_program: bool = False


def find_node_start(layout: Layout, member: Member, user_command: Sequence[str], *, stdio: bool = False) -> NodeStart:
    """Find how a package starts.

    Args:
        layout: The source.
        member: The package.
        user_command: The user's command; empty to detect it.
        stdio: Whether the server speaks stdio.

    Raises:
        BuildPlanError: Nothing determines the command, or several things do.
    """
    package, folder = member.manifest, member.prefix
    if user_command:
        return _keep_packages(NodeStart(tuple(user_command), "as `start` says", _build_script(package)), package)
    procfile = re.search(
        r"^web:[ \t]*(\S.*)$", layout.texts.get("Procfile", "").removeprefix(BYTE_ORDER_MARK), re.MULTILINE
    )
    if procfile is not None and not folder:
        start = replace(_start_by_script(package, text(procfile[1].strip()) or ""), reason="web of the Procfile")
        return _add_build(layout, package, folder, _keep_packages(start, package))
    if not folder and (manifest_start := _start_by_manifests(layout, package, stdio=stdio)) is not None:
        return manifest_start
    script = text(table(package, "scripts").get("start"))
    start = _start_by_script(package, script) if script is not None else _start_by_file(layout, package, folder)
    return _add_build(layout, package, folder, _keep_packages(start, package))


def _build_script(package: Mapping[str, Any]) -> tuple[str, ...]:
    return ("build",) if text(table(package, "scripts").get("build")) else ()


# --- by its scripts -----------------------------------------------------------------------------------------


def _start_by_script(package: Mapping[str, Any], script: str) -> NodeStart:
    reason = "the start script of package.json, without npm around it"
    before, command = _resolve_script(package, script, "start", _MAX_DEPTH)
    build, tool = [*_build_script(package)], ()
    for earlier in before:
        if (name := _find_script(package, earlier)) is not None:
            build += [] if name in build else [name]
        elif earlier.words[0] == "tsc" and len(earlier.executable) == len(earlier.words):  # without variables
            tool = () if build else earlier.words
        else:
            raise _undecided_error(script)
    name = command.words[0]
    if name != "node" and not _NAME.fullmatch(name):
        raise _undecided_error(script)
    if name != "node" and name not in {**table(package, "dependencies"), **table(package, "devDependencies")}:
        raise _undecided_error(script)
    return NodeStart(command.executable, reason, tuple(build), tool, is_dependency_program=name != "node")


def _resolve_script(
    package: Mapping[str, Any], script: str, name: str, depth_left: int
) -> tuple[list[Command], Command]:
    """Resolve the scripts that a script runs. Return the commands before the last one, and the last one."""
    parsed = parse_script(script)
    if parsed is None or not depth_left:
        raise _undecided_error(script)
    *before, last = parsed
    pre_script = text(table(package, "scripts").get(f"pre{name}"))
    before = [
        *(
            (Command((), ("npm", "run", f"pre{name}")),)
            if pre_script and _does_more_than_build(package, pre_script)
            else ()
        ),
        *before,
    ]
    for runner in _RUNNERS:
        if last.words[: len(runner)] == runner and len(last.words) > len(runner):
            last = replace(last, words=last.words[len(runner) :])
            break
    inner = _find_script(package, last)
    if inner is None:
        return before, last
    inner_before, inner_last = _resolve_script(
        package, text(table(package, "scripts").get(inner)) or "", inner, depth_left - 1
    )
    arguments = last.words[last.words.index(inner) + 1 :]
    arguments = arguments[1:] if arguments[:1] == ("--",) else arguments
    variables = (*last.variables, *inner_last.variables)
    return [*before, *inner_before], Command(variables, (*inner_last.words, *arguments))


def _does_more_than_build(package: Mapping[str, Any], script: str) -> bool:
    """Whether a `pre` script does more than running `build`."""
    parsed = parse_script(script)
    return parsed is None or [_find_script(package, command) for command in parsed] != ["build"]


def _find_script(package: Mapping[str, Any], command: Command) -> str | None:
    """Return the script of package.json that a command runs; None if it runs another program."""
    tool, *words = command.words
    if tool not in _MANAGERS or not words or command.variables:
        return None
    if words[0] in ("run", "run-script") and len(words) > 1:
        words = [word for word in words[1:] if word not in ("--silent", "-s")]
    elif tool == "npm" and words[0] not in ("start", "test"):
        return None
    name = words[0] if words else ""
    exists = text(table(package, "scripts").get(name)) is not None
    return name if exists and _NAME.fullmatch(name) else None


# --- by its manifests ---------------------------------------------------------------------------------------


def _start_by_manifests(layout: Layout, package: Mapping[str, Any], *, stdio: bool) -> NodeStart | None:
    """Find the start by smithery.yaml or server.json; None if the file to start neither exists nor is built."""
    try:
        start = _find_manifest_start(layout, package, stdio=stdio)
        return None if start is None else _add_build(layout, package, "", _keep_packages(start, package))
    except BuildPlanError:
        return None


def _find_manifest_start(layout: Layout, package: Mapping[str, Any], *, stdio: bool) -> NodeStart | None:
    words = smithery_command(layout, stdio=stdio)
    if words[:1] == ("node",) and _find_started_file(words) is not None:
        return NodeStart(words, f"commandFunction of {SMITHERY}", _build_script(package))
    name = text(package.get("name"))
    # Arguments for HTTP have the address and port of another machine.
    for candidate in registry_packages(layout) if stdio and name and package.get("bin") else []:
        if (candidate.kind, candidate.name, candidate.transport) == ("npm", name, "stdio"):
            start = _start_by_file(layout, package, "")
            return replace(
                start, command=(*start.command, *candidate.args), reason=f"the package of {REGISTRY}: {start.reason}"
            )
    return None


# --- by its files -------------------------------------------------------------------------------------------


def _start_by_file(layout: Layout, package: Mapping[str, Any], folder: str) -> NodeStart:
    build = _build_script(package)
    bin_ = package.get("bin")
    programs = {text(package.get("name")) or "": bin_} if isinstance(bin_, str) else table(package, "bin")
    files = {name: path for name, value in programs.items() if (path := text(value))}
    if len(set(files.values())) == 1:
        (path, *_) = files.values()
        return NodeStart(("node", _check_file(path)), "the program in bin of package.json", build)
    short_name = (text(package.get("name")) or "").rpartition("/")[2]
    if short_name in files:
        return NodeStart(("node", _check_file(files[short_name])), "the program that is called as the package", build)
    if files:
        raise BuildPlanError.of(
            "start", f"package.json has the programs {', '.join(sorted(files))}; write start: [node, FILE.js]"
        )
    main = text(package.get("main"))
    if main is not None:
        return NodeStart(("node", _check_file(main)), "main of package.json", build)
    candidates = [
        name for name in ("server.js", "index.js", "server.mjs", "index.mjs") if layout.has(f"{folder}{name}")
    ]
    if len(candidates) == 1:
        return NodeStart(("node", candidates[0]), f"{candidates[0]} is where it begins, by its name", build)
    raise BuildPlanError.of(
        "start",
        "nothing says how the server starts: package.json has no start script, no bin and no main;"
        " write start: [node, FILE.js]",
    )


def _check_file(path_text: str) -> str:
    """Check a file that package.json names: it must be inside the repository, and not look like an option."""
    path = PurePosixPath(path_text)
    if path_text.startswith("-") or path.is_absolute() or ".." in path.parts:
        message = f"{path_text[:100]!r} in package.json is not a file of the repository; write start: [node, FILE.js]"
        raise BuildPlanError.of("start", message)
    return path_text.removeprefix("./")


# --- what it needs besides ----------------------------------------------------------------------------------


def _keep_packages(start: NodeStart, package: Mapping[str, Any]) -> NodeStart:
    """Add the development dependencies that the command needs."""
    development = set(table(package, "devDependencies")) - set(table(package, "dependencies"))
    words = _strip_env(start.command)
    loaded = {words[index + 1] for index, word in enumerate(words[:-1]) if word in _LOADING_OPTIONS}
    loaded |= {word.partition("=")[2] for word in words if word.partition("=")[0] in _LOADING_OPTIONS}
    packages = {re.sub(r"^((?:@[^/]+/)?[^/]+).*$", r"\1", module) for module in loaded}
    packages |= set(words[:1])
    if not (kept := tuple(sorted(packages & development))):
        return start
    note = f"development dependencies stay in the image: the start needs {', '.join(kept)} (`start`)"
    return replace(start, kept_packages=kept, notes=(*start.notes, note))


def _add_build(layout: Layout, package: Mapping[str, Any], folder: str, start: NodeStart) -> NodeStart:
    """Add the build of the file that is started, and remove --env-file options whose files are not in the image.

    Raises:
        BuildPlanError: Nothing builds the file.
    """
    start = _drop_env_files(layout, folder, start)
    file = _find_started_file(start.command)
    if file is None or start.build_scripts or start.build_tool or _may_exist(layout, f"{folder}{file}"):
        return start
    scripts = table(package, "scripts")
    build_script = next((name for name in _BUILD_SCRIPTS if text(scripts.get(name))), None)
    if build_script is not None:
        note = f"npm run {build_script} makes {file}, which is not in the repository (`start`)"
        return replace(start, build_scripts=(build_script,), notes=(*start.notes, note))
    if any(text(scripts.get(name)) for name in _INSTALL_SCRIPTS):
        return start
    if layout.has(f"{folder}tsconfig.json") and "typescript" in table(package, "devDependencies"):
        return replace(
            start, build_tool=("tsc",), notes=(*start.notes, (f"tsc makes {file}, by tsconfig.json (`start`)"))
        )
    raise BuildPlanError.of(
        "start",
        f"{file} is not in the repository, and package.json has no script that builds it; add a build script, or write"
        " start: [node, FILE.js]",
    )


def _drop_env_files(layout: Layout, folder: str, start: NodeStart) -> NodeStart:
    remaining: list[str] = []
    dropped: list[str] = []
    words = [*start.command]
    while words:
        word = words.pop(0)
        option, _, file = word.partition("=")
        if option != "--env-file":
            remaining.append(word)
            continue
        file = file or (words.pop(0) if words else "")
        if PurePosixPath(file).name == ".env" or not layout.has(f"{folder}{file}"):
            dropped.append(file)
        else:
            remaining.append(f"--env-file={file}")
    if not dropped:
        return start
    note = f"without --env-file={dropped[0]}, which is not in the image: set its variables in env and secrets (`start`)"
    return replace(start, command=tuple(remaining), notes=(*start.notes, note))


def _strip_env(words: Sequence[str]) -> tuple[str, ...]:
    """Return the words from the program on, without env and its variables."""
    remaining = [*words]
    if remaining[:1] == ["env"]:
        del remaining[0]
        while remaining and "=" in remaining[0]:
            del remaining[0]
    return tuple(remaining)


def _find_started_file(words: Sequence[str]) -> str | None:
    """Return the file that node or a similar tool starts; None if there is none."""
    program, *remaining = _strip_env(words) or ("",)
    if program not in ("node", "tsx", "ts-node"):
        return None
    while remaining:
        word = remaining.pop(0)
        if word in _OPTIONS_WITH_VALUE:
            remaining = remaining[1:]
        elif word in ("-e", "-p", "--eval", "--print", "watch"):
            return None
        elif not word.startswith("-"):
            return word.removeprefix("./")
    return None


def _may_exist(layout: Layout, file: str) -> bool:
    """Whether a file is or may be in the source. Deep folders are not listed, and a folder can have an index file."""
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or len(path.parts) > _LISTED_LEVELS or "node_modules" in path.parts:
        return True
    names = (file, *(f"{file}{end}" for end in (".js", ".cjs", ".mjs", ".json", ".node", "/index.js")))
    return file in (".", "") or any(map(layout.has, names))


def _undecided_error(script: str) -> BuildPlanError:
    return BuildPlanError.of(
        "start",
        f"the start script is {script!r}, which needs a shell or a tool that is not in the image;"
        " write start: [node, FILE.js]",
    )
