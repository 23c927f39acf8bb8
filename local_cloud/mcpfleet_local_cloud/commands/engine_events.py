"""Collects the events of the Pulumi engine: shows progress, and keeps errors, changes and messages."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from pulumi.automation import EngineEvent, OpType

from mcpfleet_local_cloud.commands.phases import Step

_COLOUR: Final = re.compile(r"<\{%.*?%\}>|\x1b\[[0-9;]*m")
_COMPONENT: Final = re.compile(r"(?:::|\$)(?:pulumi:pulumi:Stack|mcpfleet:index:\w+)::[^:]*$")
_BUILD: Final = re.compile(r"mcpfleet-build:index:Image::[^:]*$")
_SERVER: Final = re.compile(r"mcpfleet:index:McpServer::[^:]*$")
_TRACEBACK: Final = "\nTraceback (most recent call last):"
_PROGRESS_VERBS: Final[Mapping[str, str]] = {
    "create": "creating",
    "update": "updating",
    "delete": "deleting",
    "replace": "replacing",
    "create-replacement": "replacing",
    "delete-replaced": "deleting the old",
}
_UNINFORMATIVE: Final = {"update failed", "preview failed", "resource operation failed"}
"""The engine ends a failed run with one of these errors, which adds nothing to the others."""


class EventCollector:
    """Collects the events of one run of the Pulumi engine; call it with each event.

    Attributes:
        errors: The error messages, each once.
        tracebacks: The program's tracebacks, for its developer.
        changes: The number of resources by operation: create, update, replace, delete, same.
        changed_urns: The URNs of the resources that were changed.
        messages: The program's own messages about its servers, such as how it builds them.
        planned: One line for each resource that changes: its operation, its name and its changed properties.
    """

    def __init__(self, step: Step, *, planning: bool = False) -> None:
        self._step = step
        self._planning = planning
        self._in_progress: dict[str, str] = {}
        self.errors: list[str] = []
        self.tracebacks: list[str] = []
        self.changes: dict[str, int] = {}
        self.changed_urns: list[str] = []
        self.messages: list[str] = []
        self.planned: list[str] = []

    def for_refresh(self) -> Callable[[EngineEvent], None]:
        """Return a collector for a refresh before the run. It shares the errors; its changes are not the run's."""
        refresh = EventCollector(self._step, planning=True)
        refresh.errors, refresh.tracebacks = self.errors, self.tracebacks
        return refresh

    def __call__(self, event: EngineEvent) -> None:
        """Add one event."""
        if (started := event.resource_pre_event) is not None:
            self._start(started.metadata.op, started.metadata.urn, started.metadata.diffs or ())
        elif (finished := event.res_outputs_event) is not None:
            self._finish(finished.metadata.urn)
        elif (failed := event.res_op_failed_event) is not None:
            self._finish(failed.metadata.urn)
        elif (diagnostic := event.diagnostic_event) is not None and diagnostic.severity == "error":
            self._add_error(diagnostic.urn, diagnostic.message)
        elif (
            diagnostic is not None
            and diagnostic.severity == "info"
            and diagnostic.urn
            and _SERVER.search(diagnostic.urn)
        ):
            self.messages.append(strip_colours(diagnostic.message).strip())
        elif (
            diagnostic is not None
            and diagnostic.severity == "info"
            and diagnostic.urn
            and _BUILD.search(diagnostic.urn)
        ):
            name = diagnostic.urn.rpartition("::")[2]
            lines = strip_colours(diagnostic.message).rstrip().splitlines()
            self._step.print_lines("\n".join(f"{name}: {line}" for line in lines))
        elif (summary := event.summary_event) is not None:
            self.changes = {_op_name(op): count for op, count in summary.resource_changes.items()}

    def _start(self, op: OpType, urn: str, properties: Iterable[str]) -> None:
        name = _op_name(op)
        if name in {"same", "read", "refresh"}:
            return
        self.changed_urns.append(urn)
        if not _COMPONENT.search(urn):
            changed = ", ".join(properties)
            self.planned.append(f"{name} {shorten_urn(urn)}" + (f" ({changed})" if changed else ""))
        if not (self._planning or _COMPONENT.search(urn)):  # a component is in progress as long as its resources are
            self._in_progress[urn] = f"{_PROGRESS_VERBS.get(name, name)} {shorten_urn(urn).rpartition(':')[2]}"
            self._step.progress("; ".join(self._in_progress.values()))

    def _finish(self, urn: str) -> None:
        if self._in_progress.pop(urn, None) is not None:
            self._step.progress("; ".join(self._in_progress.values()))

    def _add_error(self, urn: str | None, message: str) -> None:
        text, separator, traceback = strip_colours(message).partition(_TRACEBACK)
        # The SDK reports the program's exception twice, once with a prefix of its own.
        text = text.removeprefix("an unhandled error occurred: ").removeprefix("python inline source runtime error: ")
        text = text.strip()
        if separator:
            self.tracebacks.append(f"{text}{separator}{traceback}")
        if urn and "pulumi:pulumi:Stack" not in urn:
            text = f"{shorten_urn(urn)}: {text}"
        if text not in {*_UNINFORMATIVE, *self.errors, ""}:
            self.errors.append(text)


def shorten_urn(urn: str) -> str:
    """Shorten a URN: `…$gcp:cloudrunv2/service:Service::reference` → `gcp:cloudrunv2:Service reference`."""
    kind, _, name = urn.rpartition("::")
    module = kind.rpartition("::")[2].rpartition("$")[2]
    return f"{re.sub(r'/[^:]*', '', module)} {name}"


def strip_colours(text: str) -> str:
    """Remove the colour codes of Pulumi and of the terminal."""
    return _COLOUR.sub("", text)


def extract_error(text: str, count: int = 12) -> str:
    """Extract the error of a failed CLI command, at most *count* lines, from the text that the SDK puts around it."""
    _, separator, stderr = strip_colours(text).partition(" stderr: ")
    lines = [line for line in (stderr if separator else strip_colours(text)).splitlines() if line.strip()]
    return "\n".join(lines[-count:]).removeprefix("error: ")


def _op_name(op: Any) -> str:
    return op.value if isinstance(op, OpType) else str(op)
