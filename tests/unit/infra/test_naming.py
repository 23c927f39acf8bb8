"""The names a fleet gives, and that they fit the cloud's limits for every name a user may write."""

import re

from hypothesis import given
from hypothesis import strategies as st

from pulumi_mcpfleet import naming

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
    (pattern,) = naming.allowed_hosts("mcp-echo")
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
    assert naming.proxy_command("mcp-echo", project="p", region="r", port=3001) == (
        "gcloud run services proxy mcp-echo --project p --region r --port 3001"
    )


def test_grants_of_different_members_have_different_names():
    names = {naming.grant_name("echo", "invoker", member) for member in ("user:a@b.c", "group:a@b.c")}
    assert len(names) == 2


def test_the_service_url_is_googles_deterministic_one():
    url = naming.service_url("mcp-echo", project_number="481516234200", region="europe-west1")
    assert url == "https://mcp-echo-481516234200.europe-west1.run.app"


def test_a_domain_is_an_allowed_host_beside_the_run_app_hosts():
    assert naming.allowed_hosts("mcp-echo", "mcp.acme.dev") == ("mcp-echo-*.run.app", "mcp.acme.dev")


def test_two_folders_of_secrets_never_share_a_volume_even_when_their_slugs_do():
    names = {naming.secret_volume(folder) for folder in ("/a/b", "/a-b", "/a/B", "/" + "x" * 300)}
    assert len(names) == 4
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name) for name in names)


def test_a_certificate_of_another_domain_has_another_name():
    names = {naming.certificate_name("echo", domain) for domain in ("a.acme.dev", "b.acme.dev")}
    assert len(names) == 2
    assert all(re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])", name) for name in names)


def test_an_image_of_another_registry_keeps_its_path_behind_the_remote_repository():
    assert (
        naming.remote_image("europe-docker.pkg.dev/p/r", "ghcr.io/acme/tool:1")
        == "europe-docker.pkg.dev/p/r/acme/tool:1"
    )


@given(
    st.from_regex(r"[a-z][a-z0-9-]{0,61}[a-z0-9]", fullmatch=True), st.from_regex(r"[a-z]{1,60}(\.[a-z]+)+(:[0-9]+)?")
)
def test_a_repository_in_front_of_any_registry_has_a_name_that_artifact_registry_takes(repository, upstream):
    for name in (naming.remote_repository_id(repository), naming.remote_repository_id(repository, upstream)):
        assert re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", name)


def test_a_secret_of_another_project_is_found_there():
    secret = "projects/vault/secrets/db"
    assert (naming.secret_id(secret), naming.secret_project(secret, "p")) == ("db", "vault")
    assert (naming.secret_id("db"), naming.secret_project("db", "p")) == ("db", "p")
