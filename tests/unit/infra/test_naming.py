"""The names a fleet gives, and that they fit the cloud's limits for every name a user may write."""

import re

from hypothesis import given
from hypothesis import strategies as st

from infra import naming

SERVER_NAMES = st.from_regex(
    rf"[a-z][a-z0-9-]{{{naming.SERVER_NAME_MIN - 2},{naming.SERVER_NAME_MAX - 2}}}[a-z0-9]", fullmatch=True
)


@given(SERVER_NAMES)
def test_every_accepted_server_name_makes_a_valid_account_and_service(server):
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])", naming.account_id(server))
    assert 6 <= len(naming.account_id(server)) <= 30
    assert len(naming.service_name(server)) < 50


def test_limits_leave_two_to_twenty_six_characters_for_a_server():
    assert (naming.SERVER_NAME_MIN, naming.SERVER_NAME_MAX) == (2, 26)


def test_images_of_a_server_are_in_a_repository_of_its_own():
    assert naming.image_repository("europe-west1-docker.pkg.dev/p/mcpfleet", "echo") == (
        "europe-west1-docker.pkg.dev/p/mcpfleet/echo"
    )


def test_registry_host_keeps_its_port_and_drops_the_path():
    assert naming.registry_host("127.0.0.1:8470/europe-west1/p/mcpfleet") == "127.0.0.1:8470"


def test_both_run_app_hosts_of_a_service_match_its_pattern_and_no_other_service_does():
    (pattern,) = naming.allowed_hosts("echo")
    matcher = re.compile(re.escape(pattern).replace(r"\*", ".*"))
    assert matcher.fullmatch("mcp-echo-481516234200.europe-west1.run.app")
    assert matcher.fullmatch("mcp-echo-h4shh4shh4-ew.a.run.app")
    assert not matcher.fullmatch("mcp-other-481516234200.europe-west1.run.app")
    assert not matcher.fullmatch("mcp-echo-1.europe-west1.run.app.evil.test")


def test_mcp_url_is_the_endpoint_with_exactly_one_slash():
    assert naming.mcp_url("https://a.run.app", "/mcp") == "https://a.run.app/mcp"
    assert naming.mcp_url("https://a.run.app/", "/mcp") == "https://a.run.app/mcp"


def test_proxies_of_several_servers_have_different_ports_in_config_order():
    assert list(naming.proxy_ports(3)) == [3000, 3001, 3002]


def test_proxy_command_names_service_project_region_and_port():
    assert naming.proxy_command("echo", project="p", region="r", port=3001) == (
        "gcloud run services proxy mcp-echo --project p --region r --port 3001"
    )


def test_grants_of_different_members_have_different_names():
    names = {naming.grant_name("echo", member) for member in ("user:a@b.c", "group:a@b.c")}
    assert len(names) == 2
