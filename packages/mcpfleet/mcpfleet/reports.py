"""The reports of `mcpfleet verify` and `doctor`, as text and as JSON, and the options that they share."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from rich.console import Console

from mcpfleet.bounds import parse_json_object
from mcpfleet.errors import UsageError
from mcpfleet.inert import CONTINUATION, inert
from mcpfleet.system import decode_text
from mcpfleet.terminal import markup_safe

if TYPE_CHECKING:
    from mcpfleet.doctor import CheckResult
    from mcpfleet.stack import DeployedClient, DeployedServer
    from mcpfleet.verify import Report

_MARKS = {"ok": "[green]✓[/]", "warn": "[yellow]![/]", "bad": "[red]✗[/]", "skip": "[dim]-[/]"}
MAX_ARGUMENTS_BYTES: Final = 16 * 2**20
"""The most bytes of arguments that are read from a file."""
_SHOWN_CHARACTERS: Final = 4000
_SHOWN_LINES: Final = 40
"""How much of a tool's answer a report shows; `mcpfleet call` and `--json` have all of it."""


def read_arguments(text: str | None, standard_input: IO[bytes] | None = None) -> Mapping[str, Any]:
    """Parse the value of `--arguments`: JSON, `@FILE`, or `-` for standard input.

    Args:
        text: The value; None for no arguments.
        standard_input: The stream that `-` stands for.

    Raises:
        UsageError: It is not a JSON object, or the file cannot be read.
    """
    if text is None or not (text == "-" or text.startswith("@")):
        return parse_arguments(text)
    origin = "standard input" if text == "-" else text[1:]
    try:
        if text != "-":
            with Path(text[1:]).open("rb") as file:
                content = file.read(MAX_ARGUMENTS_BYTES + 1)
        elif standard_input is not None:
            content = standard_input.read(MAX_ARGUMENTS_BYTES + 1)
        else:
            raise UsageError("There is no standard input to read the arguments from.")
        if len(content) > MAX_ARGUMENTS_BYTES:
            raise UsageError(f"--arguments: {origin} is larger than {MAX_ARGUMENTS_BYTES >> 20} MiB.")
        return parse_json_object(decode_text(content))
    except OSError as error:
        raise UsageError(f"--arguments: {origin} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise UsageError(f"--arguments: {origin} is not a JSON object: {inert(str(error))}.") from None


def parse_arguments(text: str | None) -> Mapping[str, Any]:
    """Parse the value of `--arguments`.

    Raises:
        UsageError: It is not a JSON object.
    """
    try:
        return parse_json_object(text or "{}")
    except ValueError as error:
        raise UsageError(f"--arguments is not a JSON object: {error}. Give one such as '{{\"a\": 1}}'.") from None


def parse_call(
    call: str | None, arguments: str | None, names: Sequence[str]
) -> tuple[str, tuple[str, Mapping[str, Any]]] | None:
    """Parse `--call`: `SERVER/TOOL`, or `TOOL` if one server is verified.

    Args:
        call: The value of `--call`.
        arguments: The value of `--arguments`.
        names: The servers that are verified.

    Returns:
        The server, and the tool with its arguments; None without `--call`.

    Raises:
        UsageError: The server is not clear, or the arguments are not a JSON object.
    """
    if call is None:
        if arguments:
            raise UsageError("--arguments needs a tool: name it with --call.")
        return None
    parsed = parse_arguments(arguments)
    server, slash, tool = call.partition("/")
    if slash and server in names:
        return server, (tool, parsed)
    if len(names) != 1:
        raise UsageError(f"--call {call} names no server. Use --call SERVER/TOOL; the servers are: {', '.join(names)}.")
    return names[0], (call, parsed)


def read_bearer_token(file: Path | None, services: Sequence[DeployedServer | DeployedClient]) -> str:
    """Read a server's own token from the file of `--bearer-file`; '' if no file is given.

    Raises:
        UsageError: The file can't be read, or more than one server is verified: the token must not reach another one.
    """
    if file is None:
        return ""
    if len(services) != 1:
        raise UsageError("--bearer-file has the token of one server; name that server.")
    if services[0].access == "iap":
        raise UsageError("--bearer-file: behind IAP, Google uses the Authorization header, so you can't send another.")
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--bearer-file {file} cannot be read: {inert(str(error))}.") from None
    if not re.fullmatch(r"[!-~]{1,16384}", token):
        raise UsageError(f"--bearer-file {file} has no token. Write one word of printable ASCII into it.")
    return token


def print_reports(out: Console, reports: Sequence[Report], identities: Mapping[str, str]) -> None:
    """Print the reports, server by server."""
    for report in reports:
        out.print(f"[bold]{markup_safe(report.server)}[/]  as {markup_safe(identities[report.server])}")
        sections = (("ok", report.passed), ("skip", report.unasked), ("warn", report.warned), ("bad", report.failed))
        for mark, lines in sections:
            for line in lines:
                out.print(f"  {_MARKS[mark]} {markup_safe(line)}")
        _print_calls(out, report)
        if report.first_ms is not None and report.median_ms is not None:
            out.print(f"    first answer after {report.first_ms:.0f} ms, then {report.median_ms:.1f} ms (median)")
    passed, failed = sum(len(report.passed) for report in reports), sum(len(report.failed) for report in reports)
    out.print(f"{passed} of {passed + failed} checks passed")


def _print_calls(out: Console, report: Report) -> None:
    """Print what each named tool answered; an answer that is the same in both revisions is printed once."""
    answers = {str(call["tool"]): str(call["text"]) for call in report.calls if call["outcome"] == "answered"}
    for tool, text in answers.items():
        lines = text[:_SHOWN_CHARACTERS].splitlines() or ["(no text)"]
        shown = [*lines[:_SHOWN_LINES], *(["…"] if len(text) > _SHOWN_CHARACTERS or len(lines) > _SHOWN_LINES else [])]
        out.print(f"    {markup_safe(tool)} answered:")
        for line in shown:
            out.print(f"      {CONTINUATION.strip()} {markup_safe(line)}")


def reports_json(reports: Sequence[Report], identities: Mapping[str, str], clients: Container[str] = ()) -> str:
    """The reports as JSON, for a pipeline: `ok`, and `servers` and `clients` by name.

    Args:
        reports: The reports.
        identities: The identity that each was made with, by the name of the server or client.
        clients: The names that are clients.
    """
    sections: dict[str, dict[str, Any]] = {"servers": {}, "clients": {}}
    for report in reports:
        values = asdict(report)
        name = values.pop("server")
        sections["clients" if name in clients else "servers"][name] = {"identity": identities[name], **values}
    return json.dumps({"ok": not any(report.failed for report in reports), **sections}, indent=2)


def print_lines(out: Console, title: str, lines: Sequence[CheckResult]) -> None:
    """Print a diagnosis."""
    out.print(f"[bold]{markup_safe(title)}[/]")
    for line in lines:
        out.print(f"  {_MARKS[line.kind]} {markup_safe(line.text)}")
        if line.step:
            out.print(f"      {markup_safe(line.step)}")
