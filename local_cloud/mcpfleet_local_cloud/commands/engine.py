"""Drives the real Pulumi engine on this project, and takes up what a killed run left behind.

The program runs inline: `__main__.py` byte for byte, in this process, because no package registry has Pulumi's
language host. The engine, its state and its plugins are the same as under the `pulumi` command.
"""

import os
import runpy
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from pulumi import automation

from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.paths import PROGRAM
from mcpfleet_local_cloud.commands.phases import SetupError, Step
from mcpfleet_local_cloud.commands.stack_lock import StackLock
from mcpfleet_local_cloud.commands.state import identifier, recorded, state_file
from mcpfleet_local_cloud.commands.watch import Watch, complaint
from pulumi_mcpfleet.cloud_build import peers

T = TypeVar("T")

_CANCEL_PATIENCE: Final = 60.0
"""Seconds that the engine gets after Ctrl-C for what is under way: it finishes that and begins nothing more."""

_DONE: Final[Mapping[str, str]] = {
    "create": "created",
    "update": "updated",
    "delete": "deleted",
    "replace": "replaced",
}


class UpdateError(SetupError):
    """The engine could not do all that the program asks for."""


@dataclass
class Outcome:
    """What a run of the engine did.

    Attributes:
        changes: How many resources were created, updated, replaced, deleted or left the same.
        touched: The URNs of the resources that were changed.
        outputs: The stack's outputs.
        told: What the program itself says of its servers.
    """

    changes: dict[str, int]
    touched: list[str]
    outputs: dict[str, Any] = field(default_factory=dict[str, Any])
    told: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        parts = [f"{self.changes[key]} {done}" for key, done in _DONE.items() if self.changes.get(key)]
        return ", ".join(parts) or "no changes"


class Settling(Protocol):
    """The part of `automation.Stack` that `settle` needs."""

    def export_stack(self) -> automation.Deployment:
        """The state, its secrets encrypted."""
        ...

    def import_stack(self, state: automation.Deployment) -> None:
        """Replace the state."""
        ...


class PulumiStack:
    """One stack of the project in *place*."""

    def __init__(self, place: CloudFolder, pulumi: Path, environment: Mapping[str, str]) -> None:
        self._place = place
        self._pulumi = pulumi
        self._environment = dict(environment)
        self._name = place.stack
        self._state = place.state / "pulumi"
        self._lock = StackLock(self._state / ".pulumi", place.project, place.stack)
        self._stack: automation.Stack | None = None

    def up(self, step: Step) -> Outcome:
        """Deploy the program.

        Raises:
            UpdateError: with every error that the engine reports.
        """
        watch = Watch(step)
        done = self._run(
            watch, step, "up", lambda stack: stack.up(on_event=watch, color="never", suppress_outputs=True)
        )
        return Outcome(
            watch.changes, watch.touched, {key: value.value for key, value in done.outputs.items()}, watch.told
        )

    def preview(self, step: Step) -> Outcome:
        """Find out what `up` would do, and do nothing.

        Raises:
            UpdateError: with every error that the engine reports.
        """
        watch = Watch(step, planning=True)
        self._run(watch, step, "up", lambda stack: stack.preview(on_event=watch, color="never"))
        return Outcome(watch.changes, watch.touched)

    def destroy(self, step: Step) -> Outcome:
        """Delete every resource of the stack, then the stack.

        Raises:
            UpdateError: with every error that the engine reports; what is left stays in the state.
        """
        watch = Watch(step)

        def run(stack: automation.Stack) -> None:
            stack.destroy(on_event=watch, color="never", suppress_outputs=True)
            stack.workspace.remove_stack(self._name, preserve_config=True)

        self._run(watch, step, "down", run)
        self._stack = None
        return Outcome(watch.changes, watch.touched)

    def exists(self) -> bool:
        """Whether the stack has a state."""
        return state_file(self._place).exists()

    def _run(self, watch: Watch, step: Step, command: str, operation: Callable[[automation.Stack], T]) -> T:
        """Run one operation on the stack as it is after whatever happened to the last one."""
        said = recorded(self._place)  # better than the engine does, where the state is broken
        self._lock.clear()
        # Here until a run succeeds. One that was stopped may have lost the end of an operation that the cloud
        # finished: the state then has a service that is gone, and knows of nothing pending.
        unfinished = self._state / "unfinished"

        def run() -> T:
            stack = self._selected()
            if self.exists():
                doubtful = said.pending and settle(stack, step)  # the export alone takes a third of a second
                if doubtful or unfinished.exists():
                    refresh = watch.quietly()
                    try:
                        stack.refresh(on_event=refresh, color="never")
                    except automation.CommandError:
                        # It asks with the provider as it stood in the failed run, which may be what was wrong with
                        # it. The operation has today's, and says itself what does not work.
                        watch.errors.clear()
                        watch.tracebacks.clear()
            unfinished.touch()
            done = operation(stack)
            unfinished.unlink(missing_ok=True)
            return done

        try:
            with peers.guarding():
                return finish(run, step)
        except automation.ConcurrentUpdateError:
            raise self._lock.refusal() from None
        except automation.CommandError as failed:
            raise self._failure(watch, command, str(failed)) from None

    def _selected(self) -> automation.Stack:
        if self._stack is None:
            self._state.mkdir(parents=True, exist_ok=True)
            options = automation.LocalWorkspaceOptions(
                work_dir=str(self._place.root),
                # The provider in infra/pulumi_mcpfleet/cloud_build/ runs in this Python, too.
                env_vars={**self._environment, "MCPFLEET_PYTHON": sys.executable},
                pulumi_command=automation.PulumiCommand(root=str(_as_root(self._pulumi, self._place))),
            )
            self._stack = automation.create_or_select_stack(
                self._name, project_name=self._place.project, program=self._program, opts=options
            )
        return self._stack

    def _program(self) -> None:
        root = str(self._place.root)
        if root not in sys.path:
            sys.path.insert(0, root)
        runpy.run_path(str(self._place.root / "__main__.py"), run_name="__main__")

    def _failure(self, watch: Watch, command: str, said: str) -> UpdateError:
        where = ""
        if watch.tracebacks:
            log = self._place.log("program")
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text("\n\n".join(watch.tracebacks), encoding="utf-8")
            where = f" (where the program raised it: {log})"
        return UpdateError(
            "\n".join(watch.errors) or complaint(said),
            f"mend what it names{where}, then run {PROGRAM} {command} again.",
        )


def finish(run: Callable[[], T], step: Step, patience: float = _CANCEL_PATIENCE) -> T:
    """Run to the end, also after Ctrl-C.

    The terminal sends Ctrl-C to the engine too, which finishes the operations under way and begins no more. Whoever
    presses it again does not wait for that: the next run takes up what is left.

    Raises:
        KeyboardInterrupt: Once the engine has ended.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            results.append(run())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work, name="engine", daemon=True)
    thread.start()
    try:
        thread.join()
    except KeyboardInterrupt:
        step.progress("stopping; what is under way is finished first (Ctrl-C again stops at once)")
        thread.join(patience)
        raise
    if failures:
        raise failures[0]
    return results[0]


def settle(stack: Settling, step: Step) -> bool:
    """Take into the state what a killed run had begun to create, and forget what it had not.

    `pulumi refresh --import-pending-creates` drops what it should import (3.256.0: seen), so that a resource which may
    exist is put into the state here.

    Returns:
        Whether there was such a thing: what the state says now has to be compared with the cloud (a refresh).
    """
    exported = stack.export_stack()
    deployment: dict[str, Any] = dict(exported.deployment or {})
    pending: list[dict[str, Any]] = deployment.get("pending_operations") or []
    if not pending:
        return False
    step.progress("taking up an update that was interrupted")
    resources: list[dict[str, Any]] = deployment.get("resources") or []
    creating: list[dict[str, Any]] = [one["resource"] for one in pending if one["type"] == "creating"]
    # A replacement has the URN of what it replaces, and a state has a URN once.
    known = {one["urn"] for one in resources}
    begun: list[dict[str, Any]] = [
        {**one, "id": found, "outputs": one.get("inputs") or {}}
        for one in creating
        if one["urn"] not in known and (found := identifier(one))
    ]
    taken_up = {**deployment, "resources": [*resources, *begun], "pending_operations": []}
    stack.import_stack(automation.Deployment(version=exported.version, deployment=taken_up))
    return True


def _as_root(pulumi: Path, place: CloudFolder) -> Path:
    """A folder whose `bin/pulumi` is the CLI, which is how the Automation API wants to be told."""
    if pulumi.parent.name == "bin":
        return pulumi.parent.parent
    root = place.state / "pulumi-cli"
    link = root / "bin" / "pulumi"
    if not link.is_symlink() or link.readlink() != pulumi:
        link.parent.mkdir(parents=True, exist_ok=True)
        fresh = link.with_name(f"pulumi.{os.getpid()}")
        fresh.symlink_to(pulumi)
        fresh.replace(link)
    return root
