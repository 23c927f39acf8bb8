"""`mcpfleet local`: the commands of the local cloud in a user's project, under the name that the user typed."""

import importlib

import pytest

from mcpfleet import cli as command
from mcpfleet_local_cloud.commands import cli, paths


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs the command as a shell would; gives (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    monkeypatch.setenv("MCPFLEET_PROGRAM", "")  # put back behind the test

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["mcpfleet", *arguments])
        with pytest.raises(SystemExit) as ended:
            command.main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return run


def test_mcpfleet_local_has_the_local_clouds_commands(run):
    code, out, _ = run("local", "--help")
    assert code == 0
    assert "Usage: mcpfleet local [OPTIONS] COMMAND" in out
    assert [name for name in ("up", "down", "status", "logs", "proxy", "verify") if f"│ {name} " not in out] == []


def test_the_options_and_the_help_of_a_command_are_passed_on(run):
    code, out, _ = run("local", "up", "--help")
    assert code == 0
    assert "Usage: mcpfleet local up" in out
    assert "--stack" in out


def test_without_a_command_help_is_printed(run):
    assert "Usage: mcpfleet local" in run("local")[1]


def test_an_unknown_command_is_a_usage_error(run):
    code, _, err = run("local", "upp")
    assert code == 2
    assert "there is no command 'upp'" in err


@pytest.mark.parametrize(
    ("environ", "program"),
    [({}, "mcpfleet local"), ({"UV_RUN_RECURSION_DEPTH": "1"}, "uv run mcpfleet local")],
)
def test_messages_use_the_command_that_the_user_typed(environ, program, monkeypatch):
    assert cli.typed_program(environ) == program
    monkeypatch.setenv(paths.PROGRAM_VARIABLE, program)
    assert program == importlib.reload(paths).PROGRAM
    monkeypatch.undo()
    importlib.reload(paths)
