"""Where a checkout keeps its state, and where all checkouts of a user share what is costly to make."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True)
class Paths:
    """The folders of one checkout. Nothing is created by asking for a path.

    Attributes:
        root: The checkout.
        cache: The user's cache, shared by clones: `$XDG_CACHE_HOME/mcpfleet`, else `~/.cache/mcpfleet`.
    """

    root: Path
    cache: Path

    @classmethod
    def of(cls, environ: Mapping[str, str], root: Path | None = None) -> "Paths":
        """Return the paths of the project around the working folder (or of `root`), for this environment."""
        # The XDG specification tells programs to ignore a relative path.
        configured = Path(environ.get("XDG_CACHE_HOME", ""))
        base = configured if configured.is_absolute() else Path(environ.get("HOME") or Path.home()) / ".cache"
        return cls(root=root or _project(Path.cwd()), cache=base / "mcpfleet")

    @property
    def state(self) -> Path:
        """What is this checkout's own, ignored by git: the local cloud, Pulumi's state, logs."""
        return self.root / ".mcpfleet"

    @property
    def logs(self) -> Path:
        """Logs of the programs that this checkout runs in the background."""
        return self.state / "logs"


def _project(folder: Path) -> Path:
    """The nearest folder with a Pulumi.yaml, from *folder* upwards; else *folder*."""
    return next((place for place in (folder, *folder.parents) if (place / "Pulumi.yaml").is_file()), folder)


PROGRAM: Final = "./dev" if (_project(Path.cwd()) / "dev").is_file() else "mcpfleet-local-cloud"
"""What a user of this folder types: the front door of mcpfleet's own checkout, elsewhere the console script."""

ALSO_MADE: Final[dict[str, str]] = {}
"""What setup makes besides, once there is a base image, for a program that adds to these commands: by the title of its
phase a `module:function`, which is called with paths, engine, the hash of the base image's recipe, and the step."""
