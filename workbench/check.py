"""`./dev check`: format, lint and types, side by side, one line each."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.paths import Paths
from workbench.phases import Phases, SetupError
from workbench.setup.host import Host, ThisHost


@dataclass(frozen=True)
class Check:
    """A program that says by its exit code whether the code is as it should be.

    Attributes:
        title: What it looks at.
        argv: The program, one of the virtual environment's, and its arguments.
        remedy: What to type when it fails.
    """

    title: str
    argv: Sequence[str]
    remedy: str


CHECKS = (
    Check("Format", ("ruff", "format", "--check", "."), "type: .venv/bin/ruff format ."),
    Check("Lint", ("ruff", "check", "."), "type: .venv/bin/ruff check --fix .   and mend what is left"),
    Check("Types", ("pyright",), "mend what pyright names above"),
)


def check(phases: Phases, host: Host | None = None, checks: Sequence[Check] = CHECKS) -> None:
    """Run every check, and print what the failing ones said.

    Raises:
        SetupError: One check failed; its message holds the program's output.
        SeveralErrors: More than one failed.
    """
    host = host or ThisHost()
    root = Paths.of(host.environ).root
    programs = Path(sys.executable).parent

    def job(one: Check) -> Callable[[], None]:
        def run() -> None:
            with phases.phase(one.title):
                argv = [str(programs / one.argv[0]), *one.argv[1:]]
                # pyright finds the packages through the `python` on PATH.
                path = f"{programs}:{host.environ.get('PATH', '')}"
                done = host.run(argv, cwd=root, env={"PATH": path})
                if done.code != 0:
                    raise SetupError(f"{' '.join(one.argv)} failed:\n{done.output.strip()}", one.remedy)

        return run

    phases.concurrently(*[job(one) for one in checks])
