"""Recognises known causes in the last log lines of a program that does not start, and advises what to change.

The program controls these lines: they can only select one of the texts below and insert one name into it.
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
    """Matches a log line; its group `name` is shown."""
    advice: Callable[[str], str]


def _sdk_version_advice(_name: str) -> str:
    return (
        "the program was written for another version of the MCP SDK than is installed: version 2 of the package `mcp` "
        'has other modules. Write `bounds: ["mcp<2"]` at the source, or lock the version in the project.'
    )


def _module_advice(name: str) -> str:
    return f"{name} is not installed in the image. Add the package that has it to the project's dependencies."


def _compile_advice(name: str) -> str:
    return (
        f"{name} has a part that its installation script compiles or fetches, and that did not run. Write "
        f'`install_scripts: ["{name}"]` and `apt_build: [g++, make]` at the source.'
    )


def _variable_advice(name: str) -> str:
    return f"the program needs the environment variable {name}. Set it in `env`, or in `secrets` if it is confidential."


_PATH_VARIABLES: Final = {
    "/.cache": "XDG_CACHE_HOME",
    "/.local/share": "XDG_DATA_HOME",
    "/.config/matplotlib": "MPLCONFIGDIR",
    "/.config": "XDG_CONFIG_HOME",
    "/.npm": "npm_config_cache",
    "memory.json": "MEMORY_FILE_PATH",
    "memory.jsonl": "MEMORY_FILE_PATH",
}
"""Part of a path → the environment variable that moves it: XDG's base directories; npm's and Matplotlib's settings; and
that of @modelcontextprotocol/server-memory."""


def _permission_advice(name: str) -> str:
    folder = str(PurePosixPath(name).parent)
    moved = next((variable for part, variable in _PATH_VARIABLES.items() if part in name), None)
    how = f"by the variable {moved} in `env`" if moved else "by the variable or option that names the place"
    memory_hint = (
        f" A source that is built here may have that folder in memory: `writable: [{folder}]`." if folder != "/" else ""
    )
    return (
        f"the program has no right to {name}. As on Cloud Run it is not root: have it write below /tmp, which is in "
        f"memory, or to a volume, {how}; or correct owner and mode in the image.{memory_hint}"
    )


def _program_advice(name: str) -> str:
    return f"the program tries to run {name}, which is not in the image. Add it there (`apt` at the source)."


_CAUSES: Final = tuple(
    _Cause(re.compile(pattern), advice)
    for pattern, advice in (
        (r"No module named '(?P<name>mcp(?:\.\w+)+)'", _sdk_version_advice),
        (r"cannot import name '(?P<name>\w+)' from '(?:partially initialized module )?mcp[.']", _sdk_version_advice),
        (r"node_modules/(?P<name>(?:@[\w.-]{1,100}/)?[\w.-]{1,100})/[^']{1,300}\.node\b", _compile_advice),
        (rf"No module named '(?P<name>{_NAME})'", _module_advice),
        (rf"Cannot find (?:module|package) '(?P<name>{_NAME})'", _module_advice),
        (rf"KeyError: '{_VARIABLE}'", _variable_advice),
        (
            rf"\b{_VARIABLE}\b.{{0,60}}?(?i:required|not set|not defined|must be set|missing|undefined)",
            _variable_advice,
        ),
        (
            rf"(?i:missing|required|(?:please|must|need to) (?:set|define|provide)).{{0,60}}?\b{_VARIABLE}\b",
            _variable_advice,
        ),
        (r"(?:Permission denied|Read-only file system): '(?P<name>/[^']{1,200})'", _permission_advice),
        (r"(?:EACCES|EROFS|EPERM): [\w -]{1,60}, \w{1,20} '(?P<name>/[^']{1,200})'", _permission_advice),
        (rf"No such file or directory: '(?P<name>(?!/){_NAME})'", _program_advice),
        (rf"(?i:bad|missing) (?P<name>{_NAME}) executable", _program_advice),
        (rf"spawn (?P<name>{_NAME}) ENOENT", _program_advice),
        (rf"\b(?P<name>{_NAME}): (?:command )?not found", _program_advice),
    )
)


def find_advice(lines: Sequence[str]) -> str:
    """Find advice for a program's last log lines; empty if they have no known cause.

    The last line with a known cause counts: a program that gives up usually logs the reason last.
    """
    for line in reversed(lines):
        for cause in _CAUSES:
            if (match := cause.pattern.search(line[:_LONGEST_LINE])) is not None:
                return cause.advice("".join(char if char.isprintable() else "?" for char in match["name"]))
    return ""
