"""The environment of a hosted server: accepted values and error messages."""

import importlib.metadata
import json
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mcp_server
from mcp_server.__main__ import build
from mcpfleet_server.hosting import serve
from mcpfleet_server.hosting.settings import Settings, SettingsError, load_settings

PACKAGE = Path(mcp_server.__file__).parent


def test_an_empty_environment_serves_mcp_on_8080_for_loopback_hosts_only():
    settings = load_settings()
    assert (settings.port, settings.mcp_path, settings.log_level) == (8080, "/mcp", "INFO")
    assert settings.allowed_hosts == ()
    assert settings.allowed_origins == ()
    assert settings.forwarded_allow_ips == "127.0.0.1"


def test_the_fleets_variables_are_read(monkeypatch):
    environment = {
        "PORT": "9000",
        "MCP_PATH": "/v1/mcp",
        "MCP_ALLOWED_HOSTS": "mcp-reference-*.run.app, mcp.example.org ,",
        "MCP_ALLOWED_ORIGINS": "https://app.example.com",
        "FORWARDED_ALLOW_IPS": "*",
        "K_SERVICE": "mcp-reference",
        "K_REVISION": "mcp-reference-00001-abc",
        "MCP_LOG_LEVEL": "debug",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.port == 9000
    assert settings.mcp_path == "/v1/mcp"
    assert [pattern.text for pattern in settings.allowed_hosts] == ["mcp-reference-*.run.app", "mcp.example.org"]
    assert settings.allowed_origins[0].accepts("https://app.example.com")
    assert settings.forwarded_allow_ips == "*"
    assert (settings.service, settings.revision) == ("mcp-reference", "mcp-reference-00001-abc")
    assert settings.log_level == "DEBUG"


def test_an_empty_variable_counts_as_unset(monkeypatch):
    for name in ("PORT", "MCP_PATH", "MCPFLEET_PATH", "MCP_ALLOWED_HOSTS", "K_SERVICE", "MCP_LOG_LEVEL"):
        monkeypatch.setenv(name, "")
    assert load_settings().port == 8080
    assert load_settings().service is None


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("PORT", "abc", "integer"),
        ("PORT", "0", "greater than or equal to 1"),
        ("PORT", "65536", "less than or equal to 65535"),
        ("MCP_PATH", "mcp", "leading slash"),
        ("MCP_PATH", "/mcp//", "no slash at the end"),
        ("MCP_PATH", "/", "plain words"),
        ("MCP_PATH", "/m{c}p", "plain words"),
        ("MCP_PATH", "/health", "health check"),
        ("MCP_ALLOWED_HOSTS", "*", "any owner"),
        ("MCP_ALLOWED_HOSTS", "*.app", "any owner"),
        ("MCP_ALLOWED_HOSTS", "mcp.*.app", "any owner"),
        ("MCP_ALLOWED_HOSTS", "ok.example.org,mcp-*", "any owner"),
        ("MCP_ALLOWED_HOSTS", "https://mcp.example.org", "without scheme"),
        ("MCP_ALLOWED_HOSTS", "mcp.example.org/mcp", "without scheme or path"),
        ("MCP_ALLOWED_HOSTS", "mcp..example.org", "not a host name"),
        ("MCP_ALLOWED_HOSTS", "mcp.example.org:70000", "65535"),
        ("MCP_ALLOWED_ORIGINS", "app.example.com", "scheme://host"),
        ("MCP_ALLOWED_ORIGINS", "null", "scheme://host"),
        ("MCP_ALLOWED_ORIGINS", "https://*", "any owner"),
        ("MCP_LOG_LEVEL", "loud", "'WARNING'"),
    ],
)
def test_an_invalid_variable_is_named_with_what_to_write(monkeypatch, name, value, hint):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{name}: ")
    assert hint in line
    assert "Value error" not in line


def test_the_process_logs_every_invalid_variable_and_exits_with_2(monkeypatch, capsys, process_state):
    monkeypatch.setenv("PORT", "abc")
    monkeypatch.setenv("MCP_PATH", "mcp")
    assert serve(build) == 2
    captured = capsys.readouterr()
    entries = [json.loads(line) for line in captured.out.splitlines()]
    assert [entry["severity"] for entry in entries] == ["CRITICAL", "CRITICAL"]
    assert entries[0]["message"].startswith("PORT: ")
    assert entries[1]["message"].startswith("MCP_PATH: ")
    assert "Traceback" not in captured.out + captured.err


def test_the_image_installs_the_versions_that_are_tested():
    locked = tomllib.loads((PACKAGE / "uv.lock").read_text(encoding="utf-8"))["package"]
    versions = {package["name"]: package.get("version") for package in locked}
    for name in ("mcp", "starlette", "uvicorn", "sse-starlette", "httptools", "uvloop"):
        assert versions[name] == importlib.metadata.version(name), (
            f"{name} differs: uv lock --project mcp_server --upgrade-package {name}"
        )


def test_the_server_reports_the_version_of_its_project():
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == mcp_server.__version__


def test_the_fleets_prefixed_variables_take_precedence():
    settings = load_settings(
        {"MCPFLEET_PATH": "/tools", "MCP_PATH": "/srv/data/", "MCPFLEET_ALLOWED_HOSTS": "a-*.run.app"}
    )
    assert settings.mcp_path == "/tools"
    assert settings.allowed_hosts[0].accepts("a-1.run.app")


def test_an_error_names_the_variable_that_was_read():
    with pytest.raises(SettingsError) as caught:
        load_settings(
            {"MCPFLEET_PATH": "tools", "MCP_PATH": "/mcp", "MCPFLEET_ALLOWED_HOSTS": "*", "MCP_OTEL": "maybe"}
        )
    names = [line.partition(":")[0] for line in str(caught.value).splitlines()]
    assert names == ["MCPFLEET_PATH", "MCPFLEET_ALLOWED_HOSTS", "MCP_OTEL"]


def test_an_error_about_two_variables_names_both():
    with pytest.raises(SettingsError) as caught:
        load_settings({"MCPFLEET_ACCESS": "oauth"})
    assert str(caught.value).startswith("MCP_OAUTH_ISSUER: required for MCPFLEET_ACCESS=oauth")


VARIABLES = sorted(
    str(field.validation_alias).removeprefix("MCP_")
    for field in Settings.model_fields.values()
    if str(field.validation_alias).startswith("MCP_")
)


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["MCP_", "MCPFLEET_"]), st.sampled_from(VARIABLES)).map("".join),
        st.sampled_from(["", "oauth", "iap", "/a", "/health", "https://a.example", "sse", "false", "4", "é"]),
    )
)
def test_no_error_names_a_variable_that_a_prefixed_one_replaced(environment):
    try:
        load_settings(environment)
    except SettingsError as error:
        text = str(error)
    else:
        return
    for name, value in environment.items():
        if name.startswith("MCPFLEET_") and value:
            assert not re.search(rf"\bMCP_{name.removeprefix('MCPFLEET_')}\b", text), text
