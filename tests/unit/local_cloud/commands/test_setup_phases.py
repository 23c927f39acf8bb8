import io
import threading

import pytest
from rich.console import Console

from mcpfleet_local_cloud.commands.phases import PLAIN_PROGRESS_SECONDS, PhaseResult, Phases, SetupError, SeveralErrors


def lines(phases):
    return phases.console.file.getvalue().splitlines()


@pytest.fixture
def terminal(clock):
    console = Console(file=io.StringIO(), force_terminal=True, width=100, highlight=False, color_system="standard")
    return Phases(console, clock)


def test_a_phase_is_one_line_with_its_seconds_and_result(plain, clock):
    with plain.phase("Pulumi CLI") as step:
        clock.now += 3.26
        step.note("3.256.0, in cache")
    assert [line.split() for line in lines(plain)] == [["✓", "Pulumi", "CLI", "3.3", "s", "3.256.0,", "in", "cache"]]
    assert plain.results == [PhaseResult("Pulumi CLI", 3.26, "3.256.0, in cache")]


def test_without_a_terminal_there_are_no_control_characters(plain):
    with plain.phase("one") as step:
        step.progress("half")
    assert "\x1b" not in "".join(lines(plain))
    assert "\r" not in "".join(lines(plain))


def test_on_a_terminal_the_running_phase_is_shown_and_its_line_stays(terminal, clock):
    with terminal.phase("Base image") as step:
        step.progress("pulling")
        clock.now += 2
    printed = terminal.console.file.getvalue()
    assert "pulling" in printed
    assert "\x1b[" in printed
    assert "✓" in printed.splitlines()[-1]
    assert "2.0 s" in printed.splitlines()[-1]


def test_the_cursor_is_restored_after_the_last_phase_even_if_it_fails(terminal):
    with pytest.raises(SetupError), terminal.phase("Docker"):
        raise SetupError("no Docker", "install it")
    printed = terminal.console.file.getvalue()
    assert printed.rindex("\x1b[?25h") > printed.rindex("\x1b[?25l")


def test_nested_phases_are_printed_below_their_parent_in_order(plain, clock):
    with plain.phase("Deploy") as step:
        for name in ("accounts", "services"):
            with step.phase(name):
                clock.now += 1
    assert [line.split()[1:3] for line in lines(plain)] == [["Deploy", "2.0"], ["accounts", "1.0"], ["services", "1.0"]]
    assert [child.title for child in plain.results[0].children] == ["accounts", "services"]


def test_a_failing_phase_prints_cause_and_next_step_at_once(plain):
    with pytest.raises(SetupError), plain.phase("Docker"):
        raise SetupError("Docker is missing [here].", "install it.")
    assert lines(plain)[0].split()[:2] == ["✗", "Docker"]
    assert lines(plain)[1:] == ["error: Docker is missing [here].", "next:  install it."]
    assert not plain.results[0].is_ok


def test_a_failure_is_printed_once(plain):
    error = SetupError("no Docker", "install it")
    plain.show_error(error)
    plain.show_error(error)
    assert lines(plain) == ["error: no Docker", "next:  install it"]


def test_a_failure_in_a_nested_phase_marks_both_and_is_printed_once(plain):
    with pytest.raises(SetupError), plain.phase("Deploy") as step, step.phase("services"):
        raise SetupError("port taken", "free it")
    assert [result.is_ok for result in (plain.results[0], *plain.results[0].children)] == [False, False]
    assert "\n".join(lines(plain)).count("port taken") == 1


def test_a_long_message_is_never_cut_or_wrapped(plain):
    message = "x" * 300
    plain.show_error(SetupError(message, "go on"))
    assert lines(plain)[0] == f"error: {message}"


def test_without_a_terminal_a_long_phase_prints_its_progress_at_intervals(plain, clock):
    with plain.phase("Pulumi CLI") as step:
        for second in range(40):
            clock.now = float(second)
            step.progress(f"package {second}")
        said = lines(plain)
    assert said == [f"  … Pulumi CLI: package {second}" for second in (15, 30)]
    assert PLAIN_PROGRESS_SECONDS == 15


def test_a_phase_that_was_measured_elsewhere_is_shown_with_the_others(plain):
    plain.record("Python environment", None, "in step")
    assert lines(plain)[0].split() == ["✓", "Python", "environment", "in", "step"]


def test_parallel_jobs_return_their_results_in_order(plain):
    both = threading.Barrier(2, timeout=5)

    def job(result):
        def run():
            both.wait()  # passes only when the other job runs too
            return result

        return run

    assert plain.run_concurrently(job(1), job("two")) == (1, "two")


def test_every_failure_is_reported_and_not_only_the_first(plain):
    def job(name):
        def run():
            with plain.phase(name):
                raise SetupError(f"{name} is missing", f"install {name}")

        return run

    with pytest.raises(SeveralErrors) as failure:
        plain.run_concurrently(job("Docker"), job("Pulumi"))
    assert [error.message for error in failure.value.errors] == ["Docker is missing", "Pulumi is missing"]
    assert {"next:  install Docker", "next:  install Pulumi"} <= set(lines(plain))


def test_a_single_failure_is_raised_itself_after_the_other_job_ends(plain):
    ended = []

    def fails():
        raise SetupError("no Docker", "install it")

    with pytest.raises(SetupError, match="no Docker"):
        plain.run_concurrently(fails, lambda: ended.append(True))
    assert ended == [True]


def test_an_unexpected_exception_is_raised_in_spite_of_an_expected_failure(plain):
    def fails():
        raise SetupError("no Docker", "install it")

    def buggy():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        plain.run_concurrently(fails, buggy)


def test_failures_of_nested_parallel_runs_are_all_kept(plain):
    def fails(name):
        def run():
            raise SetupError(name, "")

        return run

    with pytest.raises(SeveralErrors) as failure:
        plain.run_concurrently(lambda: plain.run_concurrently(fails("a"), fails("b")), fails("c"))
    assert [error.message for error in failure.value.errors] == ["a", "b", "c"]
