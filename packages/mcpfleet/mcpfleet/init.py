"""`mcpfleet init`: asks little, writes the files of a project, and says what each is for.

The first server is looked at by pulumi-mcpfleet. Where that is not installed, as under `uvx mcpfleet`, the command runs
once more in an environment of uv's that has it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

from rich.console import Console

from mcpfleet.errors import McpfleetError, UsageError
from mcpfleet.projects import NotInstalledError, Projects, ServerPlan, find_projects
from mcpfleet.scaffold import (
    FLEET_FOLDER,
    HELLO,
    NewProject,
    Written,
    check_answers,
    check_folder,
    find_server_files,
    flow,
    render,
    write,
)
from mcpfleet.system import join_command, run_program
from mcpfleet.terminal import markup_safe

_AGAIN: Final = "MCPFLEET_INIT_AGAIN"
"""Set where the command already runs once more; it does so once only."""
_LOCK_SECONDS: Final = 300.0
_SHOWN_LINES: Final = 12

Ask = Callable[[str, str], str]
"""Asks the user: a question, and the answer that is taken if none is given."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the options say; None where the user has to be asked, or the default is taken.

    Attributes:
        folder: The folder of the project.
        name: The project's name.
        server: The first server: `hello`, or one for `Projects.plan_server`.
        server_name: That server's name in the fleet.
        invokers: Who may call it on Google Cloud.
        region: The region of the servers.
        locks: Whether uv.lock is made.
    """

    folder: Path
    name: str | None = None
    server: str | None = None
    server_name: str | None = None
    invokers: Sequence[str] | None = None
    region: str | None = None
    locks: bool = True

    @property
    def arguments(self) -> list[str]:
        """The same as arguments of `mcpfleet init`."""
        given = {
            "--name": self.name,
            "--server": self.server,
            "--server-name": self.server_name,
            "--region": self.region,
        }
        words = [word for option, value in given.items() if value is not None for word in (option, value)]
        words += [word for member in self.invokers or () for word in ("--invoker", member)]
        return [*words, *([] if self.locks else ["--no-lock"]), "--yes", "--", str(self.folder)]


def init(out: Console, answers: Answers, ask: Ask | None, environ: Mapping[str, str]) -> None:
    """Write a project's files, or those of them that are not there.

    Args:
        out: Where is printed what was written.
        answers: What the options say.
        ask: Asks for the rest; None: the defaults are taken.
        environ: The environment.

    Raises:
        McpfleetError: Nothing was written, and why.
        SystemExit: The command has run once more, with that exit code.
    """
    if names := find_server_files(answers.folder):
        answers = _beside_server(answers)
        out.print(
            f"{markup_safe(str(answers.folder))} becomes the project, because {' and '.join(names)} beside it"
            f" {'belong' if len(names) > 1 else 'belongs'} to your server."
        )
    root = answers.folder
    if answers.server == "":  # as of a variable of the shell that is not set
        raise UsageError("--server is empty. Name a server, or leave the option out for hello. Nothing was written.")
    check_folder(root)
    there = (root / "Pulumi.yaml").is_file()
    if ask is not None and not there:
        answers = _ask_for_the_rest(answers, ask)
    name = answers.name or root.resolve().name
    project = NewProject(
        root=root, name=name, invokers=answers.invokers or (), region=answers.region or NewProject.region
    )
    check_answers(project)
    server = answers.server or HELLO
    projects = find_projects()
    plan: ServerPlan | None = None
    if there or server != HELLO:
        if projects is None:
            raise SystemExit(_run_again(answers, environ))
        project, plan = _look(projects, project, server, answers.server_name, there=there)
    uv = environ.get("UV") or shutil.which("uv")
    files = render(project, is_there=there and answers.server is None)
    written = write(root, files, lambda folder: _lock(uv, folder) if uv and answers.locks else [])
    _print_files(out, root, written)
    if answers.locks and not uv:
        out.print("uv.lock was not made: uv is not installed here. Install it (https://docs.astral.sh/uv/): uv lock.")
    if plan is not None:
        _print_plan(out, plan, [one.name for one in written if one.change == "kept"])
    if projects is not None:
        _print_mistakes(out, projects, root)
    _print_next_steps(out, root)


def _beside_server(answers: Answers) -> Answers:
    """Put the project into a folder of its own in the server's repository, and that server into the project."""
    root, project = answers.folder, answers.folder / FLEET_FOLDER
    is_new = not (project / "Pulumi.yaml").is_file()
    return replace(
        answers,
        folder=project,
        name=answers.name or root.resolve().name,
        server=answers.server or (str(root) if is_new else None),
    )


def _ask_for_the_rest(answers: Answers, ask: Ask) -> Answers:
    if answers.name is None:
        answers = replace(answers, name=ask("Name of the project", answers.folder.resolve().name))
    if answers.server is None:
        question = "First server: hello (one of your own), a folder, a git URL, npm:NAME@V, pypi:NAME==V or an image"
        answers = replace(answers, server=ask(question, HELLO))
    if answers.invokers is None:
        question = "Who may call it on Google Cloud, such as group:mcp-users@example.com (empty: nobody yet)"
        answers = replace(answers, invokers=ask(question, "").replace(",", " ").split())
    if answers.region is None:
        answers = replace(answers, region=ask("Region", NewProject.region))
    return answers


def _look(
    projects: Projects, project: NewProject, server: str, server_name: str | None, *, there: bool
) -> tuple[NewProject, ServerPlan | None]:
    """Have pulumi-mcpfleet look at what is there, and at the first server."""
    try:
        if there:
            project = replace(project, name=projects.check_project(project.root) or project.name)
        if server == HELLO:
            return project, None
        plan = projects.plan_server(server, project.root, server_name, Path.cwd())
    except ValueError as error:
        raise UsageError(f"{error}\nNothing was written.") from None
    given = replace(project, server=plan.name, source=plan.source, is_generated=plan.is_generated)
    return given, plan


def _run_again(answers: Answers, environ: Mapping[str, str]) -> int:
    """Run the command in an environment that has pulumi-mcpfleet; its exit code.

    Raises:
        NotInstalledError: There is no uv, or it was run again already.
    """
    uv = environ.get("UV") or shutil.which("uv")
    here = version("mcpfleet")
    needed = ["--from", f"mcpfleet=={here}", "--with", f"pulumi-mcpfleet=={here}"]
    words = ["tool", "run", "--quiet", *needed, "mcpfleet", "init", *answers.arguments]
    if uv is None or environ.get(_AGAIN):
        raise NotInstalledError(
            "To look at the server, mcpfleet needs pulumi-mcpfleet, which is not installed here. Nothing was written."
            f" Type: {join_command(['uvx', *needed, 'mcpfleet', 'init', *answers.arguments])}"
        )
    return subprocess.run([uv, *words], env={**environ, _AGAIN: "1"}, check=False).returncode


def _lock(uv: str, folder: Path) -> list[str]:
    """Have uv lock the packages of each pyproject.toml that is written; returns the paths of the locks.

    Raises:
        McpfleetError: uv can't.
    """
    projects = sorted(file.parent for file in folder.rglob("pyproject.toml"))

    def lock(project: Path) -> None:
        try:
            done = run_program([uv, "lock", "--quiet", "--project", str(project)], _LOCK_SECONDS, project)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _no_lock(str(error)) from None
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise _no_lock("\n".join(lines[-_SHOWN_LINES:]))

    with ThreadPoolExecutor() as pool:
        list(pool.map(lock, projects))
    return [(project / "uv.lock").relative_to(folder).as_posix() for project in projects]


def _no_lock(reason: str) -> McpfleetError:
    return McpfleetError(
        f"uv can't lock the project's packages. Nothing was written.\n{reason}\n"
        "Check the network, and the settings for proxies and indexes (HTTPS_PROXY, UV_DEFAULT_INDEX). Or give --no-lock"
        " to write the files without uv.lock."
    )


def _print_files(out: Console, root: Path, written: Sequence[Written]) -> None:
    out.print(f"[bold]{markup_safe(str(root))}[/]")
    if all(file.change == "kept" for file in written):
        out.print("  Nothing was changed: all files of a project are there.")
        return
    width = max(len(file.name) for file in written)
    for file in written:
        note = {"written": "", "kept": "  (was there; not changed)", "changed": "  (was there; lines added)"}[
            file.change
        ]
        out.print(f"  {markup_safe(file.name.ljust(width))}  [dim]{markup_safe(file.purpose)}{note}[/]")


def _print_plan(out: Console, plan: ServerPlan, kept: Sequence[str]) -> None:
    out.print(f"\nServer [bold]{markup_safe(plan.name)}[/]: {markup_safe(flow(plan.source))}")
    for decision in plan.decisions:
        out.print(f"  {markup_safe(decision)}")
    if fleets := [name for name in kept if name.startswith("Pulumi.") and name != "Pulumi.yaml"]:
        out.print(f"  It is not in {markup_safe(', '.join(fleets))}, which were there: add it under servers.")


def _print_mistakes(out: Console, projects: Projects, root: Path) -> None:
    """Print what is left to do before a stack can be deployed, such as locking a package for profile prod."""
    for file in projects.check_files(root):
        for mistake in file.mistakes:
            out.print(f"[yellow]![/] {markup_safe(file.name)}: {markup_safe(mistake)}")


def _print_next_steps(out: Console, root: Path) -> None:
    out.print("\nNext:")
    if root.resolve() != Path.cwd():
        out.print(f"  {markup_safe(join_command(['cd', str(root)]))}")
    out.print("  uv run mcpfleet local up   # deploys the fleet on this machine, and calls its servers; needs Docker")


def is_interactive() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty() and sys.stdout.isatty()
