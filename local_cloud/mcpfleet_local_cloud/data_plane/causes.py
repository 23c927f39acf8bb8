"""Causes that a program itself tells when it does not start: recognised in its last lines, each with what to change.

Whoever wrote the program wrote these lines: they choose which of our sentences is shown and give it one name, no more.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

_LONGEST_LINE: Final = 1000
_NAME: Final = r"[\w./@-]{1,100}"
_VARIABLE: Final = r"(?P<name>[A-Z][A-Z0-9]*_[A-Z0-9_]{1,60})"


@dataclass(frozen=True)
class _Cause:
    pattern: re.Pattern[str]
    """What a line says; its group `name` is shown."""
    advice: Callable[[str], str]


def _old_sdk(_name: str) -> str:
    return (
        "the program was written for another version of the MCP SDK than is installed: version 2 of the package `mcp` "
        'has other modules. Write `bounds: ["mcp<2"]` at the source, or lock the version in the project.'
    )


def _module(name: str) -> str:
    return f"{name} is not installed in the image. Add the package that has it to the project's dependencies."


def _not_compiled(name: str) -> str:
    return (
        f"{name} has a part that its installation script compiles or fetches, and that did not run. Write "
        f'`install_scripts: ["{name}"]` and `apt_build: [g++, make]` at the source.'
    )


def _variable(name: str) -> str:
    return f"the program wants the environment variable {name}. Set it in `env`, or in `secrets` if nobody may read it."


_MOVED_BY: Final = {
    "/.cache": "XDG_CACHE_HOME",
    "/.local/share": "XDG_DATA_HOME",
    "/.config/matplotlib": "MPLCONFIGDIR",
    "/.config": "XDG_CONFIG_HOME",
    "/.npm": "npm_config_cache",
    "memory.json": "MEMORY_FILE_PATH",
    "memory.jsonl": "MEMORY_FILE_PATH",
}
"""Parts of paths, and the variable that moves them: XDG's base directories; npm's and Matplotlib's settings; and that
of @modelcontextprotocol/server-memory."""


def _path(name: str) -> str:
    folder = str(PurePosixPath(name).parent)
    moved = next((variable for part, variable in _MOVED_BY.items() if part in name), None)
    by = f"by the variable {moved} in `env`" if moved else "by the variable or option that names the place"
    own = (
        f" A source that is built here may have that folder in memory: `writable: [{folder}]`." if folder != "/" else ""
    )
    return (
        f"the program has no right to {name}. As on Cloud Run it is not root: have it write below /tmp, which is in "
        f"memory, or to a volume, {by}; or correct owner and mode in the image.{own}"
    )


def _program(name: str) -> str:
    return f"the program wants to run {name}, which is not in the image. Add it there (`apt` at the source)."


_CAUSES: Final = tuple(
    _Cause(re.compile(pattern), advice)
    for pattern, advice in (
        (r"No module named '(?P<name>mcp(?:\.\w+)+)'", _old_sdk),
        (r"cannot import name '(?P<name>\w+)' from '(?:partially initialized module )?mcp[.']", _old_sdk),
        (r"node_modules/(?P<name>(?:@[\w.-]{1,100}/)?[\w.-]{1,100})/[^']{1,300}\.node\b", _not_compiled),
        (rf"No module named '(?P<name>{_NAME})'", _module),
        (rf"Cannot find (?:module|package) '(?P<name>{_NAME})'", _module),
        (rf"KeyError: '{_VARIABLE}'", _variable),
        (rf"\b{_VARIABLE}\b.{{0,60}}?(?i:required|not set|not defined|must be set|missing|undefined)", _variable),
        (rf"(?i:missing|required|(?:please|must|need to) (?:set|define|provide)).{{0,60}}?\b{_VARIABLE}\b", _variable),
        (r"(?:Permission denied|Read-only file system): '(?P<name>/[^']{1,200})'", _path),
        (r"(?:EACCES|EROFS|EPERM): [\w -]{1,60}, \w{1,20} '(?P<name>/[^']{1,200})'", _path),
        (rf"No such file or directory: '(?P<name>(?!/){_NAME})'", _program),
        (rf"(?i:bad|missing) (?P<name>{_NAME}) executable", _program),
        (rf"spawn (?P<name>{_NAME}) ENOENT", _program),
        (rf"\b(?P<name>{_NAME}): (?:command )?not found", _program),
    )
)


def told(lines: Sequence[str]) -> str:
    """What to change, by what a program said last; empty where it told no cause that is known.

    The last line that names a cause counts: what follows from another comes after it, but a program that gives up
    says why at its end.
    """
    for line in reversed(lines):
        for cause in _CAUSES:
            if (match := cause.pattern.search(line[:_LONGEST_LINE])) is not None:
                return cause.advice("".join(char if char.isprintable() else "?" for char in match["name"]))
    return ""
