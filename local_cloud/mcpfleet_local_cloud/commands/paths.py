"""The folder of a checkout's state, and the cache that all checkouts of a user share."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True)
class Paths:
    """The folders of one checkout. Reading a path creates nothing.

    Attributes:
        root: The checkout.
        cache: The user's cache, shared by clones: `$XDG_CACHE_HOME/mcpfleet`, else `~/.cache/mcpfleet`.
    """

    root: Path
    cache: Path

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], root: Path | None = None) -> "Paths":
        """Return the paths of the project around the working folder (or of `root`), for this environment."""
        # The XDG specification tells programs to ignore a relative path.
        configured = Path(environ.get("XDG_CACHE_HOME", ""))
        base = configured if configured.is_absolute() else Path(environ.get("HOME") or Path.home()) / ".cache"
        return cls(root=root or _find_project(Path.cwd()), cache=base / "mcpfleet")

    @property
    def state(self) -> Path:
        """The folder of this checkout's local cloud, Pulumi state and logs; git ignores it."""
        return self.root / ".mcpfleet"

    @property
    def logs(self) -> Path:
        """The folder of the background programs' logs."""
        return self.state / "logs"


def _find_project(folder: Path) -> Path:
    """Find the nearest folder with a Pulumi.yaml, from *folder* upwards; *folder* if there is none."""
    return next((candidate for candidate in (folder, *folder.parents) if (candidate / "Pulumi.yaml").is_file()), folder)


PROGRAM_VARIABLE: Final = "MCPFLEET_PROGRAM"
"""Holds what the user typed, for this process and those that it starts."""

PROGRAM: Final = os.environ.get(PROGRAM_VARIABLE) or (
    "./dev" if (_find_project(Path.cwd()) / "dev").is_file() else "mcpfleet-local-cloud"
)
"""The command that messages tell the user to type: `uv run mcpfleet local`, `./dev` in mcpfleet's checkout, else the
console script `mcpfleet-local-cloud`."""

EXTRA_SETUP: Final[dict[str, str]] = {}
"""Further setup steps, which run after the base image was built: the title of the phase → `module:function`. A program
that adds commands to these can add its own. The function gets the paths, the Docker engine, the hash of the base
image's specification, and the step."""
