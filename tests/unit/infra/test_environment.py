"""The environment that a container gets from the fleet."""

import json

from pulumi_mcpfleet import environment


def build(**wish):
    return environment.container_environment(
        **{
            "port": 8080,
            "path": "/mcp",
            "transports": ("streamable-http",),
            "stateless": True,
            "health_path": "/health",
            "allowed_hosts": ("mcp-a-*.run.app", "mcp.acme.dev"),
            "allowed_origins": (),
            "user": {},
            **wish,
        }
    )


def test_a_server_learns_its_path_hosts_and_that_the_front_end_is_trusted():
    assert {name: value for name, value in build().items() if not name.startswith("FASTMCP_")} == {
        "MCP_PATH": "/mcp",
        "MCP_TRANSPORTS": "streamable-http",
        "MCP_STATELESS": "true",
        "MCP_HEALTH_PATH": "/health",
        "MCP_ALLOWED_HOSTS": "mcp-a-*.run.app,mcp.acme.dev",
        "FORWARDED_ALLOW_IPS": "*",
    }


def test_origins_are_named_only_when_there_are_some():
    assert "MCP_ALLOWED_ORIGINS" not in build()
    assert build(allowed_origins=("https://a.dev", "https://b.dev"))["MCP_ALLOWED_ORIGINS"] == (
        "https://a.dev,https://b.dev"
    )


def test_the_users_variables_are_added():
    assert build(user={"LOG_LEVEL": "DEBUG"})["LOG_LEVEL"] == "DEBUG"


def test_fastmcp_finds_its_own_names_and_listens_where_cloud_run_asks():
    found = build(port=5000, path="/x", stateless=False)
    assert (found["FASTMCP_HOST"], found["FASTMCP_PORT"]) == ("0.0.0.0", "5000")  # noqa: S104
    assert (found["FASTMCP_STREAMABLE_HTTP_PATH"], found["FASTMCP_STATELESS_HTTP"]) == ("/x", "false")
    assert "mcp.acme.dev" in json.loads(found["FASTMCP_HTTP_ALLOWED_HOSTS"])
    assert "127.0.0.1:*" in json.loads(found["FASTMCP_HTTP_ALLOWED_HOSTS"]), "sidecars and proxies come by localhost"
    assert json.loads(found["FASTMCP_HTTP_ALLOWED_ORIGINS"]) == []


def test_a_server_that_speaks_only_sse_is_told_so_in_fastmcps_words():
    assert build(transports=("sse",))["FASTMCP_TRANSPORT"] == "sse"
    assert build(transports=("sse", "streamable-http"))["FASTMCP_TRANSPORT"] == "streamable-http"


def test_a_server_that_checks_oauth_tokens_learns_whose():
    found = environment.oauth_environment(issuer="https://login.acme.dev", scopes=("a", "b"))
    assert found == {"MCP_OAUTH_ISSUER": "https://login.acme.dev", "MCP_OAUTH_SCOPES": "a,b"}
    assert "MCP_OAUTH_SCOPES" not in environment.oauth_environment(issuer="https://login.acme.dev", scopes=())


def test_every_name_the_fleet_sets_is_on_the_list_that_the_parser_refuses():
    plain = build(allowed_origins=("https://a.dev",))
    oauth = environment.oauth_environment(issuer="https://login.acme.dev", scopes=("a",))
    addresses = {environment.BASE_URL, environment.AUDIENCE, environment.OAUTH_AUDIENCE}
    callers = {environment.ACCESS, environment.IAP_AUDIENCE}
    assert {*plain, *oauth, *addresses, *callers} == set(environment.INJECTED)
