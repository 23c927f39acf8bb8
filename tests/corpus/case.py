"""A layout of a repository, with the expected result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pulumi_mcpfleet.sources import BuildOptions, Layout


@dataclass(frozen=True)
class Case:
    """A layout.

    Attributes:
        files: Its files; bytes where they are no UTF-8.
        wish: What its user has decided, by the keys of a fleet's source.
        decided: Parts of what is told about it.
        lines: Parts of the Dockerfile that is made.
        never: What must not be in it.
        own: Whether it is built by a Dockerfile of its own.
        refused: Where it can't be built: the keys that are named, each with a part of its sentence.
        answers: Where it is built and called, too: that its tool `shout` answers, through HTTP or the bridge.
    """

    files: Mapping[str, str | bytes]
    wish: Mapping[str, Any] = field(default_factory=dict[str, Any])
    decided: Sequence[str] = ()
    lines: Sequence[str] | None = ()
    never: Sequence[str] = ()
    own: bool = False
    refused: Mapping[str, str] = field(default_factory=dict[str, str])
    answers: bool = False

    @property
    def layout(self) -> Layout:
        return Layout.from_files(self.files)

    @property
    def asked(self) -> BuildOptions:
        return BuildOptions(**self.wish)
