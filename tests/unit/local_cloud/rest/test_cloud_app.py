"""Tests of the application around the APIs: unexpected errors, bodies, the log, the admin API, and a fresh cloud."""

import json
import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import mcpfleet_local_cloud.bootstrap
from mcpfleet_local_cloud.app import BODY_LIMIT, create_registry
from mcpfleet_local_cloud.bootstrap import DEPLOYER_ROLES
from mcpfleet_local_cloud.identity.tokens import new_key
from mcpfleet_local_cloud.state.folder import State, StateLockedError

DEPLOYER = "deployer@mcpfleet-local.iam.gserviceaccount.com"
SERVICES = "/serviceusage/v1/projects/mcpfleet-local/services"
SERVICE = "projects/mcpfleet-local/locations/europe-west1/services/echo"


def error(answer, code):
    assert answer.status_code == code, answer.text
    assert answer.json()["error"]["code"] == code
    return answer.json()["error"]["message"]


@pytest.fixture
def admin(running):
    return {"Authorization": f"Bearer {running.cloud.state.admin_token}"}


@pytest.fixture
def deployed(running):
    """A running service, deployed through the API."""
    running.enable("run", "iam")
    running.call("POST", "/iam/v1/projects/mcpfleet-local/serviceAccounts", {"accountId": "mcp-echo"})
    account = "mcp-echo@mcpfleet-local.iam.gserviceaccount.com"
    image = f"127.0.0.1:8470/europe-west1/mcpfleet-local/mcpfleet/echo@sha256:{'0' * 64}"
    body = {"template": {"serviceAccount": account, "containers": [{"image": image}]}}
    location = "/run/v2/projects/mcpfleet-local/locations/europe-west1"
    operation = running.call("POST", f"{location}/services?serviceId=echo", body).json()
    done = running.call("POST", f"/run/v2/{operation['name']}:wait", {"timeout": "20s"}).json()
    assert "error" not in done
    assert done["done"], done
    return running


def test_an_unknown_path_is_404_in_googles_error_format(running):
    answer = running.call("GET", "/dns/v1/projects")
    assert error(answer, 404) == "The local cloud has no method GET /dns/v1/projects."
    assert answer.json()["error"]["status"] == "NOT_FOUND"


def test_a_method_that_a_path_does_not_have_is_refused(running):
    answer = running.call("PUT", SERVICES)
    assert error(answer, 405) == f"Method Not Allowed: PUT {SERVICES}"
    assert "GET" in answer.headers["allow"]


@pytest.mark.parametrize("body", [b"{", b"nope", b'{"a": 1,}', b"\xff", b"[" * 100_000])
def test_a_body_that_is_not_json_is_refused(running, body):
    path = f"{SERVICES}:batchEnable"
    answer = running.client.post(path, content=body, headers=running.headers())
    assert error(answer, 400).startswith("Invalid JSON payload received. Unexpected token.\n")


def test_a_body_over_the_limit_is_refused_with_and_without_a_declared_length(running):
    message = f"Request payload size exceeds the limit: {BODY_LIMIT} bytes."
    path = f"{SERVICES}:batchEnable"
    response = running.client.post(path, content=b" " * (BODY_LIMIT + 1), headers=running.headers())
    assert error(response, 400) == message
    chunks = (b" " * 1024 * 1024 for _ in range(11))
    untold = running.client.post(path, content=chunks, headers=running.headers())
    assert error(untold, 400) == message


def test_a_body_at_the_limit_is_read(running):
    path = f"{SERVICES}/run.googleapis.com:enable"
    padded = b"{}" + b" " * (BODY_LIMIT - 2)
    assert running.client.post(path, content=padded, headers=running.headers()).status_code == 200


def test_an_unexpected_exception_is_logged_and_not_retryable(running, monkeypatch, caplog):
    def broken(*_):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(running.cloud.usage, "list", broken)
    answer = running.call("GET", SERVICES)
    request_id = answer.headers["x-request-id"]
    message = f"The local cloud failed (ZeroDivisionError: by zero). See request {request_id} in its log."
    assert error(answer, 501) == message
    assert request_id in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert running.lines[-1]["severity"] == "ERROR"


def test_every_request_is_one_log_line_with_caller_and_method(running):
    running.lines.clear()
    answer = running.call("GET", SERVICES)
    running.client.get("/nowhere")
    first, second = running.lines
    assert first["request_id"] == answer.headers["x-request-id"]
    assert (first["method"], first["path"], first["status"]) == ("GET", SERVICES, 200)
    assert first["caller"] == DEPLOYER
    assert first["ms"] >= 0
    assert (second["path"], second["status"], second["caller"]) == ("/nowhere", 404, "")


def test_a_log_line_is_one_json_object_on_standard_error(capsys):
    from mcpfleet_local_cloud.app import log_to_stderr

    log_to_stderr({"path": "/a\nb"})
    assert json.loads(capsys.readouterr().err) == {"path": "/a\nb"}


def test_a_fresh_cloud_has_the_accounts_and_permissions_of_the_deployment_guide(running):
    emails = [account["email"] for account in running.cloud.accounts.list_in_project(running.project)]
    assert emails == ["481516234200-compute@developer.gserviceaccount.com", DEPLOYER]
    bindings = running.cloud.policies.get(f"projects/{running.project}")["bindings"]
    roles = {binding["role"] for binding in bindings if f"serviceAccount:{DEPLOYER}" in binding["members"]}
    guide = (Path(__file__).parents[4] / "docs" / "deploy-to-google.md").read_text()
    assert roles == set(re.findall(r"^ *\| `(roles/[\w.]+)` \|", guide, re.MULTILINE))
    assert roles >= {
        "roles/run.admin",
        "roles/iam.serviceAccountUser",
        "roles/iam.serviceAccountAdmin",
        "roles/artifactregistry.admin",
        "roles/serviceusage.serviceUsageAdmin",
    }
    assert roles == set(DEPLOYER_ROLES)


def test_the_credential_files_are_complete_and_private(running):
    for name in ("deployer", "ada", "bob"):
        path = running.credentials / f"{name}.json"
        assert path.stat().st_mode & 0o777 == 0o600
        assert running.credential(name)["token_uri"] == "http://127.0.0.1:8470/oauth2/token"
        assert running.credential(name)["universe_domain"] == "mcpfleet.test"
    assert running.credential("deployer")["client_email"] == DEPLOYER
    assert running.credential("ada")["type"] == "authorized_user"
    assert running.credential("bob")["account"] == "bob@mcpfleet.test"


def test_the_store_holds_no_secret(running):
    store = (running.cloud.settings.state / "cloud.db").read_bytes()
    store += (running.cloud.settings.state / "cloud.db-wal").read_bytes()
    assert running.credential("ada")["refresh_token"].encode() not in store
    assert b"PRIVATE KEY" not in store
    assert b"deployer@mcpfleet-local" in store


def test_credentials_survive_a_restart_and_follow_the_port(start):
    with start() as first:
        credentials = {name: first.credential(name) for name in ("deployer", "ada", "bob")}
    with start(port=9000) as second:
        for name, old in credentials.items():
            assert second.credential(name) == {**old, "token_uri": "http://127.0.0.1:9000/oauth2/token"}
        assert len(second.cloud.keys.list(second.cloud.accounts.get(DEPLOYER))) == 1


@pytest.mark.parametrize("damage", ["gone", "rubbish", "foreign"])
def test_a_lost_or_foreign_credential_file_is_replaced_and_its_key_revoked(start, damage, monkeypatch):
    with start() as first:
        old_key = first.credential("deployer")["private_key_id"]
        old = first.credential("ada")["refresh_token"]
        for name in ("deployer", "ada", "bob"):
            path = first.credentials / f"{name}.json"
            if damage == "gone":
                path.unlink()
            elif damage == "rubbish":
                path.write_text("[1")
            else:
                path.write_text(json.dumps({"private_key_id": "0" * 40, "private_key": "x", "refresh_token": "1//x"}))
    monkeypatch.setattr(mcpfleet_local_cloud.bootstrap, "new_key", new_key)
    with start() as second:
        assert second.credential("ada")["refresh_token"] != old
        assert second.cloud.people.find_by_refresh_token(old) is None
        new = second.credential("ada")["refresh_token"]
        assert second.cloud.people.find_by_refresh_token(new)["email"] == "ada@mcpfleet.test"
        deployer = second.credential("deployer")
        assert deployer["private_key_id"] != old_key
        key_names = [key["name"] for key in second.cloud.keys.list(second.cloud.accounts.get(DEPLOYER))]
        assert key_names == [f"projects/mcpfleet-local/serviceAccounts/{DEPLOYER}/keys/{deployer['private_key_id']}"]


def test_a_readable_credential_file_is_made_private_again(start):
    with start() as first:
        (first.credentials / "deployer.json").chmod(0o644)
    with start() as second:
        assert (second.credentials / "deployer.json").stat().st_mode & 0o777 == 0o600


def test_resources_survive_a_restart(start):
    with start() as first:
        first.enable("iam")
        first.grant("roles/viewer", "user:bob@mcpfleet.test")
        token = first.access_token(DEPLOYER)
        inventory = first.cloud.inventory()
    with start() as second:
        assert second.cloud.inventory() == inventory
        assert second.cloud.authorizer.authenticate_token(token).email == DEPLOYER
        assert second.cloud.policies.allows("bob@mcpfleet.test", "run.services.get", f"projects/{second.project}")


def test_health_requires_no_token(running):
    answer = running.client.get("/_local/health").json()
    assert answer["status"] == "ok"
    assert answer["cloud"] == running.cloud.state.cloud_id
    assert answer["version"]
    running.cloud.ready.clear()
    assert running.client.get("/_local/health").json()["status"] == "starting"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "inventory"),
        ("GET", "logs?service=echo"),
        ("GET", "groups"),
        ("PUT", "groups/sre@acme.dev"),
        ("DELETE", "groups/sre@acme.dev"),
        ("POST", "forget"),
        ("POST", "reset"),
    ],
)
def test_the_admin_api_requires_the_admin_token(running, method, path):
    for headers in ({}, running.headers(), {"Authorization": "Bearer x"}):
        answer = running.client.request(method, f"/_local/{path}", headers=headers)
        assert error(answer, 401).endswith("with the token in the file admin-token of the state directory.")
    assert (running.cloud.settings.state / "admin-token").stat().st_mode & 0o777 == 0o600


def test_the_inventory_lists_all_resources(deployed):
    admin = {"Authorization": f"Bearer {deployed.cloud.state.admin_token}"}
    inventory = deployed.client.get("/_local/inventory", headers=admin).json()
    assert inventory["cloud"] == deployed.cloud.state.cloud_id
    assert "run.googleapis.com" in inventory["enabledApis"]
    assert "mcp-echo@mcpfleet-local.iam.gserviceaccount.com" in inventory["serviceAccounts"]
    assert [service["name"] for service in inventory["services"]] == [SERVICE]
    assert inventory["documents"]["serviceAccount"] == 3


def test_logs_are_available_by_short_and_full_name(deployed):
    admin = {"Authorization": f"Bearer {deployed.cloud.state.admin_token}"}
    for name in ("echo", SERVICE):
        assert deployed.client.get(f"/_local/logs?service={name}", headers=admin).status_code == 200
    missing = deployed.client.get("/_local/logs?service=other", headers=admin)
    assert error(missing, 404) == "Resource 'other' was not found."
    wrong = deployed.client.get("/_local/logs?service=echo&lines=0", headers=admin)
    assert error(wrong, 400) == "lines: '0' is not a number of lines."


def test_a_reset_leaves_a_fresh_cloud_with_new_credentials(deployed):
    admin = {"Authorization": f"Bearer {deployed.cloud.state.admin_token}"}
    cloud_id, old = deployed.cloud.state.cloud_id, deployed.credential("ada")
    assert deployed.plane.running
    assert deployed.client.post("/_local/reset", headers=admin).json() == {}
    assert deployed.plane.running == {}
    assert deployed.plane.routed == {}
    inventory = deployed.client.get("/_local/inventory", headers=admin).json()
    assert inventory["services"] == []
    assert inventory["enabledApis"] == ["cloudresourcemanager.googleapis.com", "serviceusage.googleapis.com"]
    assert inventory["cloud"] == cloud_id
    assert deployed.credential("ada")["refresh_token"] != old["refresh_token"]
    assert deployed.call("GET", SERVICES).status_code == 200


def test_a_deployed_service_accepts_the_members_of_its_policy(deployed):
    path = f"/run/v2/{SERVICE}"
    policy = {"bindings": [{"role": "roles/run.invoker", "members": ["user:ada@mcpfleet.test"]}]}
    written = deployed.call("POST", f"{path}:setIamPolicy", {"policy": policy}).json()
    assert deployed.call("GET", f"{path}:getIamPolicy").json() == written
    assert deployed.cloud.policies.allows("ada@mcpfleet.test", "run.routes.invoke", SERVICE)
    assert not deployed.cloud.policies.allows("bob@mcpfleet.test", "run.routes.invoke", SERVICE)
    assert deployed.cloud.run.find_endpoint(SERVICE).service == SERVICE


def test_the_registry_is_served_at_the_root(running):
    assert running.client.get("/v2/").status_code == 401
    assert running.call("GET", "/v2/").status_code == 200


def test_only_one_process_at_a_time_uses_a_state_folder(tmp_path, settings):
    with State(tmp_path / "s").lock():
        with pytest.raises(StateLockedError) as caught, State(tmp_path / "s").lock():
            pass
        assert str(caught.value) == (
            f"The local cloud in {tmp_path / 's'} is already served by another process, which is starting or stopping."
        )
        State(tmp_path / "s").announce(settings, "now")
        holder = pytest.raises(StateLockedError, match=r"by process \d+ at http://127\.0\.0\.1:8470\.")
        with holder, State(tmp_path / "s").lock():
            pass
    with State(tmp_path / "s").lock():
        pass


def test_a_cloud_keeps_its_name(tmp_path):
    first = State(tmp_path / "s")
    assert State(tmp_path / "s").cloud_id == first.cloud_id
    assert State(tmp_path / "s").admin_token == first.admin_token
    assert State(tmp_path / "other").cloud_id != first.cloud_id


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.dev"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://rebound.evil.dev:8470", "Sec-Fetch-Site": "same-origin"},
    ],
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/_local/inventory"), ("POST", "/_local/reset"), ("GET", "/v2/")])
def test_a_web_page_cannot_call_an_api_even_with_a_credential(running, admin, headers, method, path):
    answer = running.client.request(method, path, headers={**admin, **headers})
    assert error(answer, 403) == "The local cloud's APIs are for programs, not for web pages."


@pytest.mark.parametrize("path", ["/_local/inventory", "/run/v2/projects/p/locations/l/services", "/oauth2/token"])
def test_only_the_registry_is_reachable_through_the_gateways_registry_port(running, admin, path):
    docker = TestClient(create_registry(running.cloud, running.lines.append))
    assert docker.get("/v2/").status_code == 401
    assert docker.get("/v2/", headers=running.headers()).status_code == 200
    assert "has no method" in error(docker.get(path, headers=admin), 404)
    assert docker.get("/v2/", headers={**running.headers(), "Origin": "https://evil.dev"}).status_code == 403


def test_a_url_typed_in_a_browser_shows_the_response(running):
    assert running.client.get("/_local/health", headers={"Sec-Fetch-Site": "none"}).status_code == 200
