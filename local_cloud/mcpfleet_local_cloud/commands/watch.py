"""Follows the events of Pulumi's engine: shows what happens, keeps what went wrong and what changed."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from pulumi.automation import EngineEvent, OpType

from mcpfleet_local_cloud.commands.phases import Step

_COLOUR: Final = re.compile(r"<\{%.*?%\}>|\x1b\[[0-9;]*m")
_COMPONENT: Final = re.compile(r"(?:::|\$)(?:pulumi:pulumi:Stack|mcpfleet:index:\w+)::[^:]*$")
_BUILD: Final = re.compile(r"mcpfleet-build:index:Image::[^:]*$")
_SERVER: Final = re.compile(r"mcpfleet:index:McpServer::[^:]*$")
_TRACEBACK: Final = "\nTraceback (most recent call last):"
_DOING: Final[Mapping[str, str]] = {
    "create": "creating",
    "update": "updating",
    "delete": "deleting",
    "replace": "replacing",
    "create-replacement": "replacing",
    "delete-replaced": "deleting the old",
}
_EMPTY_WORDS: Final = {"update failed", "preview failed", "resource operation failed"}
"""The engine ends a failed run with one of these, which says nothing that the other errors do not."""


class Watch:
    """Takes the engine's events of one run, by `watch(event)`.

    Attributes:
        errors: What went wrong, each once and in words.
        tracebacks: Where the program raised it, for who mends the program.
        changes: How many resources were created, updated, replaced, deleted or left the same.
        touched: The URNs of the resources that were changed.
        told: What the program itself says of its servers: how it builds them.
    """

    def __init__(self, step: Step, *, planning: bool = False) -> None:
        self._step = step
        self._planning = planning
        self._busy: dict[str, str] = {}
        self.errors: list[str] = []
        self.tracebacks: list[str] = []
        self.changes: dict[str, int] = {}
        self.touched: list[str] = []
        self.told: list[str] = []

    def quietly(self) -> Callable[[EngineEvent], None]:
        """Take the events of a refresh before the run: what it finds is no change that the run makes."""
        refresh = Watch(self._step, planning=True)
        refresh.errors, refresh.tracebacks = self.errors, self.tracebacks
        return refresh

    def __call__(self, event: EngineEvent) -> None:
        """Take one event."""
        if (begun := event.resource_pre_event) is not None:
            self._begin(begun.metadata.op, begun.metadata.urn)
        elif (ended := event.res_outputs_event) is not None:
            self._end(ended.metadata.urn)
        elif (failed := event.res_op_failed_event) is not None:
            self._end(failed.metadata.urn)
        elif (said := event.diagnostic_event) is not None and said.severity == "error":
            self._remember(said.urn, said.message)
        elif said is not None and said.severity == "info" and said.urn and _SERVER.search(said.urn):
            self.told.append(plain(said.message).strip())
        elif said is not None and said.severity == "info" and said.urn and _BUILD.search(said.urn):
            name = said.urn.rpartition("::")[2]
            lines = plain(said.message).rstrip().splitlines()
            self._step.say("\n".join(f"{name}: {line}" for line in lines))
        elif (summary := event.summary_event) is not None:
            self.changes = {_text(op): count for op, count in summary.resource_changes.items()}

    def _begin(self, op: OpType, urn: str) -> None:
        name = _text(op)
        if name in {"same", "read", "refresh"}:
            return
        self.touched.append(urn)
        if not (self._planning or _COMPONENT.search(urn)):  # a component is as long under way as its resources
            self._busy[urn] = f"{_DOING.get(name, name)} {short(urn).rpartition(':')[2]}"
            self._step.progress("; ".join(self._busy.values()))

    def _end(self, urn: str) -> None:
        if self._busy.pop(urn, None) is not None:
            self._step.progress("; ".join(self._busy.values()))

    def _remember(self, urn: str | None, message: str) -> None:
        text, cut, traceback = plain(message).partition(_TRACEBACK)
        # The SDK says what the program raised twice, and once it adds words of its own.
        text = text.removeprefix("an unhandled error occurred: ").removeprefix("python inline source runtime error: ")
        text = text.strip()
        if cut:
            self.tracebacks.append(f"{text}{cut}{traceback}")
        if urn and "pulumi:pulumi:Stack" not in urn:
            text = f"{short(urn)}: {text}"
        if text not in {*_EMPTY_WORDS, *self.errors, ""}:
            self.errors.append(text)


def short(urn: str) -> str:
    """`…$gcp:cloudrunv2/service:Service::reference` → `gcp:cloudrunv2:Service reference`."""
    kind, _, name = urn.rpartition("::")
    module = kind.rpartition("::")[2].rpartition("$")[2]
    return f"{re.sub(r'/[^:]*', '', module)} {name}"


def plain(text: str) -> str:
    """The text without Pulumi's and the terminal's colours."""
    return _COLOUR.sub("", text)


def complaint(text: str, count: int = 12) -> str:
    """What a failed command of the CLI said, without what the SDK puts round it."""
    _, found, said = plain(text).partition(" stderr: ")
    lines = [line for line in (said if found else plain(text)).splitlines() if line.strip()]
    return "\n".join(lines[-count:]).removeprefix("error: ")


def _text(op: Any) -> str:
    return op.value if isinstance(op, OpType) else str(op)
