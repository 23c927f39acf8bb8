"""Pulumi's own lock of a stack in the file backend, and what a killed run left of it."""

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mcpfleet_local_cloud.commands.phases import SetupError
from mcpfleet_local_cloud.commands.processes import Processes

_PATIENCE: Final = 10.0
"""Seconds that a run which is ending gets to give its lock back."""


@dataclass(frozen=True)
class StackLock:
    """The locks of one stack.

    Attributes:
        folder: The file backend's own, `.pulumi`.
        project: The project's name.
        stack: The stack's name.
        processes: The processes of this machine.
        hostname: This machine's name, as Pulumi writes it.
    """

    folder: Path
    project: str
    stack: str
    processes: Processes = field(default_factory=Processes)
    hostname: Callable[[], str] = socket.gethostname

    def clear(self) -> None:
        """Take away locks whose owner is gone: a `kill -9` cannot give its lock back.

        Raises:
            SetupError: An update is under way.
        """
        deadline = self.processes.clock() + _PATIENCE
        while owners := self._owners():
            for pid in filter(self._is_orphan, owners):
                # Its program was killed, so that it can only fail; it would hold the lock until it notices.
                self.processes.end(pid, grace=0)
            if self.processes.clock() > deadline:
                raise self.refusal()
            self.processes.sleep(0.05)
        for lock in self._files():
            lock.unlink(missing_ok=True)

    def refusal(self) -> SetupError:
        """What to say where another update is under way."""
        owners = ", ".join(map(str, self._owners())) or "unknown"
        return SetupError(
            f"The stack {self.stack} is locked: another update is running (process {owners}). Nothing was changed.",
            "wait until it is done, or end that process; then run the command again.",
        )

    def _files(self) -> list[Path]:
        return sorted((self.folder / "locks").rglob(f"{self.project}/{self.stack}/*.json"))

    def _owners(self) -> list[int]:
        """The processes that hold the lock and still live on this machine."""
        return [pid for file in self._files() if (pid := self._owner(file)) is not None]

    def _owner(self, file: Path) -> int | None:
        try:
            facts: Any = json.loads(file.read_text(encoding="utf-8"))
            pid = int(facts["pid"])
            here = facts["hostname"] == self.hostname()
        except (OSError, ValueError, KeyError, TypeError):
            return None
        # A state belongs to one checkout on one machine, so another host's name is a name that this one had.
        return pid if here and self.processes.program(pid) == "pulumi" else None

    def _is_orphan(self, pid: int) -> bool:
        """Whether it drives a program that is gone: it was started inline by `./dev`, and its parent is another now.

        That need not be process 1: a session manager may take orphans over, and in a container 1 may be `./dev`.
        """
        inline = self.processes.runs(pid, ["auto.inline"])
        parent = self.processes.parent(pid)
        return inline and not any(self.processes.runs(parent, [word]) for word in ("devtools", "mcpfleet-local-cloud"))
