"""Progress, one line per phase with its seconds, and failures as one message with the next step.

On a terminal the running phases are shown live; without one every phase becomes a plain line when it ends.
Phases may run in several threads at once. This module knows nothing of what the phases do.
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
from mcpfleet.terminal import marked_up

A = TypeVar("A")
B = TypeVar("B")

# Without a terminal a long phase says that it lives, but does not fill a log.
PLAIN_PROGRESS_SECONDS = 15.0
_LOOK_SECONDS = 1.0

_TITLE_WIDTH = 28
_SECONDS_WIDTH = 8


class SetupError(Exception):
    """Something about the machine or the user's request stops us; not a bug.

    Attributes:
        message: What is wrong, and what would have happened.
        next_step: What the user can type or change.
        shown: Whether the user has already read it, beside the phase that failed.
    """

    def __init__(self, message: str, next_step: str) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step
        self.shown = False


class SeveralErrors(Exception):  # noqa: N818 - it is several errors, and says so
    """More than one of the phases that ran side by side failed."""

    def __init__(self, errors: list[SetupError]) -> None:
        super().__init__("; ".join(error.message for error in errors))
        self.errors = errors


@dataclass
class Result:
    """A phase that has ended.

    Attributes:
        title: What the phase did, in the user's words.
        seconds: How long it took; None where nobody measured it.
        detail: What came of it: a version, "in cache", a port.
        ok: False where it raised.
        children: The phases within, in the order in which they ended.
    """

    title: str
    seconds: float | None
    detail: str = ""
    ok: bool = True
    children: list["Result"] = field(default_factory=list["Result"])


class Step:
    """A running phase, as the code within sees it."""

    def __init__(self, phases: "Phases", title: str, depth: int) -> None:
        self._phases = phases
        self.title = title
        self.depth = depth
        self.started = phases.clock()
        self.detail = ""
        self.progressed = ""
        self.last_plain = self.started
        self.spinner = Spinner("dots")
        self.children: list[Result] = []

    def note(self, detail: str) -> None:
        """Say what came of the phase; shown at the end of its line."""
        self.detail = detail

    def progress(self, text: str) -> None:
        """Say what is happening now; a later call replaces it."""
        self.progressed = text
        self._phases.show_progress(self)

    def say(self, text: str) -> None:
        """Print lines that stay, below the phases that have ended."""
        for line in text.split("\n"):
            self._phases.console.print(f"  {inert(line)}", markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def phase(self, title: str) -> Generator["Step"]:
        """Run a phase within this one; its line comes under this one's when this one ends."""
        with self._phases.running(title, self.depth + 1, self.children) as step:
            yield step


class Phases:
    """Runs phases, shows them, and keeps their results.

    Attributes:
        console: Progress and failures: standard error, so that `eval "$(./dev env)"` never sees them.
        out: What the user asked for: standard output.
        results: The phases that have ended, in that order.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console or Console(stderr=True, highlight=False, emoji=False)
        self.out = Console(highlight=False, emoji=False)
        self.clock = clock
        self.results: list[Result] = []
        self._running: list[Step] = []
        self._live: Live | None = None
        self._pulse: threading.Event | None = None
        self._lock = threading.RLock()

    @contextmanager
    def phase(self, title: str) -> Generator[Step]:
        """Run the body as one phase; what it raises passes through, after the line that says so."""
        with self.running(title, 0, self.results) as step:
            yield step

    def record(self, title: str, seconds: float | None, detail: str = "") -> None:
        """Show a phase that was run and measured elsewhere."""
        result = Result(title, seconds, detail)
        self.results.append(result)
        self._print(result, 0)

    @overload
    def concurrently(self, first: Callable[[], A], second: Callable[[], B], /) -> tuple[A, B]: ...
    @overload
    def concurrently(self, *jobs: Callable[[], A]) -> tuple[A, ...]: ...
    def concurrently(self, *jobs: Callable[[], Any]) -> tuple[Any, ...]:
        """Run the jobs side by side, each to its end, and return their results in the given order.

        A job that fails does not stop the others: what they make is kept for the next run.

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

        # Daemon threads, so that Ctrl-C ends the program and does not wait for a build of minutes.
        threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(jobs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        _raise_all([failure for failure in failures if failure is not None])
        return tuple(results)

    def show_error(self, error: SetupError) -> None:
        """Print a failure once: what is wrong and what to do about it."""
        if error.shown:
            return
        error.shown = True
        self.console.print(f"[bold red]error:[/] {escape(inert_lines(error.message))}", soft_wrap=True)
        self.console.print(f"[bold]next:[/]  {escape(inert_lines(error.next_step))}", soft_wrap=True)

    def show_progress(self, step: Step) -> None:
        """Show what a running phase does now (used by `Step.progress`)."""
        with self._lock:
            if not self.console.is_terminal:  # on one, the picture is drawn anew by itself
                self._say_that_it_lives(step)

    def beat(self) -> None:
        """Without a terminal, print a line for each phase that has been silent for a while."""
        with self._lock:
            for step in self._running:
                self._say_that_it_lives(step)

    def _say_that_it_lives(self, step: Step) -> None:
        if self.clock() - step.last_plain >= PLAIN_PROGRESS_SECONDS:
            step.last_plain = self.clock()
            text = f"{'  ' * step.depth}  … {step.title}" + (f": {step.progressed}" if step.progressed else "")
            self.console.print(inert(text), markup=False, soft_wrap=True)

    def _keep_beating(self, ended: threading.Event) -> None:
        while not ended.wait(_LOOK_SECONDS):
            self.beat()

    @contextmanager
    def running(self, title: str, depth: int, results: list[Result]) -> Generator[Step]:
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
            result = Result(title, seconds, step.detail, failure is None, step.children)
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
                # It asks for the picture by itself, so that the seconds go on while nothing else happens.
                self._live = Live(
                    get_renderable=self._picture, console=self.console, transient=True, refresh_per_second=8
                )
                self._live.start()
            if not self.console.is_terminal and self._pulse is None:
                self._pulse = threading.Event()
                threading.Thread(target=self._keep_beating, args=(self._pulse,), daemon=True).start()

    def _leave(self, step: Step) -> None:
        with self._lock:
            last = len(self._running) == 1
            if last and self._live is not None:
                self._live.stop()
                self._live = None
            self._running.remove(step)
            if last and self._pulse is not None:
                self._pulse.set()
                self._pulse = None

    def _picture(self) -> RenderableType:
        picture = Table.grid(padding=(0, 1, 0, 0))
        picture.add_column(no_wrap=True)
        picture.add_column(no_wrap=True, min_width=_TITLE_WIDTH)
        picture.add_column(no_wrap=True, min_width=_SECONDS_WIDTH, justify="right")
        picture.add_column(style="dim")
        for step in list(self._running):
            seconds = f"{self.clock() - step.started:.0f} s"
            picture.add_row(
                step.spinner, marked_up("  " * step.depth + step.title), seconds, marked_up(step.progressed)
            )
        return picture

    def _print(self, result: Result, depth: int) -> None:
        mark = "[green]✓[/]" if result.ok else "[red]✗[/]"
        seconds = "" if result.seconds is None else f"{result.seconds:.1f} s"
        title = ("  " * depth + result.title).ljust(_TITLE_WIDTH)
        line = f"{mark} {marked_up(title)} {seconds.rjust(_SECONDS_WIDTH)}  [dim]{marked_up(result.detail)}[/]"
        self.console.print(line.rstrip(), soft_wrap=True)
        for child in result.children:
            self._print(child, depth + 1)


def _raise_all(failures: list[BaseException]) -> None:
    errors: list[SetupError] = []
    for failure in failures:
        if isinstance(failure, SeveralErrors):
            errors += failure.errors
        elif isinstance(failure, SetupError):
            errors.append(failure)
        else:
            raise failure  # a bug: its traceback must not be lost behind a SetupError
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise SeveralErrors(errors)
