"""Shows progress as one line per phase with its seconds, and a failure as one message with the next step.

On a terminal the running phases are shown live; without one every phase becomes a plain line when it ends.
Phases may run in several threads at once. This module is independent of the work that the phases do.
"""

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, overload

from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table

from mcpfleet.inert import inert, inert_lines
from mcpfleet.terminal import markup_safe

A = TypeVar("A")
B = TypeVar("B")

# Without a terminal, a long phase prints a line at this interval: enough to see that it runs, without filling a log.
PLAIN_PROGRESS_SECONDS = 15.0
_HEARTBEAT_INTERVAL = 1.0

_TITLE_WIDTH = 28
_SECONDS_WIDTH = 8


class SetupError(Exception):
    """A command cannot go on because of the machine or the user's request; not a bug.

    Attributes:
        message: What is wrong.
        next_step: What the user can type or change.
        is_shown: Whether it was already printed, with the phase that failed.
    """

    def __init__(self, message: str, next_step: str) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step
        self.is_shown = False


class SeveralErrors(Exception):  # noqa: N818 - the name is a plural
    """More than one of the phases that ran concurrently failed."""

    def __init__(self, errors: list[SetupError]) -> None:
        super().__init__("; ".join(error.message for error in errors))
        self.errors = errors


@dataclass
class PhaseResult:
    """A phase that has ended.

    Attributes:
        title: What the phase did, as the user sees it.
        seconds: Its duration; None if it was not measured.
        detail: Its outcome in a few words: a version, "in cache", a port.
        is_ok: False if it raised an exception.
        children: The phases within, in the order in which they ended.
    """

    title: str
    seconds: float | None
    detail: str = ""
    is_ok: bool = True
    children: list["PhaseResult"] = field(default_factory=list["PhaseResult"])


class Step:
    """A running phase, for the code within it."""

    def __init__(self, phases: "Phases", title: str, depth: int) -> None:
        self._phases = phases
        self.title = title
        self.depth = depth
        self.started = phases.clock()
        self.detail = ""
        self.progress_text = ""
        self.last_plain_line = self.started
        self.spinner = Spinner("dots")
        self.children: list[PhaseResult] = []

    def note(self, detail: str) -> None:
        """Set the outcome of the phase, which is shown at the end of its line."""
        self.detail = detail

    def progress(self, text: str) -> None:
        """Show the current activity; a later call replaces it."""
        self.progress_text = text
        self._phases.show_progress(self)

    def print_lines(self, text: str) -> None:
        """Print permanent lines below the phases that have ended."""
        for line in text.split("\n"):
            self._phases.console.print(f"  {inert(line)}", markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def phase(self, title: str) -> Generator["Step"]:
        """Run a phase within this one; its line is printed below this one's when this one ends."""
        with self._phases.run_phase(title, self.depth + 1, self.children) as step:
            yield step


class Phases:
    """Runs phases, shows them, and keeps their results.

    Attributes:
        console: Standard error, for progress and failures, so that `eval "$(./dev env)"` does not read them.
        out: Standard output, for the output of the command.
        results: The phases that have ended, in that order.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console or Console(stderr=True, highlight=False, emoji=False)
        self.out = Console(highlight=False, emoji=False)
        self.clock = clock
        self.results: list[PhaseResult] = []
        self._running: list[Step] = []
        self._live: Live | None = None
        self._heartbeat: threading.Event | None = None
        self._lock = threading.RLock()

    @contextmanager
    def phase(self, title: str) -> Generator[Step]:
        """Run the body as one phase. An exception passes through after the phase's line was printed."""
        with self.run_phase(title, 0, self.results) as step:
            yield step

    def record(self, title: str, seconds: float | None, detail: str = "") -> None:
        """Show a phase that was run and measured elsewhere."""
        result = PhaseResult(title, seconds, detail)
        self.results.append(result)
        self._print(result, 0)

    @overload
    def run_concurrently(self, first: Callable[[], A], second: Callable[[], B], /) -> tuple[A, B]: ...
    @overload
    def run_concurrently(self, *jobs: Callable[[], A]) -> tuple[A, ...]: ...
    def run_concurrently(self, *jobs: Callable[[], Any]) -> tuple[Any, ...]:
        """Run the jobs concurrently, each to its end, and return their results in the given order.

        A job that fails does not stop the others: their results are kept for the next run.

        Raises:
            SetupError: Exactly one job failed.
            SeveralErrors: More than one job failed.
        """
        results: list[Any] = [None] * len(jobs)
        failures: list[BaseException | None] = [None] * len(jobs)

        def run(number: int) -> None:
            try:
                results[number] = jobs[number]()
            except BaseException as error:
                failures[number] = error

        # Daemon threads, so that Ctrl-C ends the program without waiting for a build that takes minutes.
        threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(jobs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        _raise_failures([failure for failure in failures if failure is not None])
        return tuple(results)

    def show_error(self, error: SetupError) -> None:
        """Print an error and its next step, once."""
        if error.is_shown:
            return
        error.is_shown = True
        self.console.print(f"[bold red]error:[/] {escape(inert_lines(error.message))}", soft_wrap=True)
        self.console.print(f"[bold]next:[/]  {escape(inert_lines(error.next_step))}", soft_wrap=True)

    def show_progress(self, step: Step) -> None:
        """Show the current activity of a running phase (used by `Step.progress`)."""
        with self._lock:
            if not self.console.is_terminal:  # a terminal's display is refreshed by itself
                self._print_heartbeat(step)

    def print_heartbeats(self) -> None:
        """Without a terminal, print a line for each phase that has printed nothing for a while."""
        with self._lock:
            for step in self._running:
                self._print_heartbeat(step)

    def _print_heartbeat(self, step: Step) -> None:
        if self.clock() - step.last_plain_line >= PLAIN_PROGRESS_SECONDS:
            step.last_plain_line = self.clock()
            text = f"{'  ' * step.depth}  … {step.title}" + (f": {step.progress_text}" if step.progress_text else "")
            self.console.print(inert(text), markup=False, soft_wrap=True)

    def _run_heartbeat(self, stopped: threading.Event) -> None:
        while not stopped.wait(_HEARTBEAT_INTERVAL):
            self.print_heartbeats()

    @contextmanager
    def run_phase(self, title: str, depth: int, results: list[PhaseResult]) -> Generator[Step]:
        """Run a phase at a depth and append its result to `results` (used by `phase` and `Step.phase`)."""
        step = Step(self, title, depth)
        self._enter(step)
        failure: BaseException | None = None
        try:
            yield step
        except BaseException as error:
            failure = error
            raise
        finally:
            seconds = self.clock() - step.started
            result = PhaseResult(title, seconds, step.detail, failure is None, step.children)
            self._leave(step)
            results.append(result)
            with self._lock:
                if depth == 0:
                    self._print(result, 0)
                if isinstance(failure, SetupError):
                    self.show_error(failure)

    def _enter(self, step: Step) -> None:
        with self._lock:
            self._running.append(step)
            if self.console.is_terminal and self._live is None:
                # `Live` renders it regularly, so that the seconds advance while nothing else happens.
                self._live = Live(
                    get_renderable=self._render_running, console=self.console, transient=True, refresh_per_second=8
                )
                self._live.start()
            if not self.console.is_terminal and self._heartbeat is None:
                self._heartbeat = threading.Event()
                threading.Thread(target=self._run_heartbeat, args=(self._heartbeat,), daemon=True).start()

    def _leave(self, step: Step) -> None:
        with self._lock:
            last = len(self._running) == 1
            if last and self._live is not None:
                self._live.stop()
                self._live = None
            self._running.remove(step)
            if last and self._heartbeat is not None:
                self._heartbeat.set()
                self._heartbeat = None

    def _render_running(self) -> RenderableType:
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, min_width=_TITLE_WIDTH)
        table.add_column(no_wrap=True, min_width=_SECONDS_WIDTH, justify="right")
        table.add_column(style="dim")
        for step in list(self._running):
            seconds = f"{self.clock() - step.started:.0f} s"
            table.add_row(
                step.spinner, markup_safe("  " * step.depth + step.title), seconds, markup_safe(step.progress_text)
            )
        return table

    def _print(self, result: PhaseResult, depth: int) -> None:
        mark = "[green]✓[/]" if result.is_ok else "[red]✗[/]"
        seconds = "" if result.seconds is None else f"{result.seconds:.1f} s"
        title = ("  " * depth + result.title).ljust(_TITLE_WIDTH)
        line = f"{mark} {markup_safe(title)} {seconds.rjust(_SECONDS_WIDTH)}  [dim]{markup_safe(result.detail)}[/]"
        self.console.print(line.rstrip(), soft_wrap=True)
        for child in result.children:
            self._print(child, depth + 1)


def _raise_failures(failures: list[BaseException]) -> None:
    errors: list[SetupError] = []
    for failure in failures:
        if isinstance(failure, SeveralErrors):
            errors += failure.errors
        elif isinstance(failure, SetupError):
            errors.append(failure)
        else:
            raise failure  # a bug: its traceback must not be hidden by a SetupError
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise SeveralErrors(errors)
