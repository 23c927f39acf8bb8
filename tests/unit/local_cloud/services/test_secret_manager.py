"""Secret Manager by its REST API and through the emulated provider: only `access` returns a value."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet_local_cloud.state.folder import Vault

SECRETS = "/secretmanager/v1/projects/mcpfleet-local/secrets"
NUMBER = "481516234200"
VALUE = "swordfish-9f3a"
CRC32C = "3317623997"
SECRET = "gcp:secretmanager/secret:Secret"
VERSION = "gcp:secretmanager/secretVersion:SecretVersion"
MEMBER = "gcp:secretmanager/secretIamMember:SecretIamMember"


@pytest.fixture
def api(running):
    running.enable("secretmanager")
    return running


def made(api, name="db", value=VALUE):
    answer = api.call("POST", f"{SECRETS}?secretId={name}", {"replication": {"automatic": {}}})
    assert answer.status_code == 200, answer.text
    if value is not None:
        data = base64.b64encode(value.encode()).decode()
        assert api.call("POST", f"{SECRETS}/{name}:addVersion", {"payload": {"data": data}}).status_code == 200
    return answer.json()


def accessed(api, name="db", version="latest", **extra):
    return api.call("GET", f"{SECRETS}/{name}/versions/{version}:access", **extra)


def value_of(answer):
    return base64.b64decode(answer.json()["payload"]["data"]).decode()


def test_the_api_must_be_enabled(running):
    answer = running.call("GET", SECRETS)
    assert answer.status_code == 403
    assert answer.json()["error"]["details"][0]["reason"] == "SERVICE_DISABLED"


def test_a_secret_is_named_by_project_number_and_found_by_number_or_id(api):
    secret = made(api)
    assert secret["name"] == f"projects/{NUMBER}/secrets/db"
    assert secret["replication"] == {"automatic": {}}
    for project in ("mcpfleet-local", NUMBER):
        response = api.call("GET", f"/secretmanager/v1/projects/{project}/secrets/db")
        assert response.json()["name"] == secret["name"]


def test_a_value_is_read_by_version_number_and_as_latest(api):
    made(api)
    answer = accessed(api)
    assert value_of(answer) == VALUE
    assert answer.json()["name"] == f"projects/{NUMBER}/secrets/db/versions/1"
    assert answer.json()["payload"]["dataCrc32c"] == CRC32C
    api.call("POST", f"{SECRETS}/db:addVersion", {"payload": {"data": base64.b64encode(b"newer").decode()}})
    assert value_of(accessed(api)) == "newer"
    assert value_of(accessed(api, version="1")) == VALUE


def test_no_value_is_in_the_store_the_log_the_inventory_or_other_responses(api):
    made(api)
    api.call("GET", f"{SECRETS}/db/versions")
    accessed(api)
    state = api.cloud.settings.state
    database = b"".join(path.read_bytes() for path in state.glob("cloud.db*"))
    for spelled in (VALUE, base64.b64encode(VALUE.encode()).decode()):
        assert spelled.encode() not in database
        assert spelled not in json.dumps(api.lines)
        assert spelled not in json.dumps(api.cloud.inventory())
        assert spelled not in api.call("GET", f"{SECRETS}/db/versions/1").text
    assert (state / "keys" / "secrets.key").stat().st_mode & 0o777 == 0o600


def test_a_value_survives_a_restart(start):
    with start() as first:
        first.enable("secretmanager")
        made(first)
    with start() as second:
        assert value_of(accessed(second)) == VALUE


def test_a_disabled_version_is_not_read_until_it_is_enabled_again(api):
    made(api)
    assert api.call("POST", f"{SECRETS}/db/versions/1:disable", {}).json()["state"] == "DISABLED"
    refused = accessed(api)
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == (
        f"Secret Version [projects/{NUMBER}/secrets/db/versions/1] is in DISABLED state."
    )
    api.call("POST", f"{SECRETS}/db/versions/1:enable", {})
    assert value_of(accessed(api)) == VALUE


def test_a_destroyed_version_cannot_be_restored(api):
    made(api)
    destroyed = api.call("POST", f"{SECRETS}/db/versions/1:destroy", {}).json()
    assert destroyed["state"] == "DESTROYED"
    assert destroyed["destroyTime"]
    assert accessed(api).status_code == 400
    assert api.call("POST", f"{SECRETS}/db/versions/1:enable", {}).status_code == 400
    assert all("sealed" not in document for _, document in api.cloud.store.list("secretVersion"))


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("none", "1", f"Secret [projects/{NUMBER}/secrets/none] not found or has no versions."),
        ("empty", "latest", f"Secret [projects/{NUMBER}/secrets/empty] not found or has no versions."),
        ("db", "7", f"Secret Version [projects/{NUMBER}/secrets/db/versions/7] not found."),
    ],
)
def test_missing_secrets_and_versions_are_named(api, name, version, message):
    made(api)
    made(api, "empty", None)
    answer = accessed(api, name, version)
    assert (answer.status_code, answer.json()["error"]["message"]) == (404, message)


def test_an_alias_resolves_to_its_version(api):
    made(api)
    answer = api.call("PATCH", f"{SECRETS}/db?updateMask=version_aliases", {"versionAliases": {"blue": "1"}})
    assert answer.json()["versionAliases"] == {"blue": "1"}
    assert value_of(accessed(api, version="blue")) == VALUE
    assert (
        api.call("PATCH", f"{SECRETS}/db?updateMask=versionAliases", {"versionAliases": {"x": "9"}}).status_code == 400
    )


def test_labels_are_updated_by_mask_and_an_outdated_etag_is_refused(api):
    first = made(api)
    body = {"labels": {"team": "a"}}
    assert api.call("PATCH", f"{SECRETS}/db?updateMask=labels", body).json()["labels"] == {"team": "a"}
    stale = api.call("PATCH", f"{SECRETS}/db?updateMask=labels", {"labels": {}, "etag": first["etag"]})
    assert stale.status_code == 409


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("topics", [{"name": "x"}]),
        ("rotation", {"rotationPeriod": "3600s"}),
        ("ttl", "60s"),
        ("expireTime", "2030-01-01T00:00:00Z"),
        ("versionDestroyTtl", "60s"),
        ("tags", {"x": "1"}),
    ],
)
def test_unsupported_fields_are_refused_by_name(api, field, value):
    body = {"replication": {"automatic": {}}, field: value}
    answer = api.call("POST", f"{SECRETS}?secretId=x", body)
    assert answer.status_code == 501
    assert field in answer.json()["error"]["message"]


def test_existing_and_invalid_names_and_a_missing_replication_are_refused(api):
    made(api)
    auto = {"replication": {"automatic": {}}}
    assert api.call("POST", f"{SECRETS}?secretId=db", auto).status_code == 409
    assert api.call("POST", f"{SECRETS}?secretId=a.b", auto).status_code == 400
    assert api.call("POST", f"{SECRETS}?secretId=x", {}).status_code == 400


def test_a_damaged_payload_and_a_too_large_one_are_refused(api):
    made(api)
    data = base64.b64encode(b"x").decode()
    for payload in (
        {"data": data, "dataCrc32c": "1"},
        {"data": "%%"},
        {},
        {"data": base64.b64encode(bytes(65537)).decode()},
    ):
        assert api.call("POST", f"{SECRETS}/db:addVersion", {"payload": payload}).status_code == 400


def test_the_list_has_pages_and_deleting_a_secret_deletes_its_versions(api):
    made(api, "a")
    made(api, "b")
    page = api.call("GET", f"{SECRETS}?pageSize=1").json()
    assert [secret["name"][-1] for secret in page["secrets"]] == ["a"]
    rest = api.call("GET", f"{SECRETS}?pageSize=1&pageToken={page['nextPageToken']}").json()
    assert [secret["name"][-1] for secret in rest["secrets"]] == ["b"]
    assert api.call("DELETE", f"{SECRETS}/a").status_code == 200
    assert api.call("GET", f"{SECRETS}/a").status_code == 404
    assert all("/a/" not in name for name, _ in api.cloud.store.list("secretVersion"))


RIGHTS = {
    "roles/secretmanager.secretAccessor": {"access"},
    "roles/secretmanager.viewer": {"get"},
    "roles/secretmanager.secretVersionAdder": {"add"},
    "roles/secretmanager.secretVersionManager": {"add", "disable"},
    "roles/secretmanager.admin": {"access", "get", "add", "disable"},
}


@pytest.mark.parametrize("role", RIGHTS)
def test_a_role_on_a_secret_has_exactly_googles_permissions(api, role):
    made(api)
    made(api, "other")
    policy = {"bindings": [{"role": role, "members": ["user:ada@mcpfleet.test"]}]}
    assert api.call("POST", f"{SECRETS}/db:setIamPolicy", {"policy": policy}).status_code == 200
    data = {"payload": {"data": base64.b64encode(b"x").decode()}}
    request_body = {
        "access": ("GET", "/db/versions/1:access", None),
        "get": ("GET", "/db", None),
        "add": ("POST", "/db:addVersion", data),
        "disable": ("POST", "/db/versions/1:disable", {}),
    }
    for verb, (method, path, body) in request_body.items():
        status = api.call(method, SECRETS + path, body, as_="ada@mcpfleet.test").status_code
        assert status == (200 if verb in RIGHTS[role] else 403), verb
    assert accessed(api, "other", as_="ada@mcpfleet.test").status_code == 403


def test_permissions_can_be_tested_and_the_policy_is_deleted_with_the_secret(api):
    made(api)
    policy = {"bindings": [{"role": "roles/secretmanager.secretAccessor", "members": ["user:ada@mcpfleet.test"]}]}
    api.call("POST", f"{SECRETS}/db:setIamPolicy", {"policy": policy})
    body = {"permissions": ["secretmanager.versions.access", "secretmanager.secrets.delete"]}
    granted = api.call("POST", f"{SECRETS}/db:testIamPermissions", body, as_="ada@mcpfleet.test").json()
    assert granted == {"permissions": ["secretmanager.versions.access"]}
    foreign = api.call("POST", f"{SECRETS}/db:testIamPermissions", {"permissions": ["run.services.get"]})
    assert foreign.json()["error"]["message"] == "Permission run.services.get is not valid for this resource."
    api.call("DELETE", f"{SECRETS}/db")
    made(api)
    assert accessed(api, as_="ada@mcpfleet.test").status_code == 403


# --- the emulated provider ---------------------------------------------------------------------------------


def test_a_program_creates_and_removes_a_secret_a_version_and_a_grant(api, program):
    secret = program.create(SECRET, {"secretId": "db", "replication": {"auto": {}}, "labels": {"a": "b"}})
    assert secret.resource_id == "projects/mcpfleet-local/secrets/db"
    assert secret.properties["name"] == f"projects/{NUMBER}/secrets/db"
    assert secret.properties["replication"] == {"auto": {}}
    version = program.create(VERSION, {"secret": secret.resource_id, "secretData": VALUE})
    assert version.properties["version"] == "1"
    assert version.properties["secretData"] == VALUE
    grant = {
        "secretId": secret.resource_id,
        "role": "roles/secretmanager.secretAccessor",
        "member": "user:ada@mcpfleet.test",
    }
    member = program.create(MEMBER, grant)
    assert value_of(accessed(api, as_="ada@mcpfleet.test")) == VALUE
    assert api.cloud.inventory()["records"] == [f"secret projects/{NUMBER}/secrets/db"]
    for kind, inputs in ((SECRET, secret), (VERSION, version), (MEMBER, member)):
        read = program.read(kind, inputs)
        assert read.resource_id == inputs.resource_id
    program.delete(MEMBER, member)
    assert accessed(api, as_="ada@mcpfleet.test").status_code == 403
    program.delete(VERSION, version)
    assert program.read(VERSION, version) is None
    program.delete(SECRET, secret)
    assert program.read(SECRET, secret) is None
    assert api.cloud.inventory()["records"] == []


def test_a_second_run_of_the_same_program_changes_nothing(api, program):
    inputs = {"secretId": "db", "replication": {"auto": {}}, "labels": {"a": "b"}, "annotations": {"x": "y"}}
    secret = program.create(SECRET, inputs)
    assert program.diff(SECRET, program.read(SECRET, secret), inputs) == {}
    of_value = {"secret": secret.resource_id, "secretData": VALUE}
    version = program.create(VERSION, of_value)
    assert program.diff(VERSION, program.read(VERSION, version), of_value) == {}


def test_a_new_value_is_a_new_version_and_labels_are_updated_in_place(api, program):
    secret = program.create(SECRET, {"secretId": "db", "replication": {"auto": {}}})
    version = program.create(VERSION, {"secret": secret.resource_id, "secretData": VALUE})
    changed = {"secret": secret.resource_id, "secretData": "other"}
    assert program.replaced(VERSION, version, changed) == ["secretData"]
    off = program.update(VERSION, version, {"secret": secret.resource_id, "secretData": VALUE, "enabled": False})
    assert off.properties["enabled"] is False
    assert accessed(api).status_code == 400
    renamed = {"secretId": "db2", "replication": {"auto": {}}}
    assert program.replaced(SECRET, secret, renamed) == ["secretId"]
    labelled = program.update(
        SECRET, secret, {"secretId": "db", "replication": {"auto": {}}, "labels": {"n": "1"}, "annotations": {"k": "v"}}
    )
    assert labelled.properties["effectiveLabels"] == {"goog-pulumi-provisioned": "true", "n": "1"}
    assert api.call("GET", f"{SECRETS}/db").json()["annotations"] == {"k": "v"}


def test_the_value_is_required_and_marked_as_secret(program):
    from mcpfleet_local_cloud.plugins.resources import CheckInput
    from mcpfleet_local_cloud.plugins.values import Secret

    resource = type(program).create.__globals__["RESOURCES"][VERSION]
    body = CheckInput(name="v", olds={}, news={"secret": "projects/p/secrets/s", "secretData": VALUE})
    assert resource.check(program.api, body)[0]["secretData"] == Secret(VALUE)
    assert program.check(VERSION, {"secret": "projects/p/secrets/s"})[1]


def test_a_protected_secret_is_not_destroyed(api, program):
    secret = program.create(SECRET, {"secretId": "db", "replication": {"auto": {}}, "deletionProtection": True})
    with pytest.raises(Exception, match="deletion_protection=false"):
        program.delete(SECRET, secret)
    assert api.call("GET", f"{SECRETS}/db").status_code == 200


# --- small parts ----------------------------------------------------------------------------------------


@given(value=st.binary(max_size=200))
def test_an_encrypted_value_is_decrypted_and_never_shown(tmp_path_factory, value):
    vault = Vault(tmp_path_factory.getbasetemp() / "vault")
    sealed = vault.encrypt(value)
    assert vault.decrypt(sealed) == value
    assert len(value) < 4 or value not in sealed.encode()


def test_the_command_stores_a_value_in_the_local_cloud(running):
    from mcpfleet.secret_manager import SecretLocation, SecretManager, SecretValue

    def send(method, url, body=None):
        answer = running.call(method, url.removeprefix("http://cloud"), body)
        return answer.status_code, answer.json()

    endpoints = {
        "GOOGLE_SECRET_MANAGER_CUSTOM_ENDPOINT": "http://cloud/secretmanager/v1/",
        "GOOGLE_SERVICE_USAGE_CUSTOM_ENDPOINT": "http://cloud/serviceusage/v1beta1/",
    }
    location = SecretLocation("mcpfleet-local", "mcpfleet.test", {"team": "weather"})
    manager = SecretManager(send, location, endpoints, sleep=lambda _: None)
    first = manager.add_version("weather-key", SecretValue(VALUE.encode()))
    assert (first.number, first.is_new_secret, first.enabled_api) == ("1", True, True)
    second = manager.add_version("weather-key", SecretValue(b"next"))
    assert (second.number, second.is_new_secret, second.enabled_api) == ("2", False, False)
    assert value_of(accessed(running, "weather-key", "1")) == VALUE
    assert value_of(accessed(running, "weather-key")) == "next"
    assert running.call("GET", f"{SECRETS}/weather-key").json()["labels"] == {"team": "weather"}
