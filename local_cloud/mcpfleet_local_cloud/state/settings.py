"""Where one local cloud lives and who it is."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The coordinates of one local cloud; every path below *state* belongs to it alone."""

    state: Path
    host: str = "127.0.0.1"
    port: int = 8470
    project: str = "mcpfleet-local"
    project_number: int = 481516234200
    universe: str = "mcpfleet.test"

    @property
    def url(self) -> str:
        """The control plane's base URL, without a slash at its end."""
        return f"http://{self.host}:{self.port}"
