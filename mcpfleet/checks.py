"""What `verify` and `doctor` say, to people and to pipelines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console

from mcpfleet.errors import UsageError
from mcpfleet.shown import marked_up

if TYPE_CHECKING:
    from mcpfleet.doctor import Line
    from mcpfleet.verify import Report

_MARKS = {"ok": "[green]✓[/]", "warn": "[yellow]![/]", "bad": "[red]✗[/]", "skip": "[dim]-[/]"}


def arguments_of(text: str | None) -> Mapping[str, Any]:
    """The arguments of a tool, as they are given on the command line.

    Raises:
        UsageError: It is not a JSON object.
    """
    try:
        found: object = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--arguments is not JSON: {error}. Give an object such as '{{\"a\": 1}}'.") from None
    if not isinstance(found, dict):
        raise UsageError("--arguments is not a JSON object; give one such as '{\"a\": 1}'.")
    return cast("Mapping[str, Any]", found)


def print_reports(out: Console, reports: Sequence[Report], identities: Mapping[str, str]) -> None:
    """Print what was seen, server by server."""
    for report in reports:
        out.print(f"[bold]{marked_up(report.server)}[/]  as {marked_up(identities[report.server])}")
        for mark, lines in (("ok", report.passed), ("warn", report.warned), ("bad", report.failed)):
            for line in lines:
                out.print(f"  {_MARKS[mark]} {marked_up(line)}")
        if report.first_ms is not None and report.median_ms is not None:
            out.print(f"    first answer after {report.first_ms:.0f} ms, then {report.median_ms:.1f} ms (median)")
    total, failed = sum(len(one.passed) + len(one.failed) for one in reports), sum(len(one.failed) for one in reports)
    out.print(f"{total - failed} of {total} checks passed")


def reports_json(reports: Sequence[Report], identities: Mapping[str, str]) -> str:
    """The same for a pipeline: `ok`, and `servers` by name."""
    servers: dict[str, Any] = {}
    for report in reports:
        found = asdict(report)
        name = found.pop("server")
        servers[name] = {"identity": identities[name], **found}
    return json.dumps({"ok": all(not one.failed for one in reports), "servers": servers}, indent=2)


def print_lines(out: Console, title: str, lines: Sequence[Line]) -> None:
    """Print a diagnosis."""
    out.print(f"[bold]{marked_up(title)}[/]")
    for line in lines:
        out.print(f"  {_MARKS[line.kind]} {marked_up(line.text)}")
        if line.step:
            out.print(f"      {marked_up(line.step)}")
