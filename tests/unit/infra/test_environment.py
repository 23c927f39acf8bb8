"""The environment that a container gets from the fleet."""

import json

import pytest

from pulumi_mcpfleet import environment
from pulumi_mcpfleet.sources import Layout
from pulumi_mcpfleet.sources.environment_use import FASTMCP_SETTINGS, find_variables

HOSTS = ("mcp-a-*.run.app", "mcp.acme.dev")


def build(**keys):
    defaults = {"path": "/mcp", "transports": ("streamable-http",), "stateless": True, "health_path": "/health"}
    return environment.container_environment(**defaults | {"allowed_hosts": HOSTS, "allowed_origins": ()} | keys)


def of_fastmcp(**keys):
    defaults = {"port": 8080, "path": "/mcp", "transports": ("streamable-http",), "stateless": True}
    return environment.fastmcp_environment(**defaults | {"allowed_hosts": HOSTS, "allowed_origins": ()} | keys)


def test_a_server_learns_its_path_hosts_and_that_the_front_end_is_trusted():
    assert build() == {
        "MCPFLEET_PATH": "/mcp",
        "MCPFLEET_TRANSPORTS": "streamable-http",
        "MCPFLEET_STATELESS": "true",
        "MCPFLEET_HEALTH_PATH": "/health",
        "MCPFLEET_ALLOWED_HOSTS": "mcp-a-*.run.app,mcp.acme.dev",
        "FORWARDED_ALLOW_IPS": "*",
    }


def test_a_path_is_that_of_the_newer_transport_alone():
    assert "MCPFLEET_PATH" not in build(transports=("sse",), path="/sse")


def test_origins_are_named_only_when_there_are_some():
    assert "MCPFLEET_ALLOWED_ORIGINS" not in build()
    environment = build(allowed_origins=("https://a.dev", "https://b.dev"))
    assert environment["MCPFLEET_ALLOWED_ORIGINS"] == "https://a.dev,https://b.dev"


def test_fastmcp_finds_its_own_names_and_listens_where_cloud_run_asks():
    environment = of_fastmcp(port=5000, path="/x", stateless=False)
    assert (environment["FASTMCP_HOST"], environment["FASTMCP_PORT"]) == ("0.0.0.0", "5000")  # noqa: S104
    assert (environment["FASTMCP_STREAMABLE_HTTP_PATH"], environment["FASTMCP_STATELESS_HTTP"]) == ("/x", "false")
    assert "mcp.acme.dev" in json.loads(environment["FASTMCP_HTTP_ALLOWED_HOSTS"])
    assert "127.0.0.1:*" in json.loads(environment["FASTMCP_HTTP_ALLOWED_HOSTS"]), (
        "sidecars and proxies come by localhost"
    )
    assert json.loads(environment["FASTMCP_HTTP_ALLOWED_ORIGINS"]) == []


def test_a_server_that_speaks_only_sse_is_told_so_in_fastmcps_words_and_not_to_be_stateless_which_it_refuses():
    environment = of_fastmcp(transports=("sse",), path="/sse")
    assert (environment["FASTMCP_TRANSPORT"], environment["FASTMCP_SSE_PATH"]) == ("sse", "/sse")
    assert "FASTMCP_STATELESS_HTTP" not in environment
    assert of_fastmcp(transports=("sse", "streamable-http"))["FASTMCP_TRANSPORT"] == "streamable-http"


def test_a_server_that_checks_oauth_tokens_learns_whose():
    variables = environment.oauth_environment(issuer="https://login.acme.dev", scopes=("a", "b"))
    assert variables == {"MCPFLEET_OAUTH_ISSUER": "https://login.acme.dev", "MCPFLEET_OAUTH_SCOPES": "a,b"}
    assert len(environment.oauth_environment(issuer="https://login.acme.dev", scopes=())) == 1


def test_every_name_of_our_own_is_on_the_list_that_the_parser_refuses():
    plain = build(allowed_origins=("https://a.dev",))
    oauth = environment.oauth_environment(issuer="https://login.acme.dev", scopes=("a",))
    addresses = {environment.BASE_URL, environment.AUDIENCE, environment.OAUTH_AUDIENCE}
    callers = {environment.ACCESS, environment.IAP_AUDIENCE}
    assert {*plain, *oauth, *addresses, *callers} - {"FORWARDED_ALLOW_IPS"} == set(environment.INJECTED)
    assert all(name.startswith(environment.PREFIX) for name in environment.INJECTED)


@pytest.mark.parametrize(
    ("files", "reads"),
    [
        ({"server.py": "from fastmcp import FastMCP\n"}, {FASTMCP_SETTINGS}),
        ({"server.py": "from mcp.server.fastmcp import FastMCP\n"}, {FASTMCP_SETTINGS}),
        ({"requirements.txt": "fastmcp>=2\n", "app.py": "import app"}, {FASTMCP_SETTINGS}),
        ({"index.ts": 'import { FastMCP } from "fastmcp";'}, set()),
        ({"index.ts": "const hosts = process.env.MCP_ALLOWED_HOSTS?.split(',')"}, {"MCP_ALLOWED_HOSTS"}),
        ({"a.py": "os.environ['MCP_BASE_URL']"}, {"MCP_BASE_URL"}),
        ({"README.md": "Set MCP_ALLOWED_HOSTS; made with fastmcp"}, set()),
        ({"server.py": "MCP_PATH = os.environ['MCP_PATH']"}, set()),
    ],
)
def test_a_source_is_known_to_read_what_its_code_names(files, reads):
    assert find_variables(Layout.from_files(files)) == reads
