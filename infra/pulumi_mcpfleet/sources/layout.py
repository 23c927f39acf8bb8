"""What a folder holds, as far as a recipe looks into it: names, and the text of a few files."""

import codecs
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import yaml

from pulumi_mcpfleet.sources.build_plan import BuildPlanError, Mistake
from pulumi_mcpfleet.sources.inside import is_file_in, odd, read_in

MAX_FILE: Final = 2 * 2**20
"""Bytes of the largest file that is read: lock files are looked for, and only their beginning is read."""

_LOOKED_INTO: Final = frozenset(
    {
        *("pyproject.toml", "requirements.txt", "setup.cfg", "setup.py", "package.json", "Procfile", ".dockerignore"),
        *("uv.lock", "poetry.lock", "pylock.toml", "pnpm-lock.yaml", "yarn.lock", ".yarnrc.yml", ".python-version"),
        *("package-lock.json", "npm-shrinkwrap.json", "pnpm-workspace.yaml", ".yarnrc", "runtime.txt"),
        *(".nvmrc", ".node-version", ".tool-versions"),
        *("fastmcp.json", "smithery.yaml", "server.json", "manifest.json"),
    }
)
_MANIFESTS: Final = ("/package.json", "/pyproject.toml")
"""Of the members of a workspace."""

_MOST_MANIFESTS: Final = 300
_CODE: Final = (".py", ".js", ".mjs", ".cjs", ".ts", ".mts")
_MOST_CODE: Final = 200
_MAX_CODE: Final = 64 * 1024
"""Files of code that are read, and bytes of each: enough to see how a server begins."""

_MAX_YAML: Final = 64 * 1024

MAX_TEXT: Final = 4096
"""Characters of the longest value that is taken from such a file."""

MARK: Final = "\ufeff"
"""The byte-order mark that some editors begin a file with; a text that was read has it still."""

_MOST: Final = 100_000
"""Files and folders that are looked at, as far as the third level."""

SKIPPED: Final = frozenset({".git", ".venv", "venv", "node_modules", "__pycache__", ".tox", ".mypy_cache"})
"""Folders that no source is made of."""
_DEPTH: Final = 3  # src/<package>/__main__.py


@dataclass(frozen=True)
class Layout:
    """A folder.

    Attributes:
        names: Every file down to the third level, with / between the parts.
        texts: The text of those that recipes read.
        odd: What is called as a file, and is none: a link that leads out of the folder or nowhere, a pipe, a device.
        code: The beginning of the files of code near the top.
    """

    names: frozenset[str]
    texts: Mapping[str, str]
    odd: frozenset[str] = frozenset()
    code: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def of(cls, files: Mapping[str, str | bytes]) -> "Layout":
        """A folder that holds these files."""

        def said(name: str) -> str:
            content = files[name]
            return content if isinstance(content, str) else _decoded(content)

        return cls(
            frozenset(files),
            {name: said(name) for name in _looked_into(files)},
            code={name: said(name)[:_MAX_CODE] for name in _code(files)},
        )

    @classmethod
    def read(cls, folder: Path) -> "Layout":
        """The folder on disk.

        Raises:
            BuildPlanError: It can't be read.
        """
        try:
            return cls._read(folder)
        except OSError as error:
            raise BuildPlanError.of("", f"the source can't be read: {error}") from None

    @classmethod
    def _read(cls, folder: Path) -> "Layout":
        names: set[str] = set()
        strange: set[str] = set()
        places, seen = [""], 0
        while places:
            place = places.pop()
            with os.scandir(folder / place) as entries:
                for entry in entries:
                    name = f"{place}{entry.name}"
                    seen += 1
                    if seen > _MOST:
                        sentence = f"the source has more than {_MOST} files near its top; write the folder within it"
                        raise BuildPlanError.of("", sentence)
                    if entry.is_dir(follow_symlinks=False):
                        if entry.name not in SKIPPED and name.count("/") < _DEPTH - 1:
                            places.append(f"{name}/")
                    elif entry.is_file(follow_symlinks=False) or is_file_in(folder, name):
                        names.add(name)
                    elif not (folder / name).is_dir():  # which a ring of links is not, without an error
                        strange.add(name)
        texts = {name: _decoded(read_in(folder, name, MAX_FILE)) for name in _looked_into(names)}
        code = {name: _decoded(read_in(folder, name, _MAX_CODE)) for name in _code(names)}
        return cls(frozenset(names), texts, frozenset(strange), code)

    def has(self, name: str) -> bool:
        """Whether there is such a file.

        Raises:
            BuildPlanError: There is something of that name which is not the folder's own.
        """
        self.refuse_odd(name)
        return name in self.names

    def refuse_odd(self, *names: str) -> None:
        """Refuse each of *names* that is there without being the folder's own: builders would follow a link.

        Raises:
            BuildPlanError: There is one.
        """
        mistakes = [Mistake("", odd(name)) for name in names if name in self.odd]
        if mistakes:
            raise BuildPlanError(mistakes)

    def toml(self, name: str) -> dict[str, Any]:
        """A TOML file; empty if it is not there.

        Raises:
            BuildPlanError: It is no TOML.
        """
        try:
            return tomllib.loads(self.texts.get(name, "").removeprefix(MARK))
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits; a list 2,000 deep
            raise BuildPlanError.of("", f"{name} is no TOML: {error}; mend it") from None

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object; empty if it is not there.

        Raises:
            BuildPlanError: It is none.
        """
        try:
            value = json.loads(self.texts.get(name, "{}").removeprefix(MARK))
        except (ValueError, RecursionError) as error:
            raise BuildPlanError.of("", f"{name} is no JSON: {error}; mend it") from None
        if not isinstance(value, dict):
            raise BuildPlanError.of("", f"{name} is no JSON object; mend it")
        return cast("dict[str, Any]", value)

    def yaml(self, name: str) -> dict[str, Any]:
        """A YAML mapping; empty if it is not there.

        Raises:
            BuildPlanError: It is no YAML.
        """
        content = self.texts.get(name, "").removeprefix(MARK)
        try:
            if len(content) > _MAX_YAML:
                raise ValueError("it is endless")
            return table(yaml.safe_load(content))
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise BuildPlanError.of("", f"{name} is no YAML: {str(error)[:200]}; mend it") from None


def _looked_into(names: Iterable[str]) -> list[str]:
    inner = sorted(name for name in names if name.endswith(_MANIFESTS) and name.count("/") < _DEPTH)
    return [*(_LOOKED_INTO.intersection(names)), *inner[:_MOST_MANIFESTS]]


def _code(names: Iterable[str]) -> list[str]:
    """Files of code, those nearest to the top first."""
    found = [name for name in names if name.endswith(_CODE) and name.count("/") < _DEPTH]
    return sorted(found, key=lambda name: (name.count("/"), name))[:_MOST_CODE]


def _decoded(content: bytes) -> str:
    """A file's text: in UTF-8, or in UTF-16 where it begins with that mark."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    return content.decode("utf-8", "replace")


def table(value: Any, *path: str) -> dict[str, Any]:
    """What stands at a path of a parsed file; empty if it is no table, whatever else it is."""
    for step in path:
        value = cast("dict[str, Any]", value).get(step) if isinstance(value, dict) else None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def text(value: Any) -> str | None:
    """A text, or None for anything else, an empty one included.

    Raises:
        BuildPlanError: It is longer than any name or command, or holds a line end or another sign that is not shown.
    """
    if not isinstance(value, str) or not value:
        return None
    if len(value) > MAX_TEXT or not value.isprintable():
        sentence = f"{value[:60]!r} in a file of the source holds a sign that no name and no command has, or is endless"
        raise BuildPlanError.of("", f"{sentence}; mend it")
    return value
