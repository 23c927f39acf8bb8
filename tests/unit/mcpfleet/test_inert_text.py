"""Untrusted text is inert: no escape sequence reaches a terminal, and no line looks like output of mcpfleet."""

import io
import json
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from rich.console import Console

from mcpfleet import cli
from mcpfleet.doctor import CheckResult
from mcpfleet.errors import McpfleetError
from mcpfleet.inert import InertFormatter, error_line, inert, inert_lines
from mcpfleet.reports import print_lines, print_reports, reports_json
from mcpfleet.terminal import console, markup_safe
from mcpfleet.verify import Report

HOSTILE = [
    "ok\n✓ all checks passed",
    "ok\r✓ all checks passed",
    "\x1b[2K\x1b[1A✓ all checks passed",
    "\x9b2K",
    "\x1b]0;title\x07",
    "\x1b]8;;https://evil.dev\x1b\\click\x1b]8;;\x1b\\",
    "\u202eevil\u202c \u2066x\u2069",
    "z\u200bero\u200d\ufeff",
    "x\u2028✓ all checks passed\u2029\x85\x0b\x0c",
    "[bold]x[/bold] [link=https://evil.dev]y[/link] [/]",
    ":warning: :x:",
    "\ud83d half",
    "\U000e0041 tag \u3164 \ufe0f",
]
texts = st.sampled_from(HOSTILE) | st.text(st.characters() | st.sampled_from("\x1b\x9b\n\r[]\\:"), max_size=60)


@pytest.fixture
def screen():
    created = io.StringIO()
    return created, Console(file=created, soft_wrap=True, highlight=False, emoji=False, force_terminal=False)


@given(texts)
def test_an_inert_text_is_one_line_without_terminal_commands(text):
    credentials = inert(text)
    assert len(credentials.splitlines()) <= 1
    assert credentials.isprintable()
    assert inert(credentials) == credentials
    assert (
        json.loads(json.dumps({"x": 1}).replace("1", f'"{credentials}"'))
        if '"' not in credentials and "\\" not in text
        else True
    )


@given(texts)
def test_each_continuation_line_is_marked(text):
    first, *rest = inert_lines(text).split("\n")
    assert all(line.startswith("  | ") for line in rest)
    assert all(line.isprintable() for line in (first, *rest))


def test_ordinary_text_is_unchanged():
    for text in ("Grüße, 世界 ✓ naïve 😀 עברית", "C:\\new\\table", "a 'quoted' \"word\" [x]"):
        assert inert(text) == text


@given(texts, texts)
def test_a_report_has_the_same_lines_for_any_server_text(server_text, text):
    created = io.StringIO()
    out = Console(file=created, soft_wrap=True, highlight=False, emoji=False)
    report = Report("echo", ["it answers"], [f"its tool said: {server_text}"], [text])
    print_reports(out, [report], {"echo": text})
    lines = created.getvalue().split("\n")
    assert [line[:3] for line in lines] == ["ech", "  ✓", "  !", "  ✗", "1 o", ""]
    assert lines[-2] == "1 of 2 checks passed"
    assert all(line.isprintable() for line in lines)
    print_lines(out, text, [CheckResult("bad", text, server_text)])
    assert len(created.getvalue().split("\n")) == len(lines) + (3 if server_text else 2)
    assert all(line.isprintable() for line in created.getvalue().split("\n"))


@given(texts)
def test_json_output_is_unchanged(text):
    created = io.StringIO()
    out = Console(file=created, soft_wrap=True, highlight=False, emoji=False)
    out.print(reports_json([Report("echo", [], [text])], {"echo": text}), markup=False)
    assert json.loads(created.getvalue())["servers"]["echo"]["failed"] == [text]
    assert all(line.isprintable() for line in created.getvalue().split("\n"))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_command_line_error_is_inert(text, monkeypatch, capsys):
    def fails():
        raise McpfleetError(f"the server said: {text}")

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(SystemExit):
        cli.main()
    first, *rest = capsys.readouterr().err.removesuffix("\n").split("\n")
    assert first.startswith("Error: the server said: ")
    assert all(line.startswith("  | ") and line.isprintable() for line in rest)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_log_line_is_one_line_and_its_traceback_is_marked(text):
    try:
        raise ValueError(text)
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "it said %s", (text,), sys.exc_info())
    first, *rest = InertFormatter("%(asctime)s %(message)s").format(record).split("\n")
    assert "it said" in first
    assert rest
    assert all(line.startswith("  | ") and line.isprintable() for line in rest)
    assert first.isprintable()


def test_consoles_interpret_no_text_as_emoji_or_style(capsys):
    console().print(markup_safe("[red]x[/] :warning:"))
    assert capsys.readouterr().out == "[red]x[/] :warning:\n"


class Answer(BaseModel):
    tools: list[int]


@given(st.text(), st.integers(10, 100))
def test_an_error_message_is_one_inert_line_of_limited_length(text, at_most):
    with pytest.raises(ValidationError) as wrong:
        Answer.model_validate({"tools": [text, [], {text: text}]}, strict=True)
    output = error_line(wrong.value, 200)
    assert output.startswith("a response is not valid MCP: tools.0: ")
    assert output.endswith(", and 2 more")
    assert error_line(ValueError(text), at_most).isprintable()
    assert len(error_line(ValueError(f"a{text}"), at_most)) <= 12 * (at_most + 3)
