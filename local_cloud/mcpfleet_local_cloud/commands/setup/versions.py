"""Parses the versions of programs from their output."""

import re
from typing import NamedTuple

# A version starts a word, or follows the `v` or `go` that Pulumi and Go put before it.
_VERSION = re.compile(r"(?<![\w.])(?:v|go)?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?")


class Version(NamedTuple):
    """A version without its pre-release and build parts, which do not matter here."""

    major: int
    minor: int
    patch: int = 0

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


def parse_version(text: str) -> Version | None:
    """Return the first version in the output of `program --version`; None if there is none."""
    match = _VERSION.search(text)
    return Version(int(match[1]), int(match[2]), int(match[3] or 0)) if match else None
