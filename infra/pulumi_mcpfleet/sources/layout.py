"""The contents of a folder that build plans look at: the names of its files, and the texts of some."""

import codecs
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import yaml

from pulumi_mcpfleet.sources.build_plan import BuildPlanError, SourceMistake
from pulumi_mcpfleet.sources.safe_paths import is_file_in, read_file_in, unsafe_file_message

MAX_FILE: Final = 2 * 2**20
"""The number of bytes that are read of a file. Of longer files, such as lock files, only the beginning is read."""

_READ_FILES: Final = frozenset(
    {
        *("pyproject.toml", "requirements.txt", "setup.cfg", "setup.py", "package.json", "Procfile", ".dockerignore"),
        *("uv.lock", "poetry.lock", "pylock.toml", "pnpm-lock.yaml", "yarn.lock", ".yarnrc.yml", ".python-version"),
        *("package-lock.json", "npm-shrinkwrap.json", "pnpm-workspace.yaml", ".yarnrc", "runtime.txt"),
        *(".nvmrc", ".node-version", ".tool-versions"),
        *("fastmcp.json", "smithery.yaml", "server.json", "manifest.json"),
    }
)
_MANIFESTS: Final = ("/package.json", "/pyproject.toml")
"""The manifests of workspace members."""

_MAX_MANIFESTS: Final = 300
_CODE: Final = (".py", ".js", ".mjs", ".cjs", ".ts", ".mts")
_MAX_CODE_FILES: Final = 200
_MAX_CODE_BYTES: Final = 64 * 1024
"""The numbers of code files that are read, and of bytes of each: enough to see how a server starts."""

_MAX_YAML_LENGTH: Final = 64 * 1024

MAX_TEXT: Final = 4096
"""The maximum number of characters of a value from a file."""

BYTE_ORDER_MARK: Final = "\ufeff"
"""The byte-order mark that some editors write at the beginning of a file. It is not removed when a file is read."""

_MAX_ENTRIES: Final = 100_000
"""The maximum number of files and folders down to the third level."""

SKIPPED: Final = frozenset({".git", ".venv", "venv", "node_modules", "__pycache__", ".tox", ".mypy_cache"})
"""Folders that are not part of a source."""
_DEPTH: Final = 3  # src/<package>/__main__.py


@dataclass(frozen=True)
class Layout:
    """The contents of a folder.

    Attributes:
        names: The paths of all files down to the third level, with / between the parts.
        texts: The texts of the files that build plans read, by path.
        unsafe: The paths of links that lead out of the folder or nowhere, of pipes and of devices.
        code: The beginnings of code files near the top, by path.
    """

    names: frozenset[str]
    texts: Mapping[str, str]
    unsafe: frozenset[str] = frozenset()
    code: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def from_files(cls, files: Mapping[str, str | bytes]) -> "Layout":
        """Return the layout of a folder with these files."""

        def content_text(name: str) -> str:
            content = files[name]
            return content if isinstance(content, str) else _decode(content)

        return cls(
            frozenset(files),
            {name: content_text(name) for name in _select_texts(files)},
            code={name: content_text(name)[:_MAX_CODE_BYTES] for name in _select_code(files)},
        )

    @classmethod
    def read(cls, folder: Path) -> "Layout":
        """Read the layout of a folder on disk.

        Raises:
            BuildPlanError: The folder can't be read, or has too many files.
        """
        try:
            return cls._read(folder)
        except OSError as error:
            raise BuildPlanError.of("", f"the source can't be read: {error}") from None

    @classmethod
    def _read(cls, folder: Path) -> "Layout":
        names: set[str] = set()
        unsafe: set[str] = set()
        pending, entry_count = [""], 0
        while pending:
            prefix = pending.pop()
            with os.scandir(folder / prefix) as entries:
                for entry in entries:
                    name = f"{prefix}{entry.name}"
                    entry_count += 1
                    if entry_count > _MAX_ENTRIES:
                        message = (
                            f"the source has more than {_MAX_ENTRIES} files near its top; write the folder within it"
                        )
                        raise BuildPlanError.of("", message)
                    if entry.is_dir(follow_symlinks=False):
                        if entry.name not in SKIPPED and name.count("/") < _DEPTH - 1:
                            pending.append(f"{name}/")
                    elif entry.is_file(follow_symlinks=False) or is_file_in(folder, name):
                        names.add(name)
                    elif not (folder / name).is_dir():  # false for a loop of links, without an error
                        unsafe.add(name)
        texts = {name: _decode(read_file_in(folder, name, MAX_FILE)) for name in _select_texts(names)}
        code = {name: _decode(read_file_in(folder, name, _MAX_CODE_BYTES)) for name in _select_code(names)}
        return cls(frozenset(names), texts, frozenset(unsafe), code)

    def has(self, name: str) -> bool:
        """Whether the folder has this file.

        Raises:
            BuildPlanError: The name is a link, pipe or device (see `unsafe`).
        """
        self.refuse_unsafe(name)
        return name in self.names

    def refuse_unsafe(self, *names: str) -> None:
        """Refuse the folder if one of *names* is in `unsafe`, because builders would follow a link.

        Raises:
            BuildPlanError: One of the names is in `unsafe`.
        """
        mistakes = [SourceMistake("", unsafe_file_message(name)) for name in names if name in self.unsafe]
        if mistakes:
            raise BuildPlanError(mistakes)

    def toml(self, name: str) -> dict[str, Any]:
        """Parse a TOML file. Returns an empty dict if there is no such file.

        Raises:
            BuildPlanError: The file is not valid TOML.
        """
        try:
            return tomllib.loads(self.texts.get(name, "").removeprefix(BYTE_ORDER_MARK))
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits; a list 2,000 deep
            raise BuildPlanError.of("", f"{name} is not valid TOML: {error}; correct it") from None

    def json(self, name: str) -> dict[str, Any]:
        """Parse a file with a JSON object. Returns an empty dict if there is no such file.

        Raises:
            BuildPlanError: The file is not a valid JSON object.
        """
        try:
            value = json.loads(self.texts.get(name, "{}").removeprefix(BYTE_ORDER_MARK))
        except (ValueError, RecursionError) as error:
            raise BuildPlanError.of("", f"{name} is not valid JSON: {error}; correct it") from None
        if not isinstance(value, dict):
            raise BuildPlanError.of("", f"{name} is not a JSON object; correct it")
        return cast("dict[str, Any]", value)

    def yaml(self, name: str) -> dict[str, Any]:
        """Parse a file with a YAML mapping. Returns an empty dict if there is no such file, or if it is not a mapping.

        Raises:
            BuildPlanError: The file is not valid YAML, or too long.
        """
        content = self.texts.get(name, "").removeprefix(BYTE_ORDER_MARK)
        try:
            if len(content) > _MAX_YAML_LENGTH:
                raise ValueError("it is too long")
            return table(yaml.safe_load(content))
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise BuildPlanError.of("", f"{name} is not valid YAML: {str(error)[:200]}; correct it") from None


def _select_texts(names: Iterable[str]) -> list[str]:
    inner = sorted(name for name in names if name.endswith(_MANIFESTS) and name.count("/") < _DEPTH)
    return [*(_READ_FILES.intersection(names)), *inner[:_MAX_MANIFESTS]]


def _select_code(names: Iterable[str]) -> list[str]:
    """Return the paths of code files, those nearest to the top first."""
    code_files = [name for name in names if name.endswith(_CODE) and name.count("/") < _DEPTH]
    return sorted(code_files, key=lambda name: (name.count("/"), name))[:_MAX_CODE_FILES]


def _decode(content: bytes) -> str:
    """Decode a file: as UTF-16 if it begins with that byte-order mark, else as UTF-8."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    return content.decode("utf-8", "replace")


def table(value: Any, *path: str) -> dict[str, Any]:
    """Return the table at a path of a parsed file; empty if there is none."""
    for step in path:
        value = cast("dict[str, Any]", value).get(step) if isinstance(value, dict) else None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def text(value: Any) -> str | None:
    """Return *value* if it is a text that is not empty, else None.

    Raises:
        BuildPlanError: The text is too long for a name or command, or has a line end or other invisible characters.
    """
    if not isinstance(value, str) or not value:
        return None
    if len(value) > MAX_TEXT or not value.isprintable():
        message = (
            f"{value[:60]!r} in a file of the source has a character that is not allowed in names and"
            f" commands, or is too long"
        )
        raise BuildPlanError.of("", f"{message}; correct it")
    return value
