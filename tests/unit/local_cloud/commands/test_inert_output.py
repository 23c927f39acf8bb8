"""`./dev` shows what containers, packages and repositories say, and obeys none of it."""

import io

import pytest
from rich.console import Console

from mcpfleet_local_cloud.commands import stack
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
    monkeypatch.setattr(stack, "place_of", lambda environ: None)
    monkeypatch.setattr(stack, "service_of", lambda place, name: {"project": "p", "region": "r", "service": "s"})
    monkeypatch.setattr(stack, "_log_lines", lambda cloud, service, follow: [FORGED, "second"])
    stack.logs(phases, "echo")
    first, second = lines_of(made)
    assert first.startswith("hello\\u001b[2K\\r✓ Verify")
    assert "[green]" in first
    assert ":x:" in first
    assert second == "second"


def test_notes_and_failures_of_a_phase_begin_no_line_of_their_own(screen):
    made, phases = screen

    def build():
        with phases.phase("Build") as step:
            step.note(FORGED)
            step.say(FORGED)
            raise SetupError(f"It said:\n{FORGED}", FORGED)

    with pytest.raises(SetupError):
        build()
    assert [line[:4] for line in lines_of(made)] == ["  he", "✗ Bu", "erro", "  | ", "next"]


def test_a_state_with_a_name_that_is_an_option_is_refused_before_it_is_printed(screen):
    made, phases = screen
    with pytest.raises(SetupError, match="The stack cannot be used: servers: '--x") as raised:
        stack.print_services(phases, {"--x\x1b": {}}, {})
    assert "./dev down --force" in raised.value.next_step
    assert made.getvalue() == ""
