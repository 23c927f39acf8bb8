"""Pulumi's lock of a stack in the file backend, and the removal of a killed run's lock."""

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mcpfleet_local_cloud.commands.phases import SetupError
from mcpfleet_local_cloud.commands.processes import Processes

_RELEASE_SECONDS: Final = 10.0
"""Seconds that a run which is ending gets to release its lock."""

_DRIVERS: Final = ("devtools", "mcpfleet-local-cloud", "mcpfleet")
"""What the command line of a program that drives the engine has: `./dev`, and the two commands of a project."""


@dataclass(frozen=True)
class StackLock:
    """The locks of one stack.

    Attributes:
        folder: The file backend's folder, `.pulumi`.
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
        """Remove locks whose owner has ended: a process that was killed did not release its lock.

        Raises:
            SetupError: Another update is running.
        """
        deadline = self.processes.clock() + _RELEASE_SECONDS
        while owners := self._owners():
            for pid in filter(self._is_orphan, owners):
                # Its program was killed, so it can only fail; it would keep the lock until it notices.
                self.processes.terminate(pid, grace=0)
            if self.processes.clock() > deadline:
                raise self.locked_error()
            self.processes.sleep(0.05)
        for lock in self._files():
            lock.unlink(missing_ok=True)

    def locked_error(self) -> SetupError:
        """The error for a stack that another update has locked."""
        owners = ", ".join(map(str, self._owners())) or "unknown"
        return SetupError(
            f"The stack {self.stack} is locked: another update is running (process {owners}). Nothing was changed.",
            "wait until it has finished, or end that process; then run the command again.",
        )

    def _files(self) -> list[Path]:
        return sorted((self.folder / "locks").rglob(f"{self.project}/{self.stack}/*.json"))

    def _owners(self) -> list[int]:
        """The ids of the processes that hold the lock and still run on this machine."""
        return [pid for file in self._files() if (pid := self._owner(file)) is not None]

    def _owner(self, file: Path) -> int | None:
        try:
            facts: Any = json.loads(file.read_text(encoding="utf-8"))
            pid = int(facts["pid"])
            is_local = facts["hostname"] == self.hostname()
        except (OSError, ValueError, KeyError, TypeError):
            return None
        # A state belongs to one checkout on one machine, so another host's name is a former name of this one.
        return pid if is_local and self.processes.program_name(pid) == "pulumi" else None

    def _is_orphan(self, pid: int) -> bool:
        """Return whether the engine's program has ended: `./dev` started it inline, and is no longer its parent.

        The new parent need not be process 1: a session manager may adopt orphans, and in a container 1 may be `./dev`.
        """
        inline = self.processes.is_running(pid, ["auto.inline"])
        parent = self.processes.parent_pid(pid)
        return inline and not any(self.processes.is_running(parent, [word]) for word in _DRIVERS)
