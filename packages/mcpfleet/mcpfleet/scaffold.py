"""The files of a new project: the package's folder `template`, with what the user says in its places.

`pulumi new` reads the same folder, so its places are those that Pulumi fills (`${PROJECT}`, `${DESCRIPTION}`), and
everything else is as it is for the server hello. What differs from that is replaced here, line by line.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final, cast

from mcpfleet.errors import McpfleetError, UsageError
from mcpfleet.inert import inert
from mcpfleet.system import join_command

HELLO: Final = "hello"
"""The server of the template."""

FLEET_FOLDER: Final = "fleet"
"""The folder of a project in the repository of a server in Python."""

_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
"""A project's name: Pulumi's rule and, for pyproject.toml, PEP 508's."""
_TAKEN: Final = ("mcpfleet", "mcpfleet-bridge", "mcpfleet-local-cloud", "mcpfleet-server", "pulumi-mcpfleet", "pytest")
"""Packages that the project needs, so that it can't have their names."""
_MEMBER: Final = re.compile(r"(user|group|serviceAccount|domain):[^\s:,\"'\\{}\[\]]+|allAuthenticatedUsers")
_REGION: Final = re.compile(r"[a-z]+(-[a-z]+)+[0-9]{1,2}")
_BASE_IMAGE: Final = "mcpfleet/base:python3.13"
"""The base image that every local cloud has."""

_PURPOSES: Final[Mapping[str, str]] = {
    "Pulumi.yaml": "the Pulumi project",
    "Pulumi.local.yaml": "the fleet on this machine",
    "Pulumi.dev.yaml": "the fleet for development, on Google Cloud",
    "Pulumi.prod.yaml": "the fleet in production, on Google Cloud",
    "__main__.py": "the Pulumi program, which deploys the fleet of the selected stack",
    "pyproject.toml": "the packages of the program: pulumi-mcpfleet, and the local cloud for development",
    "uv.lock": "their versions and hashes",
    "servers/hello/server.py": "a server of your own: its tools",
    "servers/hello/pyproject.toml": "the server's packages",
    "servers/hello/uv.lock": "their versions and hashes, which its image has",
    "servers/hello/tests/test_hello.py": "the server's tests",
    "tests/test_fleet.py": "checks the fleet of every environment",
    "README.md": "how to go on",
    "AGENTS.md": "how to go on, for coding agents",
    ".gitignore": "what git leaves out",
    ".dockerignore": "what of this folder is not in the server's image",
}
_STACK_FILES: Final = ("Pulumi.local.yaml", "Pulumi.dev.yaml", "Pulumi.prod.yaml")
_NEEDED: Final = (*_STACK_FILES, "__main__.py", "pyproject.toml")
"""Files that have to be ours: another one in their place is no part of this project."""
_NOT_TEXT: Final = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
"""Words that YAML takes for something else than text."""
_SERVERS: Final = re.compile(r"servers/|Pulumi\..+\.yaml")
"""Files that have the first server."""
_IGNORED: Final = ("**/.mcpfleet", "**/.venv", "**/.git", "**/__pycache__", "Pulumi*.yaml", "/__main__.py")
"""What a server whose folder is the project's own leaves out of its image."""


@dataclass(frozen=True, kw_only=True)
class NewProject:
    """What a user decides about a new project.

    Attributes:
        root: Its folder, which need not be there.
        name: Its name.
        server: The name of the first server in the fleet.
        source: The source of that server; None: the server hello of the template.
        is_generated: Whether its Dockerfile is generated.
        invokers: Who may call it on Google Cloud, as IAM writes members.
        region: The region of the servers.
    """

    root: Path
    name: str
    server: str = HELLO
    source: Mapping[str, Any] | None = None
    is_generated: bool = True
    invokers: Sequence[str] = ()
    region: str = "europe-west1"


@dataclass(frozen=True)
class Written:
    """What happened to a file.

    Attributes:
        name: Its path in the project.
        purpose: What it is for.
        change: written, changed, or kept.
    """

    name: str
    purpose: str
    change: str


def check_answers(project: NewProject) -> None:
    """Refuse what a project can't have, before anything is written.

    Raises:
        UsageError: Its name, a member or the region is not one.
    """
    if not _NAME.fullmatch(project.name):
        raise UsageError(
            f"{inert(repr(project.name), 100)} is not a project's name: it has 1 to 100 letters, digits, ., _ and -,"
            " and begins and ends with a letter or a digit. Choose another with --name."
        )
    if re.sub(r"[-_.]+", "-", project.name).lower() in _TAKEN:
        raise UsageError(f"{project.name} is the name of a package that the project needs. Choose another with --name.")
    for member in project.invokers:
        if not _MEMBER.fullmatch(member) or not member.isprintable():
            raise UsageError(
                f"{inert(repr(member), 100)} is not a member as IAM writes it."
                " Write --invoker user:ada@example.com or --invoker group:mcp-users@example.com."
            )
    if not _REGION.fullmatch(project.region):
        raise UsageError(f"{inert(repr(project.region), 100)} is not a region. Write --region europe-west1 or another.")


def find_server_files(root: Path) -> list[str]:
    """Return the files of a server in Python that a project needs for itself; none if *root* is a Pulumi project."""
    if os.path.lexists(root / "Pulumi.yaml") or any(os.path.lexists(root / name) for name in _STACK_FILES):
        return []
    return [name for name in ("pyproject.toml", "__main__.py") if (root / name).is_file()]


def check_folder(root: Path) -> None:
    """Refuse a folder that can't become a project.

    Raises:
        UsageError: It is no folder, is in another project, or something in it is in the way.
    """
    if os.path.lexists(root) and not root.is_dir():
        raise UsageError(f"{root} is not a folder. Choose another name.")
    if not root.parent.is_dir():
        raise UsageError(f"There is no folder {root.parent}. Make it first, or choose another.")
    place = root.resolve()
    if outer := next((above for above in place.parents if (above / "Pulumi.yaml").is_file()), None):
        raise UsageError(f"{root} is inside the Pulumi project {outer}. Choose a folder outside of it.")
    if os.path.lexists(place / "Pulumi.yaml"):
        return
    if others := [name for name in _NEEDED if os.path.lexists(place / name)]:
        command = join_command(["mcpfleet", "init", str(root / FLEET_FOLDER), "--server", str(root)])
        raise UsageError(
            f"{root} has {' and '.join(others)}, and no Pulumi.yaml, so it is not a project of mcpfleet init."
            f" Nothing was written. Give the fleet a folder of its own: {command}"
        )


def render(project: NewProject, *, is_there: bool = False) -> dict[str, str]:
    """The texts of a project's files, by their paths in it.

    Args:
        project: What the user decides.
        is_there: Leave out what has the first server: the project has servers of its own.
    """
    files = {name: file.read_text(encoding="utf-8") for name, file in _template_files(_template())}
    if project.source is not None:
        files = {name: text for name, text in files.items() if not name.startswith("servers/")}
        if project.source.get("folder") == ".":
            files[".dockerignore"] = "\n".join([*_IGNORED, ""])
    files = {name: _fill(text, project.name) for name, text in files.items()}
    files["Pulumi.yaml"] = files["Pulumi.yaml"].partition("template:\n")[0]
    for name in ("Pulumi.local.yaml", "Pulumi.dev.yaml", "Pulumi.prod.yaml"):
        files[name] = _stack(files[name], project, is_local=name == "Pulumi.local.yaml")
    if project.source is not None:
        files = {name: _without_hello(text, project.server) for name, text in files.items()}
    if is_there:
        files = {name: text for name, text in files.items() if not _SERVERS.match(name)}
    return {name: files[name] for name in _PURPOSES if name in files}


def write(root: Path, files: Mapping[str, str], lock: Callable[[Path], Sequence[str]]) -> list[Written]:
    """Write the files that are not there; all of them or none.

    Args:
        root: The folder of the project.
        files: Their texts, by their paths in it.
        lock: Makes further files in a folder that has the others, and returns their paths.

    Returns:
        What happened to each file.

    Raises:
        McpfleetError: Something is in the way, or can't be written.
    """
    place = root.resolve()
    kept = [name for name in files if _is_kept(place, name)]
    ignored = _lines_to_ignore(place, files) if ".gitignore" in kept else ""
    new = {name: text for name, text in files.items() if name not in kept}
    try:
        with _scratch(place) as scratch:
            for name, text in new.items():
                _write(scratch / name, text)
            locked = [name for name in lock(scratch) if not _is_kept(place, name)]
            _move(scratch, place, [*new, *locked])
        if ignored:
            with (place / ".gitignore").open("a", encoding="utf-8") as file:
                file.write(ignored)
    except OSError as error:
        reason = error.strerror or str(error)
        raise McpfleetError(f"{error.filename or root} can't be written: {reason}. Nothing was written.") from None
    changes = {**dict.fromkeys(kept, "kept"), **dict.fromkeys([*new, *locked], "written")}
    if ignored:
        changes[".gitignore"] = "changed"
    return [Written(name, purpose, changes[name]) for name, purpose in _PURPOSES.items() if name in changes]


def _template() -> Traversable:
    return resources.files("mcpfleet").joinpath("template")


def _template_files(folder: Traversable, above: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            if entry.name != "__pycache__":
                yield from _template_files(entry, f"{above}{entry.name}/")
        elif f"{above}{entry.name}" in _PURPOSES:
            yield f"{above}{entry.name}", entry


def _fill(text: str, name: str) -> str:
    return text.replace("${PROJECT}", name).replace("${DESCRIPTION}", "MCP servers on Google Cloud Run")


def _stack(text: str, project: NewProject, *, is_local: bool) -> str:
    """The config file of a stack, with the project's own server, region and invokers."""
    text = text.replace("region: europe-west1", f"region: {project.region}")
    if project.source is not None:
        source = dict(project.source)
        if is_local and project.is_generated:
            source["build_args"] = {"BASE_IMAGE": _BASE_IMAGE}
        text = re.sub(r"^ {6}hello:$", f"      {project.server}:", text, flags=re.MULTILINE)
        text = re.sub(r"^( +source: ).*$", lambda found: found[1] + flow(source), text, flags=re.MULTILINE)
        text = re.sub(r"^ +health_path: .*\n", "", text, flags=re.MULTILINE)
        if not (is_local and project.is_generated):
            text = re.sub(r"^ +# The local cloud has .*\n", "", text, flags=re.MULTILINE)
    if project.invokers and not is_local:
        access = f"access: {flow({'iam': {'invokers': list(project.invokers)}})}"
        text = re.sub(
            r"^ +# Nobody can call .*\n( +)# access: .*$", lambda found: found[1] + access, text, flags=re.MULTILINE
        )
    return text


def _without_hello(text: str, server: str) -> str:
    """A page without what it says of the server hello's folder, and with the name of the server that is there."""
    lines = [line for line in text.splitlines(keepends=True) if "servers/" not in line]
    return (
        "".join(lines).replace('hello/greet --arguments \'{"name": "Ada"}\'', f"{server}/TOOL").replace("hello", server)
    )


def flow(value: Any) -> str:
    """A value in one line, as YAML has it in flow style."""
    if isinstance(value, Mapping):
        return (
            "{"
            + ", ".join(f"{flow(key)}: {flow(entry)}" for key, entry in cast("Mapping[Any, Any]", value).items())
            + "}"
        )
    if isinstance(value, list | tuple):
        return "[" + ", ".join(flow(entry) for entry in cast("Sequence[Any]", value)) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    if re.fullmatch(r"\.{0,2}/?[A-Za-z][A-Za-z0-9_./-]*|\.{1,2}", value) and value.lower() not in _NOT_TEXT:
        return value
    # JSON's escapes of characters beyond 16 bits are two characters to YAML.
    shown = (sign if sign.isprintable() and sign not in '"\\' else f"\\U{ord(sign):08x}" for sign in value)
    return f'"{"".join(shown)}"'


def _is_kept(place: Path, name: str) -> bool:
    """Whether a file is there already.

    Raises:
        UsageError: Something that is no plain file is in its place, or a link leads away from its folder.
    """
    target = place / name
    for above in target.relative_to(place).parents[:-1]:
        folder = place / above
        if folder.is_symlink() or (os.path.lexists(folder) and not folder.is_dir()):
            what = "a symbolic link" if folder.is_symlink() else "not a folder"
            raise UsageError(
                f"{folder} is {what}, and the project needs a folder there. Remove it. Nothing was written."
            )
    if target.is_symlink() or (os.path.lexists(target) and not target.is_file()):
        what = "a symbolic link" if target.is_symlink() else "not a file"
        raise UsageError(f"{target} is {what}, and the project needs a file there. Remove it. Nothing was written.")
    return target.exists()


def _lines_to_ignore(place: Path, files: Mapping[str, str]) -> str:
    """What the .gitignore that is there lacks, with a line end before it if the file has none at its end."""
    try:
        text = (place / ".gitignore").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise McpfleetError(f"{place / '.gitignore'} can't be read: {error.strerror}. Nothing was written.") from None
    there = {line.strip().strip("/") for line in text.splitlines()}
    missing = [line for line in files[".gitignore"].splitlines() if line.strip("/") not in there]
    return (
        "".join(["\n" if text and not text.endswith("\n") else "", *(f"{line}\n" for line in missing)])
        if missing
        else ""
    )


@contextmanager
def _scratch(place: Path) -> Generator[Path]:
    """A folder on the disk of *place* that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=".mcpfleet-init-", dir=place if place.exists() else place.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8", newline="\n")


def _move(scratch: Path, place: Path, names: Sequence[str]) -> None:
    """Move files into the project; if one can't be moved, those before it are taken away again."""
    undo: list[Callable[[], object]] = []
    try:
        for name in names:
            target = place / name
            missing = [above for above in (target.parent, *target.parent.parents) if not above.exists()]
            for folder in reversed(missing):
                folder.mkdir()
                undo.append(folder.rmdir)
            (scratch / name).rename(target)
            undo.append(target.unlink)
    except OSError:
        for step in reversed(undo):
            step()
        raise
