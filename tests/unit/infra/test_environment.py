"""The environment that a container gets from the fleet."""

from infra import environment


def build(**wish):
    return environment.container_environment(
        **{"path": "/mcp", "allowed_hosts": ("a.run.app", "b.run.app"), "allowed_origins": (), "user": {}, **wish}
    )


def test_a_server_learns_its_path_hosts_and_that_the_front_end_is_trusted():
    assert build() == {
        "MCP_PATH": "/mcp",
        "MCP_ALLOWED_HOSTS": "a.run.app,b.run.app",
        "FORWARDED_ALLOW_IPS": "*",
    }


def test_origins_are_named_only_when_there_are_some():
    assert "MCP_ALLOWED_ORIGINS" not in build()
    assert build(allowed_origins=("https://a.dev", "https://b.dev"))["MCP_ALLOWED_ORIGINS"] == (
        "https://a.dev,https://b.dev"
    )


def test_the_users_variables_are_added():
    assert build(user={"LOG_LEVEL": "DEBUG"})["LOG_LEVEL"] == "DEBUG"


def test_every_name_the_fleet_sets_is_on_the_list_that_the_parser_refuses():
    assert set(build(allowed_origins=("https://a.dev",))) == set(environment.INJECTED)
