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


def test_only_the_command_is_required():
    loaded = load_settings({**COMMAND, "MCP_STDIO_ARGS": '["--local-timezone", "UTC"]'})
    assert loaded.command == ("mcp-server-time", "--local-timezone", "UTC")
    assert (loaded.port, loaded.path, loaded.health_path) == (8080, "/mcp", "/health")
    assert loaded.stateless
    assert loaded.warm
    assert not loaded.sse


def test_a_missing_command_is_an_error_with_an_example():
    with pytest.raises(SettingsError, match=r'^MCP_STDIO_COMMAND: missing; .*\["mcp-server-time", "--verb'):
        load_settings({"PATH": "/bin"})


def test_every_invalid_variable_is_named_on_its_own_line():
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


def test_the_mcp_and_sse_paths_must_differ():
    with pytest.raises(SettingsError, match="MCP_PATH: /x is the path of the health check"):
        load_settings({**COMMAND, "MCP_PATH": "/x", "MCP_HEALTH_PATH": "/x"})


def test_an_error_names_the_variable_that_was_read():
    with pytest.raises(SettingsError) as error:
        load_settings({**COMMAND, "MCPFLEET_PATH": "x", "MCP_LOG_LEVEL": "LOUD", "MCPFLEET_ACCESS": "iap"})
    lines = str(error.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["MCPFLEET_PATH", "MCP_LOG_LEVEL", "MCP_IAP_AUDIENCE"]
    assert "required for MCPFLEET_ACCESS=iap" in lines[2]


def test_a_refusal_names_the_configured_variable():
    loaded = load_settings({**COMMAND, "MCPFLEET_ALLOWED_HOSTS": "mcp.example.org", "MCPFLEET_ALLOWED_ORIGINS": ""})
    assert loaded.variable("MCP_ALLOWED_HOSTS") == "MCPFLEET_ALLOWED_HOSTS"
    assert loaded.variable("MCP_ALLOWED_ORIGINS") == "MCP_ALLOWED_ORIGINS"


def test_the_server_gets_the_environment_without_the_bridges_variables():
    loaded = load_settings(
        {**COMMAND, "PORT": "8080", "MCP_PATH": "/mcp", "API_KEY": "s3cret", "PATH": "/bin", "MCP_MODE": "x"}
    )
    assert loaded.environment == {"API_KEY": "s3cret", "PATH": "/bin", "MCP_MODE": "x"}
    assert "s3cret" not in repr(loaded)


def test_the_users_variables_reach_the_server_and_the_fleets_do_not():
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


def test_a_bridge_with_oauth_access_does_not_start():
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
def test_the_severity_of_a_stderr_line_does_not_depend_on_its_text(line, caplog):
    process = Process("1", "mark", None, 1024)
    with caplog.at_level(logging.INFO):
        process.pipe_data_received(2, line + b"\n")
    (record,) = caplog.records
    entry = json.loads(logs.CloudLoggingFormatter().format(record))
    assert (entry["message"], entry["severity"]) == (line.decode(), "DEFAULT")


def test_a_log_entry_is_one_json_line_with_its_process():
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


def test_an_exit_status_is_described_in_words():
    assert describe_exit(3) == "it exited with code 3"
    assert describe_exit(-9) == "it was killed by SIGKILL"
    assert describe_exit(None) == "it was stopped"
