"""How a Node.js package starts, and what has to be built for it: by its own words, those of its scripts and its bin."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Final

from pulumi_mcpfleet.sources.build_plan import BuildPlanError
from pulumi_mcpfleet.sources.commands import Command, commands
from pulumi_mcpfleet.sources.layout import MARK, Layout, table, text
from pulumi_mcpfleet.sources.manifests import REGISTRY, SMITHERY, packages, smithery_command
from pulumi_mcpfleet.sources.workspaces import Member

_MANAGERS: Final = ("npm", "pnpm", "yarn")
_RUNNERS: Final = (("npx",), ("npm", "exec", "--"), ("pnpm", "exec"), ("yarn", "exec"), ("npx", "--no-install"))
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_:.@/-]{0,100}")
"""The name of a script, and of a tool: a word that needs no quotes anywhere, and is no option."""

_TAKE_A_WORD: Final = ("--import", "--require", "-r", "--loader", "--experimental-loader", "--env-file", "-C")
_LOADS: Final = ("--import", "--require", "-r", "--loader", "--experimental-loader")
_AT_THE_INSTALLATION: Final = ("preinstall", "install", "postinstall", "prepare")
_MAKERS: Final = ("build", "prepack", "prepublishOnly", "compile", "bundle", "tsc", "dist")
"""Scripts that make what a package publishes, by custom; the first that is there."""

_NESTED: Final = 5
_SEEN: Final = 3  # levels of folders of which Layout has the names


@dataclass(frozen=True)
class NodeStart:
    """How it starts.

    Attributes:
        words: The command.
        why: What it goes by, for the report.
        build: Scripts of package.json that have to run before.
        tool: A tool that builds it where no script does.
        keeps: Packages that it needs, though they are there for development.
        notes: What else was decided.
        bins: Whether its program is one of its dependencies'.
    """

    words: tuple[str, ...]
    why: str
    build: tuple[str, ...] = ()
    tool: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    bins: bool = False


def node_start(layout: Layout, member: Member, wished: Sequence[str], *, stdio: bool = False) -> NodeStart:
    """How a package starts.

    Args:
        layout: The source.
        member: The package.
        wished: The user's own command.
        stdio: Whether it speaks stdio.

    Raises:
        BuildPlanError: Nothing says so, or more than one thing.
    """
    package, folder = member.manifest, member.within
    if wished:
        return _kept(NodeStart(tuple(wished), "as `start` says", _built(package)), package)
    procfile = re.search(r"^web:[ \t]*(\S.*)$", layout.texts.get("Procfile", "").removeprefix(MARK), re.MULTILINE)
    if procfile is not None and not folder:
        found = replace(_by_script(package, text(procfile[1].strip()) or ""), why="web of the Procfile")
        return _complete(layout, package, folder, _kept(found, package))
    if not folder and (told := _by_manifests(layout, package, stdio=stdio)) is not None:
        return told
    script = text(table(package, "scripts").get("start"))
    found = _by_script(package, script) if script is not None else _by_file(layout, package, folder)
    return _complete(layout, package, folder, _kept(found, package))


def _built(package: Mapping[str, Any]) -> tuple[str, ...]:
    return ("build",) if text(table(package, "scripts").get("build")) else ()


# --- by its scripts -----------------------------------------------------------------------------------------


def _by_script(package: Mapping[str, Any], script: str) -> NodeStart:
    why = "the start script of package.json, without npm around it"
    before, command = _resolved(package, script, "start", _NESTED)
    build, tool = [*_built(package)], ()
    for one in before:
        if (name := _script_of(package, one)) is not None:
            build += [] if name in build else [name]
        elif one.words[0] == "tsc" and len(one.executable) == len(one.words):  # without variables
            tool = () if build else one.words
        else:
            raise _undecided(script)
    name = command.words[0]
    if name != "node" and not _NAME.fullmatch(name):
        raise _undecided(script)
    if name != "node" and name not in {**table(package, "dependencies"), **table(package, "devDependencies")}:
        raise _undecided(script)
    return NodeStart(command.executable, why, tuple(build), tool, bins=name != "node")


def _resolved(package: Mapping[str, Any], script: str, name: str, left: int) -> tuple[list[Command], Command]:
    """The commands before the last one, and the last, after which no other script stands behind it."""
    found = commands(script)
    if found is None or not left:
        raise _undecided(script)
    *before, last = found
    ahead = text(table(package, "scripts").get(f"pre{name}"))
    before = [*((Command((), ("npm", "run", f"pre{name}")),) if ahead and _wanted(package, ahead) else ()), *before]
    for runner in _RUNNERS:
        if last.words[: len(runner)] == runner and len(last.words) > len(runner):
            last = replace(last, words=last.words[len(runner) :])
            break
    inner = _script_of(package, last)
    if inner is None:
        return before, last
    further, found_last = _resolved(package, text(table(package, "scripts").get(inner)) or "", inner, left - 1)
    given = last.words[last.words.index(inner) + 1 :]
    given = given[1:] if given[:1] == ("--",) else given
    variables = (*last.variables, *found_last.variables)
    return [*before, *further], Command(variables, (*found_last.words, *given))


def _wanted(package: Mapping[str, Any], ahead: str) -> bool:
    """Whether a script that runs before another does more than to build."""
    found = commands(ahead)
    return found is None or [_script_of(package, one) for one in found] != ["build"]


def _script_of(package: Mapping[str, Any], command: Command) -> str | None:
    """The script of package.json that a command runs; None where it runs another program."""
    tool, *words = command.words
    if tool not in _MANAGERS or not words or command.variables:
        return None
    if words[0] in ("run", "run-script") and len(words) > 1:
        words = [word for word in words[1:] if word not in ("--silent", "-s")]
    elif tool == "npm" and words[0] not in ("start", "test"):
        return None
    name = words[0] if words else ""
    known = text(table(package, "scripts").get(name)) is not None
    return name if known and _NAME.fullmatch(name) else None


# --- by its manifests ---------------------------------------------------------------------------------------


def _by_manifests(layout: Layout, package: Mapping[str, Any], *, stdio: bool) -> NodeStart | None:
    """By what it tells hosts and registries; None where that starts no file which is there or is built."""
    try:
        told = _told(layout, package, stdio=stdio)
        return None if told is None else _complete(layout, package, "", _kept(told, package))
    except BuildPlanError:
        return None


def _told(layout: Layout, package: Mapping[str, Any], *, stdio: bool) -> NodeStart | None:
    words = smithery_command(layout, stdio=stdio)
    if words[:1] == ("node",) and _started(words) is not None:
        return NodeStart(words, f"commandFunction of {SMITHERY}", _built(package))
    name = text(package.get("name"))
    # Its arguments for HTTP are another machine's address and port.
    for one in packages(layout) if stdio and name and package.get("bin") else []:
        if (one.kind, one.name, one.transport) == ("npm", name, "stdio"):
            start = _by_file(layout, package, "")
            return replace(start, words=(*start.words, *one.args), why=f"the package of {REGISTRY}: {start.why}")
    return None


# --- by its files -------------------------------------------------------------------------------------------


def _by_file(layout: Layout, package: Mapping[str, Any], folder: str) -> NodeStart:
    build = _built(package)
    bin_ = package.get("bin")
    programs = {text(package.get("name")) or "": bin_} if isinstance(bin_, str) else table(package, "bin")
    files = {name: path for name, said in programs.items() if (path := text(said))}
    if len(set(files.values())) == 1:
        (path, *_) = files.values()
        return NodeStart(("node", _file(path)), "the program in bin of package.json", build)
    own = (text(package.get("name")) or "").rpartition("/")[2]
    if own in files:
        return NodeStart(("node", _file(files[own])), "the program that is called as the package", build)
    if files:
        raise BuildPlanError.of(
            "start", f"package.json has the programs {', '.join(sorted(files))}; write start: [node, FILE.js]"
        )
    main = text(package.get("main"))
    if main is not None:
        return NodeStart(("node", _file(main)), "main of package.json", build)
    found = [name for name in ("server.js", "index.js", "server.mjs", "index.mjs") if layout.has(f"{folder}{name}")]
    if len(found) == 1:
        return NodeStart(("node", found[0]), f"{found[0]} is where it begins, by its name", build)
    raise BuildPlanError.of(
        "start",
        "nothing says how the server starts: package.json has no start script, no bin and no main;"
        " write start: [node, FILE.js]",
    )


def _file(said: str) -> str:
    """A file that package.json names: inside of the repository, and no option of node."""
    path = PurePosixPath(said)
    if said.startswith("-") or path.is_absolute() or ".." in path.parts:
        sentence = f"{said[:100]!r} in package.json is no file of the repository; write start: [node, FILE.js]"
        raise BuildPlanError.of("start", sentence)
    return said.removeprefix("./")


# --- what it needs besides ----------------------------------------------------------------------------------


def _kept(start: NodeStart, package: Mapping[str, Any]) -> NodeStart:
    """With the packages that only development has, but the start names."""
    development = set(table(package, "devDependencies")) - set(table(package, "dependencies"))
    words = _node_words(start.words)
    loaded = {words[at + 1] for at, word in enumerate(words[:-1]) if word in _LOADS}
    loaded |= {word.partition("=")[2] for word in words if word.partition("=")[0] in _LOADS}
    named = {re.sub(r"^((?:@[^/]+/)?[^/]+).*$", r"\1", one) for one in loaded}
    named |= set(words[:1])
    if not (keeps := tuple(sorted(named & development))):
        return start
    note = f"development dependencies stay in the image: the start needs {', '.join(keeps)} (`start`)"
    return replace(start, keeps=keeps, notes=(*start.notes, note))


def _complete(layout: Layout, package: Mapping[str, Any], folder: str, start: NodeStart) -> NodeStart:
    """With what makes the file that it starts, and without files of variables that no image has.

    Raises:
        BuildPlanError: Nothing makes it.
    """
    start = _without_variables(layout, folder, start)
    file = _started(start.words)
    if file is None or start.build or start.tool or _there(layout, f"{folder}{file}"):
        return start
    scripts = table(package, "scripts")
    maker = next((name for name in _MAKERS if text(scripts.get(name))), None)
    if maker is not None:
        note = f"npm run {maker} makes {file}, which is not in the repository (`start`)"
        return replace(start, build=(maker,), notes=(*start.notes, note))
    if any(text(scripts.get(name)) for name in _AT_THE_INSTALLATION):
        return start
    if layout.has(f"{folder}tsconfig.json") and "typescript" in table(package, "devDependencies"):
        return replace(start, tool=("tsc",), notes=(*start.notes, f"tsc makes {file}, by tsconfig.json (`start`)"))
    raise BuildPlanError.of(
        "start",
        f"{file} is not in the repository, and package.json has no script that builds it; add a build script, or write"
        " start: [node, FILE.js]",
    )


def _without_variables(layout: Layout, folder: str, start: NodeStart) -> NodeStart:
    left: list[str] = []
    dropped: list[str] = []
    words = [*start.words]
    while words:
        word = words.pop(0)
        option, _, file = word.partition("=")
        if option != "--env-file":
            left.append(word)
            continue
        file = file or (words.pop(0) if words else "")
        if PurePosixPath(file).name == ".env" or not layout.has(f"{folder}{file}"):
            dropped.append(file)
        else:
            left.append(f"--env-file={file}")
    if not dropped:
        return start
    note = f"without --env-file={dropped[0]}, which no image has: what it sets goes into env and secrets (`start`)"
    return replace(start, words=tuple(left), notes=(*start.notes, note))


def _node_words(words: Sequence[str]) -> tuple[str, ...]:
    """The words from the program on: without env and its variables."""
    rest = [*words]
    if rest[:1] == ["env"]:
        del rest[0]
        while rest and "=" in rest[0]:
            del rest[0]
    return tuple(rest)


def _started(words: Sequence[str]) -> str | None:
    """The file that node, or a tool like it, starts."""
    program, *rest = _node_words(words) or ("",)
    if program not in ("node", "tsx", "ts-node"):
        return None
    while rest:
        word = rest.pop(0)
        if word in _TAKE_A_WORD:
            rest = rest[1:]
        elif word in ("-e", "-p", "--eval", "--print", "watch"):
            return None
        elif not word.startswith("-"):
            return word.removeprefix("./")
    return None


def _there(layout: Layout, file: str) -> bool:
    """Whether a file is in the source, or may be: what lies deep is not looked at, and a folder has an index."""
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or len(path.parts) > _SEEN or "node_modules" in path.parts:
        return True
    names = (file, *(f"{file}{end}" for end in (".js", ".cjs", ".mjs", ".json", ".node", "/index.js")))
    return file in (".", "") or any(map(layout.has, names))


def _undecided(script: str) -> BuildPlanError:
    return BuildPlanError.of(
        "start",
        f"the start script is {script!r}, which needs a shell or a tool that is not in the image;"
        " write start: [node, FILE.js]",
    )
