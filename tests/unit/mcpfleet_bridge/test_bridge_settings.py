"""The bridge's environment and logs."""

import io
import json
import logging
import re
from dataclasses import fields
from pathlib import Path

import pytest

from mcpfleet_bridge import settings
from mcpfleet_bridge.process import Process, describe_exit
from mcpfleet_bridge.settings import SettingsError, load_settings
from mcpfleet_server import logs
from pulumi_mcpfleet import environment

COMMAND = {"MCP_STDIO_COMMAND": '["mcp-server-time"]'}


def test_the_least_that_has_to_be_said_is_the_command():
    loaded = load_settings({**COMMAND, "MCP_STDIO_ARGS": '["--local-timezone", "UTC"]'})
    assert loaded.command == ("mcp-server-time", "--local-timezone", "UTC")
    assert (loaded.port, loaded.path, loaded.health_path) == (8080, "/mcp", "/health")
    assert loaded.stateless
    assert loaded.warm
    assert not loaded.sse


def test_without_a_command_the_error_shows_how_one_is_written():
    with pytest.raises(SettingsError, match=r'^MCP_STDIO_COMMAND: missing; .*\["mcp-server-time", "--verb'):
        load_settings({"PATH": "/bin"})


def test_every_mistake_is_named_in_a_line_of_its_own():
    wrong = {
        "MCP_STDIO_COMMAND": "mcp-server-time",
        "MCP_STDIO_ARGS": "[1]",
        "PORT": "0",
        "MCP_PATH": "mcp",
        "MCP_STATELESS": "maybe",
        "MCP_TRANSPORTS": "http,grpc",
        "MCP_ALLOWED_HOSTS": "*",
        "MCP_ALLOWED_ORIGINS": "null",
        "MCP_LOG_LEVEL": "LOUD",
        "MCP_STDIO_POOL": "many",
        "MCP_STDIO_CALL_SECONDS": "-1",
    }
    with pytest.raises(SettingsError) as error:
        load_settings(wrong)
    lines = str(error.value).splitlines()
    assert sorted(line.partition(":")[0] for line in lines) == sorted(wrong)
    assert all("(it is " in line for line in lines)


def test_the_two_paths_differ():
    with pytest.raises(SettingsError, match="MCP_PATH: /x is the path of the health check"):
        load_settings({**COMMAND, "MCP_PATH": "/x", "MCP_HEALTH_PATH": "/x"})


def test_a_mistake_names_the_variable_that_was_read():
    with pytest.raises(SettingsError) as error:
        load_settings({**COMMAND, "MCPFLEET_PATH": "x", "MCP_LOG_LEVEL": "LOUD", "MCPFLEET_ACCESS": "iap"})
    lines = str(error.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["MCPFLEET_PATH", "MCP_LOG_LEVEL", "MCP_IAP_AUDIENCE"]
    assert "required for MCPFLEET_ACCESS=iap" in lines[2]


def test_a_refusal_can_name_the_variable_that_was_read():
    loaded = load_settings({**COMMAND, "MCPFLEET_ALLOWED_HOSTS": "mcp.example.org", "MCPFLEET_ALLOWED_ORIGINS": ""})
    assert loaded.variable("MCP_ALLOWED_HOSTS") == "MCPFLEET_ALLOWED_HOSTS"
    assert loaded.variable("MCP_ALLOWED_ORIGINS") == "MCP_ALLOWED_ORIGINS"


def test_the_server_gets_the_environment_but_nothing_that_is_said_to_the_bridge():
    loaded = load_settings(
        {**COMMAND, "PORT": "8080", "MCP_PATH": "/mcp", "API_KEY": "s3cret", "PATH": "/bin", "MCP_MODE": "x"}
    )
    assert loaded.environment == {"API_KEY": "s3cret", "PATH": "/bin", "MCP_MODE": "x"}
    assert "s3cret" not in repr(loaded)


def test_nothing_that_the_fleet_sets_reaches_the_server_and_all_that_its_user_sets_does():
    fleet_variables = environment.container_environment(
        path="/mcp",
        transports=["streamable-http", "sse"],
        stateless=False,
        health_path="/health",
        allowed_hosts=["mcp-*.run.app"],
        allowed_origins=["https://app.example.com"],
    )
    users = {"FASTMCP_LOG_LEVEL": "DEBUG", "MCP_PATH": "/srv/data", "MCP_ALLOWED_HOSTS": "example.com"}
    loaded = load_settings({**COMMAND, **fleet_variables, **users, "PORT": "8080"})
    assert loaded.environment == users
    assert (loaded.sse, loaded.stateless, loaded.path) == (True, False, "/mcp")
    assert [name for name in environment.INJECTED if settings._BRIDGE_VARIABLES.fullmatch(name) is None] == []


def test_a_bridge_that_would_have_to_check_oauth_tokens_does_not_start():
    with pytest.raises(SettingsError, match="MCP_OAUTH_ISSUER: the bridge does not check OAuth tokens"):
        load_settings({**COMMAND, "MCP_OAUTH_ISSUER": "https://issuer.example"})


def test_every_variable_of_the_bridge_is_in_its_guide_with_its_default():
    guide = (Path(__file__).parents[3] / "docs" / "stdio-bridge.md").read_text()
    documented = dict(re.findall(r"^\| `(MCP_STDIO_\w+)` \| ([^|]*?) \|", guide, re.MULTILINE))
    numbers = [
        setting for setting in fields(settings.Settings) if type(setting.default) in (int, float) and setting.metadata
    ]
    read = {
        setting.metadata["name"]: f"{setting.default:g}" if setting.default < 10**6 else str(setting.default)
        for setting in numbers
    }
    assert read.pop("PORT") == "8080"
    assert len(read) > 10
    assert {name: documented.get(name) for name in read} == read


@pytest.mark.parametrize("line", [b"Server running on stdio", b"ERROR: it failed", b"[warn] careful", b"FATAL"])
def test_the_severity_of_a_line_of_stderr_is_not_guessed_from_its_words(line, caplog):
    process = Process("1", "mark", None, 1024)
    with caplog.at_level(logging.INFO):
        process.pipe_data_received(2, line + b"\n")
    (record,) = caplog.records
    entry = json.loads(logs.CloudLoggingFormatter().format(record))
    assert (entry["message"], entry["severity"]) == (line.decode(), "DEFAULT")


def test_a_log_entry_is_one_line_of_json_with_the_process_it_is_about():
    stream = io.StringIO()
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        logs.install("INFO", "acme", stream)
        logging.getLogger("mcpfleet_bridge.server").warning("two\nlines \ud83d", extra={"child": "7"})
    finally:
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)
        logging.captureWarnings(False)
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert (entry["severity"], entry["message"]) == ("WARNING", "two\nlines ?")
    assert entry["logging.googleapis.com/labels"] == {"logger": "mcpfleet_bridge.server", "child": "7"}


def test_an_end_is_described_in_words():
    assert describe_exit(3) == "it exited with code 3"
    assert describe_exit(-9) == "it was killed by SIGKILL"
    assert describe_exit(None) == "it was stopped"
