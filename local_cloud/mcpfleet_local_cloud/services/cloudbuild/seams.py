"""What Cloud Build asks of whatever runs its steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Log = Callable[[str], None]


class StepError(Exception):
    """A step or a push failed; the text is Docker's, in one line."""

    def __init__(self, message: str, code: int = 1, *, denied: bool = False) -> None:
        super().__init__(message)
        self.code = code
        """The exit status of the step."""
        self.denied = denied
        """Whether the registry did not let the account in."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step that can be run."""

    arguments: Sequence[str]
    """Of docker."""
    environment: tuple[tuple[str, str], ...] = ()
    folder: Path
    """Where it runs."""


class Worker(Protocol):
    """A machine that runs steps; cancelling what is awaited ends them."""

    async def run(self, step: Step, log: Log) -> None:
        """Run a step to its end.

        Raises:
            StepError: It failed.
        """
        ...

    async def push(self, image: str, token: str, log: Log) -> str:
        """Push *image* with an access token; the digest under which the registry took it.

        Raises:
            StepError: There is no such image, or the registry refuses it.
        """
        ...

    async def forget(self, images: Sequence[str]) -> None:
        """Remove what a build has made from the machine."""
        ...
