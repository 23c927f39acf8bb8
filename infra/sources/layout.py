"""What a folder holds, as far as a recipe looks into it: names, and the text of a few files."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from infra.sources.recipe import Mistake, RecipeError

MAX_FILE: Final = 2 * 2**20
"""Bytes of the largest file that is read: lock files are looked for, and only their beginning is read."""

_LOOKED_INTO: Final = frozenset(
    {
        *("pyproject.toml", "requirements.txt", "setup.cfg", "setup.py", "package.json", "Procfile", ".dockerignore"),
        *("uv.lock", "poetry.lock", "pylock.toml", "pnpm-lock.yaml", "yarn.lock", ".yarnrc.yml", ".python-version"),
        *("package-lock.json", "npm-shrinkwrap.json"),
    }
)
_SKIPPED: Final = frozenset({".git", ".venv", "venv", "node_modules", "__pycache__", ".tox", ".mypy_cache"})
_DEPTH: Final = 3  # src/<package>/__main__.py


@dataclass(frozen=True)
class Layout:
    """A folder.

    Attributes:
        names: Every file down to the third level, with / between the parts.
        texts: The text of those that recipes read.
    """

    names: frozenset[str]
    texts: Mapping[str, str]

    @classmethod
    def of(cls, files: Mapping[str, str]) -> "Layout":
        """A folder that holds these files."""
        return cls(frozenset(files), {name: text for name, text in files.items() if name in _LOOKED_INTO})

    @classmethod
    def read(cls, folder: Path) -> "Layout":
        """The folder on disk.

        Raises:
            OSError: It can't be read.
        """
        names: set[str] = set()
        places = [folder]
        while places:
            place = places.pop()
            for entry in sorted(place.iterdir()):
                name = entry.relative_to(folder).as_posix()
                if entry.is_dir() and not entry.is_symlink():
                    if entry.name not in _SKIPPED and name.count("/") < _DEPTH - 1:
                        places.append(entry)
                elif entry.is_file():
                    names.add(name)
        texts: dict[str, str] = {}
        for name in names & _LOOKED_INTO:
            with (folder / name).open("rb") as file:
                texts[name] = file.read(MAX_FILE).decode("utf-8", "replace")
        return cls(frozenset(names), texts)

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return name in self.names

    def toml(self, name: str) -> dict[str, Any]:
        """A TOML file; empty if it is not there.

        Raises:
            RecipeError: It is no TOML.
        """
        try:
            return tomllib.loads(self.texts.get(name, ""))
        except tomllib.TOMLDecodeError as error:
            raise RecipeError([Mistake("", f"{name} is no TOML: {error}; mend it")]) from None

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object; empty if it is not there.

        Raises:
            RecipeError: It is none.
        """
        try:
            value = json.loads(self.texts.get(name, "{}").removeprefix("\ufeff"))
        except (ValueError, RecursionError) as error:
            raise RecipeError([Mistake("", f"{name} is no JSON: {error}; mend it")]) from None
        if not isinstance(value, dict):
            raise RecipeError([Mistake("", f"{name} is no JSON object; mend it")])
        return cast("dict[str, Any]", value)


def table(value: Any, *path: str) -> dict[str, Any]:
    """What stands at a path of a parsed file; empty if it is no table, whatever else it is."""
    for step in path:
        value = cast("dict[str, Any]", value).get(step) if isinstance(value, dict) else None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def text(value: Any) -> str | None:
    """A text, or None for anything else, an empty one included."""
    return value if isinstance(value, str) and value else None
