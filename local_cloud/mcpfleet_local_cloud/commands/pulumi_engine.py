"""Runs the real Pulumi engine on this project, and recovers the operations of a killed run.

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
from mcpfleet_local_cloud.commands.engine_events import EventCollector, extract_error
from mcpfleet_local_cloud.commands.paths import PROGRAM
from mcpfleet_local_cloud.commands.phases import SetupError, Step
from mcpfleet_local_cloud.commands.stack_lock import StackLock
from mcpfleet_local_cloud.commands.stack_state import provider_id, read_stack_state, state_file
from pulumi_mcpfleet.cloud_build import peers

T = TypeVar("T")

_CANCEL_SECONDS: Final = 60.0
"""Seconds that the engine gets after Ctrl-C to finish the operations in progress; it starts no further ones."""

_PAST_TENSE: Final[Mapping[str, str]] = {
    "create": "created",
    "update": "updated",
    "delete": "deleted",
    "replace": "replaced",
}


class UpdateError(SetupError):
    """The engine could not apply every change; the message has its errors."""


@dataclass
class UpdateResult:
    """The result of a successful run of the engine.

    Attributes:
        changes: The number of resources by operation: create, update, replace, delete, same.
        changed_urns: The URNs of the resources that were changed.
        outputs: The stack's outputs.
        messages: The program's own messages about its servers.
        planned: Of a preview: one line for each resource that would change, with its operation and changed properties.
    """

    changes: dict[str, int]
    changed_urns: list[str]
    outputs: dict[str, Any] = field(default_factory=dict[str, Any])
    messages: list[str] = field(default_factory=list[str])
    planned: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        parts = [f"{self.changes[key]} {verb}" for key, verb in _PAST_TENSE.items() if self.changes.get(key)]
        return ", ".join(parts) or "no changes"


class ExportableStack(Protocol):
    """The part of `automation.Stack` that `recover_pending` needs."""

    def export_stack(self) -> automation.Deployment:
        """Export the state; its secrets stay encrypted."""
        ...

    def import_stack(self, state: automation.Deployment) -> None:
        """Replace the state."""
        ...


class PulumiStack:
    """One stack of the project in *folder*.

    Attributes:
        command: The command that a failed deployment tells the user to run again. Default: `PROGRAM` with its command.
    """

    def __init__(self, folder: CloudFolder, pulumi: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._pulumi = pulumi
        self._environment = dict(environment)
        self._name = folder.stack
        self._state = folder.state / "pulumi"
        self._lock = StackLock(self._state / ".pulumi", folder.project, folder.stack)
        self._stack: automation.Stack | None = None
        self.command: str | None = None

    def up(self, step: Step) -> UpdateResult:
        """Deploy the program.

        Raises:
            UpdateError: The engine reported errors; the message has all of them.
        """
        events = EventCollector(step)
        result = self._run(
            events, step, "up", lambda stack: stack.up(on_event=events, color="never", suppress_outputs=True)
        )
        return UpdateResult(
            events.changes,
            events.changed_urns,
            {key: value.value for key, value in result.outputs.items()},
            events.messages,
        )

    def preview(self, step: Step) -> UpdateResult:
        """Return the changes that `up` would make, without making them.

        Raises:
            UpdateError: The engine reported errors; the message has all of them.
        """
        events = EventCollector(step, planning=True)
        self._run(events, step, "up", lambda stack: stack.preview(on_event=events, color="never"))
        return UpdateResult(events.changes, events.changed_urns, planned=events.planned)

    def destroy(self, step: Step) -> UpdateResult:
        """Delete every resource of the stack, then the stack.

        Raises:
            UpdateError: The engine reported errors; the remaining resources stay in the state.
        """
        events = EventCollector(step)

        def run(stack: automation.Stack) -> None:
            stack.destroy(on_event=events, color="never", suppress_outputs=True)
            stack.workspace.remove_stack(self._name, preserve_config=True)

        self._run(events, step, "down", run)
        self._stack = None
        return UpdateResult(events.changes, events.changed_urns)

    def remove_state(self) -> None:
        """Remove the stack's state, without its resources; the next run begins with an empty one."""
        state_file(self._folder).unlink(missing_ok=True)
        (self._state / "unfinished").unlink(missing_ok=True)
        self._stack = None

    def exists(self) -> bool:
        """Return whether the stack has a state."""
        return state_file(self._folder).exists()

    def _run(self, events: EventCollector, step: Step, command: str, operation: Callable[[automation.Stack], T]) -> T:
        """Run one operation on the stack, after recovering an interrupted one."""
        state = read_stack_state(self._folder)  # fails with a better message than the engine's if the state is damaged
        self._lock.clear()
        # This file exists until a run succeeds. A run that was stopped may miss the end of an operation that the cloud
        # finished: the state then has a service that is gone, and no pending operation.
        unfinished = self._state / "unfinished"

        def run() -> T:
            stack = self._select_stack()
            if self.exists():
                has_recovered = state.pending and recover_pending(
                    stack, step
                )  # the export alone takes a third of a second
                if has_recovered or unfinished.exists():
                    refresh = events.for_refresh()
                    try:
                        stack.refresh(on_event=refresh, color="never")
                    except automation.CommandError:
                        # A refresh uses the provider's settings of the failed run, which may have caused the failure.
                        # The operation uses the current ones, and reports its own errors.
                        events.errors.clear()
                        events.tracebacks.clear()
            unfinished.touch()
            result = operation(stack)
            unfinished.unlink(missing_ok=True)
            return result

        try:
            with peers.restrict_servers():
                return run_to_completion(run, step)
        except automation.ConcurrentUpdateError:
            raise self._lock.locked_error() from None
        except automation.CommandError as failed:
            raise self._update_error(events, command, str(failed)) from None

    def _select_stack(self) -> automation.Stack:
        if self._stack is None:
            self._state.mkdir(parents=True, exist_ok=True)
            options = automation.LocalWorkspaceOptions(
                work_dir=str(self._folder.config or self._folder.root),
                # The provider in infra/pulumi_mcpfleet/cloud_build/ runs in this Python, too.
                env_vars={**self._environment, "MCPFLEET_PYTHON": sys.executable},
                pulumi_command=automation.PulumiCommand(root=str(_cli_root(self._pulumi, self._folder))),
            )
            self._stack = automation.create_or_select_stack(
                self._name, project_name=self._folder.project, program=self._program, opts=options
            )
        return self._stack

    def _program(self) -> None:
        root = str(self._folder.root)
        if root not in sys.path:
            sys.path.insert(0, root)
        runpy.run_path(str(self._folder.root / "__main__.py"), run_name="__main__")

    def _update_error(self, events: EventCollector, command: str, message: str) -> UpdateError:
        traceback_hint = ""
        if events.tracebacks:
            log = self._folder.log("program")
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text("\n\n".join(events.tracebacks), encoding="utf-8")
            traceback_hint = f" (the program's traceback is in {log})"
        return UpdateError(
            "\n".join(events.errors) or extract_error(message),
            f"correct the cause{traceback_hint}, then run {self.command or f'{PROGRAM} {command}'} again.",
        )


def run_to_completion(run: Callable[[], T], step: Step, cancel_seconds: float = _CANCEL_SECONDS) -> T:
    """Call *run* in a thread and wait for its result, also after Ctrl-C.

    The terminal sends Ctrl-C to the engine too, which finishes the operations in progress and starts no further ones. A
    second Ctrl-C does not wait for that: the next run recovers the interrupted operations.

    Args:
        run: Runs the engine.
        step: Where to show that the run is stopping.
        cancel_seconds: The longest wait after Ctrl-C.

    Raises:
        KeyboardInterrupt: After Ctrl-C, once the engine has ended.
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
        step.progress("stopping after the operations in progress (press Ctrl-C again to stop at once)")
        thread.join(cancel_seconds)
        raise
    if failures:
        raise failures[0]
    return results[0]


def recover_pending(stack: ExportableStack, step: Step) -> bool:
    """Add the resources that a killed run had begun to create to the state, and drop its pending operations.

    `pulumi refresh --import-pending-creates` drops the resources that it should import (observed with 3.256.0), so they
    are added here.

    Returns:
        Whether there were pending operations: if so, the state must be compared with the cloud (a refresh).
    """
    exported = stack.export_stack()
    deployment: dict[str, Any] = dict(exported.deployment or {})
    pending: list[dict[str, Any]] = deployment.get("pending_operations") or []
    if not pending:
        return False
    step.progress("recovering an interrupted update")
    resources: list[dict[str, Any]] = deployment.get("resources") or []
    creating: list[dict[str, Any]] = [operation["resource"] for operation in pending if operation["type"] == "creating"]
    # A replacement has the URN of the resource that it replaces, and a URN is unique in a state.
    existing_urns = {operation["urn"] for operation in resources}
    recovered: list[dict[str, Any]] = [
        {**operation, "id": resource_id, "outputs": operation.get("inputs") or {}}
        for operation in creating
        if operation["urn"] not in existing_urns and (resource_id := provider_id(operation))
    ]
    new_deployment = {**deployment, "resources": [*resources, *recovered], "pending_operations": []}
    stack.import_stack(automation.Deployment(version=exported.version, deployment=new_deployment))
    return True


def _cli_root(pulumi: Path, folder: CloudFolder) -> Path:
    """Return a folder whose `bin/pulumi` is the CLI: the Automation API takes such a folder, not a program."""
    if pulumi.parent.name == "bin":
        return pulumi.parent.parent
    root = folder.state / "pulumi-cli"
    link = root / "bin" / "pulumi"
    if not link.is_symlink() or link.readlink() != pulumi:
        link.parent.mkdir(parents=True, exist_ok=True)
        new_link = link.with_name(f"pulumi.{os.getpid()}")
        new_link.symlink_to(pulumi)
        new_link.replace(link)
    return root
