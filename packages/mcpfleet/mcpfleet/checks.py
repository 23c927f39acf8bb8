"""What `verify` and `doctor` say, to people and to pipelines."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from mcpfleet.bounds import json_object
from mcpfleet.errors import UsageError
from mcpfleet.inert import inert
from mcpfleet.terminal import marked_up

if TYPE_CHECKING:
    from mcpfleet.doctor import Line
    from mcpfleet.stack import DeployedClient, DeployedServer
    from mcpfleet.verify import Report

_MARKS = {"ok": "[green]✓[/]", "warn": "[yellow]![/]", "bad": "[red]✗[/]", "skip": "[dim]-[/]"}


def arguments_of(text: str | None) -> Mapping[str, Any]:
    """The arguments of a tool, as they are given on the command line.

    Raises:
        UsageError: It is not a JSON object.
    """
    try:
        return json_object(text or "{}")
    except ValueError as error:
        raise UsageError(f"--arguments is not a JSON object: {error}. Give one such as '{{\"a\": 1}}'.") from None


def named_call(
    call: str | None, arguments: str | None, names: Sequence[str]
) -> tuple[str, tuple[str, Mapping[str, Any]]] | None:
    """Which tool of which server is to be called: `SERVER/TOOL`, or `TOOL` where one server is verified.

    Args:
        call: What `--call` says.
        arguments: What `--arguments` says.
        names: The servers that are verified.

    Raises:
        UsageError: It cannot be told, or the arguments are none. Nothing is called that was not named.
    """
    if call is None:
        if arguments:
            raise UsageError("--arguments are for the tool of --call; name it.")
        return None
    given = arguments_of(arguments)
    server, slash, tool = call.partition("/")
    if slash and server in names:
        return server, (tool, given)
    if len(names) != 1:
        raise UsageError(f"--call {call}: of which server? Write --call SERVER/TOOL; there are: {', '.join(names)}.")
    return names[0], (call, given)


def own_token(file: Path | None, services: Sequence[DeployedServer | DeployedClient]) -> str:
    """The token that a server itself wants, from a file; '' where there is none.

    Raises:
        UsageError: It can't be read, or it is not clear whose it is: it goes to nobody else.
    """
    if file is None:
        return ""
    if len(services) != 1:
        raise UsageError("--bearer-file is one server's own token; name that server.")
    if services[0].access == "iap":
        raise UsageError("--bearer-file: behind IAP the header Authorization is Google's, so no other token gets in.")
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--bearer-file {file} cannot be read: {inert(str(error))}.") from None
    if not re.fullmatch(r"[!-~]{1,16384}", token):
        raise UsageError(f"--bearer-file {file} holds no token: one word of printable ASCII.")
    return token


def print_reports(out: Console, reports: Sequence[Report], identities: Mapping[str, str]) -> None:
    """Print what was seen, server by server."""
    for report in reports:
        out.print(f"[bold]{marked_up(report.server)}[/]  as {marked_up(identities[report.server])}")
        seen = (("ok", report.passed), ("skip", report.unasked), ("warn", report.warned), ("bad", report.failed))
        for mark, lines in seen:
            for line in lines:
                out.print(f"  {_MARKS[mark]} {marked_up(line)}")
        if report.first_ms is not None and report.median_ms is not None:
            out.print(f"    first answer after {report.first_ms:.0f} ms, then {report.median_ms:.1f} ms (median)")
    total, failed = sum(len(one.passed) + len(one.failed) for one in reports), sum(len(one.failed) for one in reports)
    out.print(f"{total - failed} of {total} checks passed")


def reports_json(reports: Sequence[Report], identities: Mapping[str, str], clients: Container[str] = ()) -> str:
    """The same for a pipeline: `ok`, `servers` by name, and `clients`, those of the reports that are of one."""
    sections: dict[str, dict[str, Any]] = {"servers": {}, "clients": {}}
    for report in reports:
        found = asdict(report)
        name = found.pop("server")
        sections["clients" if name in clients else "servers"][name] = {"identity": identities[name], **found}
    return json.dumps({"ok": all(not one.failed for one in reports), **sections}, indent=2)


def print_lines(out: Console, title: str, lines: Sequence[Line]) -> None:
    """Print a diagnosis."""
    out.print(f"[bold]{marked_up(title)}[/]")
    for line in lines:
        out.print(f"  {_MARKS[line.kind]} {marked_up(line.text)}")
        if line.step:
            out.print(f"      {marked_up(line.step)}")
