"""Tests of the metadata server: what a container can read, and what is refused."""

import json

import pytest
from starlette.testclient import TestClient

from mcpfleet_local_cloud.identity.metadata import Workload, create_metadata_app
from mcpfleet_local_cloud.state.folder import Settings

EMAIL = "mcp-echo@mcpfleet-local.iam.gserviceaccount.com"
ACCOUNT = "/computeMetadata/v1/instance/service-accounts/default"
FLAVOR = {"Metadata-Flavor": "Google"}
WORKLOAD = Workload(
    service_account=EMAIL, project="mcpfleet-local", region="europe-west1", instance_id="0123456789abcdef"
)


@pytest.fixture
def server(signer, tmp_path):
    """The metadata server as the container at 172.18.0.2 sees it."""
    containers = {"172.18.0.2": WORKLOAD}
    app = create_metadata_app(containers.get, signer, Settings(state=tmp_path), lambda email: f"id of {email}")

    def client(address="172.18.0.2"):
        return TestClient(app, base_url="http://172.18.0.1", client=(address, 50000))

    return client


def test_an_id_token_names_the_containers_account_and_the_audience(server, signer):
    reply = server().get(f"{ACCOUNT}/identity?audience=https://echo&format=full", headers=FLAVOR)
    claims = signer.verify_id_token(reply.text)
    assert (claims.email, claims.audience, claims.subject) == (EMAIL, "https://echo", f"id of {EMAIL}")


def test_an_id_token_without_an_audience_is_refused(server):
    reply = server().get(f"{ACCOUNT}/identity", headers=FLAVOR)
    assert (reply.status_code, reply.text) == (400, "non-empty audience parameter required\n")


def test_an_access_token_is_the_accounts_own(server, signer):
    reply = server().get(f"{ACCOUNT}/token?scopes=a,b", headers=FLAVOR)
    token = reply.json()
    assert reply.headers["content-type"] == "application/json"
    assert (token["token_type"], token["expires_in"]) == ("Bearer", 3600)
    decoded = signer.decode_access_token(token["access_token"])
    assert (decoded.email, decoded.scopes) == (EMAIL, {"a", "b"})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("project/project-id", "mcpfleet-local"),
        ("project/numeric-project-id", "481516234200"),
        ("instance/region", "projects/481516234200/regions/europe-west1"),
        ("instance/service-accounts/default/email", EMAIL),
        (f"instance/service-accounts/{EMAIL}/email", EMAIL),
        ("instance/service-accounts/default/aliases", "default\n"),
        ("instance/service-accounts/", f"default/\n{EMAIL}/\n"),
        ("universe/universe-domain", "mcpfleet.test"),
        ("", "project/\ninstance/\nuniverse/\n"),
    ],
)
def test_values_and_directories_have_googles_format(server, path, value):
    reply = server().get(f"/computeMetadata/v1/{path}", headers=FLAVOR)
    assert (reply.status_code, reply.text, reply.headers["metadata-flavor"]) == (200, value, "Google")


def test_recursive_gives_the_account_as_json_without_tokens(server):
    reply = server().get(f"{ACCOUNT}/?recursive=true", headers=FLAVOR)
    assert reply.headers["content-type"] == "application/json"
    account = json.loads(reply.text)
    assert account["email"] == EMAIL
    assert set(account) == {"aliases", "email", "scopes"}


def test_recursive_names_are_in_camel_case(server):
    tree = server().get("/computeMetadata/v1/?recursive=true", headers=FLAVOR).json()
    assert tree["project"] == {"projectId": "mcpfleet-local", "numericProjectId": 481516234200}
    assert EMAIL in tree["instance"]["serviceAccounts"]


def test_the_ping_of_google_auth_needs_no_header(server):
    reply = server().get("/")
    assert (reply.status_code, reply.headers["metadata-flavor"]) == (200, "Google")


@pytest.mark.parametrize("headers", [{}, {"Metadata-Flavor": "google"}])
def test_a_request_without_the_flavor_header_is_forbidden(server, headers):
    assert server().get(f"{ACCOUNT}/token", headers=headers).status_code == 403


def test_a_forwarded_request_is_forbidden_so_that_no_proxy_leaks_tokens(server):
    headers = FLAVOR | {"X-Forwarded-For": "172.18.0.2"}
    assert server().get(f"{ACCOUNT}/token", headers=headers).status_code == 403


def test_an_unknown_address_gets_nothing(server):
    assert server("172.18.0.3").get(f"{ACCOUNT}/token", headers=FLAVOR).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "instance/nothing",
        "instance/region/more",
        "project/project-id/x",
        "../v1beta1",
        "instance/service-accounts/x@y/token",
    ],
)
def test_unknown_paths_are_not_found(server, path):
    assert server().get(f"/computeMetadata/v1/{path}", headers=FLAVOR).status_code == 404


def test_nothing_can_be_written(server):
    assert server().put("/computeMetadata/v1/project/project-id", headers=FLAVOR).status_code == 405
