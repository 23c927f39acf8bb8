"""`./dev` shows what containers, packages and repositories say, and obeys none of it."""

import io
import sys

import pytest
from rich.console import Console

from mcpfleet_local_cloud.commands import cli, stack
from mcpfleet_local_cloud.commands.phases import Phases, SetupError

FORGED = "hello\x1b[2K\r✓ Verify   all checks passed\u202e [green]✓[/] :x:\u2028✓"


@pytest.fixture
def screen():
    made = io.StringIO()
    phases = Phases(console=Console(file=made, highlight=False, emoji=False, width=200))
    phases.out = phases.console
    return made, phases


def lines_of(made):
    lines = made.getvalue().removesuffix("\n").split("\n")
    assert all(line.isprintable() for line in lines)
    return lines


def test_a_containers_log_lines_are_shown_inert(screen, monkeypatch):
    made, phases = screen
    monkeypatch.setattr(stack, "find_cloud_folder", lambda environ: None)
    monkeypatch.setattr(stack, "find_service", lambda folder, name: {"project": "p", "region": "r", "service": "s"})
    monkeypatch.setattr(stack, "_log_lines", lambda cloud, service, follow: [FORGED, "second"])
    stack.logs(phases, "echo")
    first, second = lines_of(made)
    assert first.startswith("hello\\u001b[2K\\r✓ Verify")
    assert "[green]" in first
    assert ":x:" in first
    assert second == "second"


def test_notes_and_failures_of_a_phase_cannot_add_lines(screen):
    made, phases = screen

    def build():
        with phases.phase("Build") as step:
            step.note(FORGED)
            step.print_lines(FORGED)
            raise SetupError(f"It said:\n{FORGED}", FORGED)

    with pytest.raises(SetupError):
        build()
    assert [line[:4] for line in lines_of(made)] == ["  he", "✗ Bu", "erro", "  | ", "next"]


def test_a_server_name_that_looks_like_an_option_is_refused_before_printing(screen):
    made, phases = screen
    with pytest.raises(SetupError, match="The stack cannot be used: servers: '--x") as raised:
        stack.print_services(phases, {"--x\x1b": {}}, {})
    assert "./dev down --force" in raised.value.next_step
    assert made.getvalue() == ""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_console_without_utf_8_gets_words_instead_of_symbols(monkeypatch, encoding):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    monkeypatch.setattr(sys, "argv", ["mcpfleet-local-cloud", "status"])

    def status(phases):
        phases.out.print("✓ echo: Grüße, 你好")
        phases.record("Verify", 1.0, "all checks passed")

    monkeypatch.setattr(stack, "status", status)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    out, err = ((item.flush(), item.buffer.getvalue().decode(encoding))[1] for item in streams)
    assert out.startswith("ok echo: Gr")
    assert "\\u4f60" in out
    assert err.startswith("ok Verify")
