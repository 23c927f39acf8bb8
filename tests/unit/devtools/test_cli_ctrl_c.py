"""What Ctrl-C says: nothing about kept work where a command only looks."""

import pytest

from devtools import cli
from mcpfleet_local_cloud.commands.cli import INTERRUPTED


@pytest.mark.parametrize("command", [["logs", "reference", "-f"], ["proxy", "reference"]])
def test_ctrl_c_on_a_read_only_command_prints_nothing(monkeypatch, capsys, command):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"mcpfleet_local_cloud.commands.stack.{command[0]}", interrupted)
    monkeypatch.setattr("sys.argv", ["./dev", *command])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == INTERRUPTED
    assert capsys.readouterr().err.strip() == ""
