"""Commands against a hostile token endpoint: they end, say why in one line, and stay small."""

import json

import pytest

from tests.integration.hostile import ATTACKS, MEMORY, Hostile, login, meet_all, refusing, run

pytestmark = pytest.mark.integration


@pytest.fixture
def gate():
    """A server that wants a token."""
    server = Hostile(refusing)
    yield server
    server.close()


@pytest.fixture(scope="module")
def verified():
    """The results of `verify` with a token from each hostile endpoint."""
    gate = Hostile(refusing)
    yield meet_all(
        lambda endpoint, folder: run("verify", f"--url={gate.url}", f"--credentials={login(folder, endpoint.url)}")
    )
    gate.close()


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_failure_to_get_a_token_is_one_line_with_the_reason(verified, attack):
    text, code, peak = verified[attack].result()
    assert code == 1
    (line,) = text.strip().splitlines()
    assert line.startswith("Error: ")
    assert len(line) < 1000
    assert "\x1b" not in line
    assert peak < MEMORY


@pytest.mark.parametrize("command", ["doctor", "proxy", "connect"])
def test_each_command_reports_a_failure_to_get_a_token(gate, tmp_path, command):
    endpoint = Hostile(ATTACKS["a body without end"])
    where = [gate.url] if command == "doctor" else [f"--url={gate.url}"]
    call = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}) + "\n"
    text, code, peak = run(command, *where, f"--credentials={login(tmp_path, endpoint.url)}", stdin=call)
    assert code == (0 if command == "connect" else 1)
    assert "MCPFLEET_MAX_ANSWER" in text
    assert "Traceback" not in text
    assert peak < MEMORY
    endpoint.close()
