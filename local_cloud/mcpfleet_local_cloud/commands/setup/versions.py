"""Versions of programs, read from whatever sentence they print."""

import re
from typing import NamedTuple

# A version starts a word, or follows the `v` or `go` that Pulumi and Go put before it.
_VERSION = re.compile(r"(?<![\w.])(?:v|go)?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?")


class Version(NamedTuple):
    """A version without its pre-release and build parts, which play no role in what we support."""

    major: int
    minor: int
    patch: int = 0

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


def parse_version(text: str) -> Version | None:
    """Return the first version in the output of `program --version`, or None where there is none."""
    found = _VERSION.search(text)
    return Version(int(found[1]), int(found[2]), int(found[3] or 0)) if found else None
