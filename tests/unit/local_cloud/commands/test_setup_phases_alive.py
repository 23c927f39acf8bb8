"""A phase that takes long shows that it lives, with a terminal and without one."""

import io

import pytest
from rich.console import Console

from mcpfleet_local_cloud.commands.phases import Phases


@pytest.fixture(name="terminal")
def _terminal(clock):
    console = Console(file=io.StringIO(), force_terminal=True, width=100, highlight=False, color_system="standard")
    return Phases(console, clock)


def lines(phases):
    return phases.console.file.getvalue().splitlines()


def test_a_phase_without_output_for_minutes_prints_a_heartbeat(plain, clock):
    with plain.phase("pulumi up") as step:
        step.progress("updating Service toolbox")
        for second in range(40):
            clock.now = float(second)
            plain.print_heartbeats()
        said = lines(plain)
    assert said == ["  … pulumi up: updating Service toolbox"] * 2


def test_a_phase_without_progress_text_prints_its_title(plain, clock):
    with plain.phase("Verify") as step:
        clock.now = 15.0
        step.progress("")
        said = lines(plain)
    assert said == ["  … Verify"]


def test_on_a_terminal_the_running_phase_shows_its_seconds(terminal, clock):
    with terminal.phase("pulumi up") as step:
        clock.now = 42.0
        step.progress("creating [it]")
    printed = terminal.console.file.getvalue()
    assert "42 s" in printed
    assert "creating [it]" in printed
