"""IAM v1: service accounts, their keys and their policies, as the provider and gcloud call them."""

import base64
import json

import google.oauth2.service_account
import pytest

from mcpfleet_local_cloud.services.auth import CLOUD_PLATFORM

ACCOUNTS = "/iam/v1/projects/mcpfleet-local/serviceAccounts"
EMAIL = "mcp-reference@mcpfleet-local.iam.gserviceaccount.com"
ACCOUNT = f"{ACCOUNTS}/{EMAIL}"
NAME = f"projects/mcpfleet-local/serviceAccounts/{EMAIL}"
SERVICE = "projects/mcpfleet-local/locations/europe-west1/services/mcp-reference"
NO_LIST = 'Invalid JSON payload received. Unknown name "{}": Proto field is not repeating, cannot start list.'
UNKNOWN_NAME = 'Invalid JSON payload received. Unknown name "{}"{}: Cannot find field.'


@pytest.fixture
def iam(running):
    running.enable("iam")
    return running


@pytest.fixture
def account(iam):
    body = {"accountId": "mcp-reference", "serviceAccount": {"displayName": "r", "description": "d"}}
    return iam.call("POST", ACCOUNTS, body).json()


def message(answer, code):
    assert answer.status_code == code, answer.text
    return answer.json()["error"]["message"]


def test_an_account_has_the_fields_that_the_provider_reads(iam, account):
    assert account["name"] == NAME
    assert account["email"] == EMAIL
    assert account["projectId"] == "mcpfleet-local"
    assert (account["displayName"], account["description"]) == ("r", "d")
    assert account["uniqueId"].isdecimal()
    assert len(account["uniqueId"]) == 21
    assert "disabled" not in account
    by_unique_id = f"{ACCOUNTS}/{account['uniqueId']}"
    for path in (ACCOUNT, f"/iam/v1/projects/-/serviceAccounts/{EMAIL}", by_unique_id):
        iam.grant("roles/iam.serviceAccountAdmin", "user:ada@mcpfleet.test")
        assert iam.call("GET", path, as_="ada@mcpfleet.test").json() == account


def test_a_second_account_of_the_same_name_gets_googles_error(iam, account):
    answer = iam.call("POST", ACCOUNTS, {"accountId": "mcp-reference"})
    assert message(answer, 409) == (
        "Service account mcp-reference already exists within project projects/mcpfleet-local."
    )
    assert answer.json()["error"]["status"] == "ALREADY_EXISTS"


@pytest.mark.parametrize(
    "account_id", ["short", "a" * 31, "Upper-case", "1-digit-first", "ends-with-", "has_underscore", "dot.dot"]
)
def test_an_account_id_that_google_refuses_is_refused(iam, account_id):
    assert message(iam.call("POST", ACCOUNTS, {"accountId": account_id}), 400) == (
        f"Invalid service account ID {account_id!r}: it must be 6 to 30 characters long, begin with a lower-case "
        "letter, and hold only lower-case letters, digits and hyphens (not at its end)."
    )


@pytest.mark.parametrize("account_id", ["a23456", "a" * 30])
def test_the_shortest_and_the_longest_account_id_are_accepted(iam, account_id):
    assert iam.call("POST", ACCOUNTS, {"accountId": account_id}).status_code == 200


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, "accountId is required."),
        ({"accountId": 5}, "Invalid value at 'account_id' (TYPE_STRING), 5"),
        ({"accountId": "mcp-ref", "acount": {}}, UNKNOWN_NAME.format("acount", "")),
        ({"accountId": "mcp-ref", "serviceAccount": {"x": 1}}, UNKNOWN_NAME.format("x", " at 'service_account'")),
        (
            {"accountId": "mcp-ref", "serviceAccount": []},
            NO_LIST.format("service_account"),
        ),
        (
            {"accountId": "mcp-ref", "serviceAccount": {"displayName": "x" * 101}},
            "service_account.display_name: at most 100 bytes in UTF-8 are allowed.",
        ),
        (
            {"accountId": "mcp-ref", "serviceAccount": {"description": "é" * 129}},
            "service_account.description: at most 256 bytes in UTF-8 are allowed.",
        ),
        ([], 'Invalid JSON payload received. Unknown name "": Root element must be a message.'),
    ],
)
def test_a_create_request_of_the_wrong_shape_is_refused(iam, body, expected):
    assert message(iam.call("POST", ACCOUNTS, body), 400) == expected


def test_an_update_changes_the_fields_of_its_mask_and_the_etag(iam, account):
    body = {
        "serviceAccount": {"displayName": "new", "description": "ignored", "etag": account["etag"]},
        "updateMask": "display_name",
    }
    changed = iam.call("PATCH", ACCOUNT, body).json()
    assert (changed["displayName"], changed["description"]) == ("new", "d")
    assert changed["etag"] != account["etag"]
    assert iam.call("GET", ACCOUNT).json() == changed
    stale = iam.call("PATCH", ACCOUNT, body)
    assert message(stale, 409).startswith(f"There were concurrent changes to service account {EMAIL}.")
    emptied = iam.call("PATCH", ACCOUNT, {"serviceAccount": {}, "updateMask": "description,display_name"}).json()
    assert "displayName" not in emptied
    assert "description" not in emptied


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"serviceAccount": {}}, "updateMask: must name the fields to change (displayName, description)."),
        (
            {"serviceAccount": {}, "updateMask": "email"},
            "updateMask: 'email' cannot be changed; displayName and description can.",
        ),
        (
            {"serviceAccount": {"displayName": 1}, "updateMask": "displayName"},
            "Invalid value at 'service_account.display_name' (TYPE_STRING), 1",
        ),
    ],
)
def test_an_update_of_the_wrong_shape_is_refused(iam, account, body, expected):
    assert message(iam.call("PATCH", ACCOUNT, body), 400) == expected


def test_a_missing_account_is_404_for_callers_with_permission(iam):
    for method in ("GET", "DELETE"):
        assert message(iam.call(method, ACCOUNT), 404) == "Unknown service account"
    assert message(iam.call("GET", f"/iam/v1/projects/-/serviceAccounts/{EMAIL}"), 404) == "Unknown service account"
    denied = message(iam.call("GET", ACCOUNT, as_="bob@mcpfleet.test"), 403)
    assert denied == f"Permission 'iam.serviceAccounts.get' denied on resource '{NAME}' (or it may not exist)."


def test_a_list_has_every_account_once(iam, account):
    first = iam.call("GET", f"{ACCOUNTS}?pageSize=2").json()
    second = iam.call("GET", f"{ACCOUNTS}?pageSize=2&pageToken={first['nextPageToken']}").json()
    assert [item["email"] for item in first["accounts"] + second["accounts"]] == [
        "481516234200-compute@developer.gserviceaccount.com",
        "deployer@mcpfleet-local.iam.gserviceaccount.com",
        EMAIL,
    ]
    assert "nextPageToken" not in second


def test_an_account_shows_whether_it_is_disabled(iam, account):
    assert iam.call("POST", f"{ACCOUNT}:disable").json() == {}
    assert iam.call("GET", ACCOUNT).json()["disabled"] is True
    assert iam.call("POST", f"{ACCOUNT}:disable", {}).json() == {}
    assert iam.call("POST", f"{ACCOUNT}:enable", {}).json() == {}
    assert "disabled" not in iam.call("GET", ACCOUNT).json()


def test_a_deleted_account_leaves_its_tombstone_in_policies_and_a_new_one_inherits_nothing(iam, account):
    iam.grant("roles/run.invoker", f"serviceAccount:{EMAIL}", SERVICE)
    policy = {"bindings": [{"role": "roles/iam.serviceAccountUser", "members": ["user:ada@mcpfleet.test"]}]}
    iam.call("POST", f"{ACCOUNT}:setIamPolicy", {"policy": policy})
    assert iam.call("DELETE", ACCOUNT).json() == {}
    assert message(iam.call("GET", ACCOUNT), 404) == "Unknown service account"
    tombstone = f"deleted:serviceAccount:{EMAIL}?uid={account['uniqueId']}"
    assert iam.cloud.policies.get(SERVICE)["bindings"][0]["members"] == [tombstone]
    recreated = iam.call("POST", ACCOUNTS, {"accountId": "mcp-reference"}).json()
    assert recreated["uniqueId"] != account["uniqueId"]
    assert not iam.cloud.policies.allows(EMAIL, "run.routes.invoke", SERVICE)
    assert iam.call("POST", f"{ACCOUNT}:getIamPolicy").json() == {"version": 1, "etag": "ACAB"}


def test_the_policy_of_an_account_is_read_and_written_as_the_provider_does(iam, account):
    path = f"{ACCOUNT}:getIamPolicy?options.requestedPolicyVersion=3"
    assert iam.call("POST", path).json() == {"version": 1, "etag": "ACAB"}
    bindings = [{"role": "roles/iam.serviceAccountUser", "members": ["user:ada@mcpfleet.test"]}]
    body = {"policy": {"bindings": bindings, "etag": "ACAB", "version": 3}}
    written = iam.call("POST", f"{ACCOUNT}:setIamPolicy", body).json()
    assert written["bindings"] == bindings
    assert iam.call("POST", path).json() == written
    assert iam.call("POST", f"{ACCOUNT}:setIamPolicy", body).status_code == 409
    request_body = {"permissions": ["iam.serviceAccounts.actAs", "iam.serviceAccounts.delete"]}
    granted = iam.call("POST", f"{ACCOUNT}:testIamPermissions", request_body, as_="ada@mcpfleet.test").json()
    assert granted == {"permissions": ["iam.serviceAccounts.actAs"]}


def test_a_role_that_does_not_apply_to_accounts_is_refused(iam, account):
    policy = {"bindings": [{"role": "roles/run.invoker", "members": ["allUsers"]}]}
    answer = iam.call("POST", f"{ACCOUNT}:setIamPolicy", {"policy": policy})
    assert message(answer, 400) == "Role roles/run.invoker is not supported for this resource."


def test_the_deployer_cannot_create_keys(iam, account):
    assert "iam.serviceAccountKeys.create" in message(iam.call("POST", f"{ACCOUNT}/keys", {}), 403)


@pytest.fixture
def keeper(iam, account):
    """Call as an account that can manage keys."""
    iam.grant("roles/iam.serviceAccountKeyAdmin", "user:ada@mcpfleet.test")

    def call(method, path="", body=None):
        return iam.call(method, f"{ACCOUNT}/keys{path}", body, as_="ada@mcpfleet.test")

    return call


def test_a_new_key_is_accepted_until_it_is_deleted(iam, account, keeper):
    key = keeper("POST", "", {"privateKeyType": "TYPE_GOOGLE_CREDENTIALS_FILE"}).json()
    file = json.loads(base64.b64decode(key["privateKeyData"]))
    assert file["type"] == "service_account"
    assert file["client_email"] == EMAIL
    assert file["client_id"] == account["uniqueId"]
    assert file["token_uri"] == "http://127.0.0.1:8470/oauth2/token"
    assert file["universe_domain"] == "mcpfleet.test"
    assert key["name"] == f"{NAME}/keys/{file['private_key_id']}"
    iam.grant("roles/iam.serviceAccountAdmin", f"serviceAccount:{EMAIL}")
    credentials = google.oauth2.service_account.Credentials.from_service_account_info(file, scopes=[CLOUD_PLATFORM])
    credentials.refresh(None)
    token = credentials.token if isinstance(credentials.token, str) else credentials.token.decode()
    bearer = {"Authorization": f"Bearer {token}"}
    assert iam.client.get(ACCOUNT, headers=bearer).json()["email"] == EMAIL
    public_part = {name: value for name, value in key.items() if not name.startswith("privateKey")}
    assert keeper("GET").json() == {"keys": [public_part]}
    assert keeper("GET", f"/{file['private_key_id']}").json() == public_part
    assert keeper("GET", "?keyTypes=SYSTEM_MANAGED").json() == {}
    assert keeper("DELETE", f"/{file['private_key_id']}").json() == {}
    assert iam.client.get(ACCOUNT, headers=bearer).status_code == 401
    assert keeper("GET").json() == {}
    missing = keeper("DELETE", f"/{file['private_key_id']}")
    assert message(missing, 404) == f"Resource '{key['name']}' was not found."
    assert message(keeper("GET", f"/{file['private_key_id']}"), 404) == f"Resource '{key['name']}' was not found."


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            {"privateKeyType": "TYPE_PKCS12_FILE"},
            "privateKeyType: TYPE_PKCS12_FILE is not supported; use TYPE_GOOGLE_CREDENTIALS_FILE.",
        ),
        (
            {"keyAlgorithm": "KEY_ALG_RSA_1024"},
            "keyAlgorithm: KEY_ALG_RSA_1024 is not supported; use KEY_ALG_RSA_2048.",
        ),
        ({"publicKey": "x"}, UNKNOWN_NAME.format("publicKey", "")),
    ],
)
def test_a_key_of_another_kind_is_refused(keeper, body, expected):
    assert message(keeper("POST", "", body), 400) == expected


def test_an_unknown_type_of_key_is_refused(keeper):
    assert message(keeper("GET", "?keyTypes=HIS"), 400) == "Invalid value at 'key_types' (TYPE_ENUM), \"HIS\""


def test_an_account_has_ten_keys_at_most(iam, account, account_key, keeper, monkeypatch):
    from mcpfleet_local_cloud.services.iam import keys

    names = iter(range(100))
    monkeypatch.setattr(keys, "key_id", lambda _: f"{next(names):040}")
    document = iam.cloud.accounts.get(EMAIL)
    for _ in range(10):
        iam.cloud.keys.create(document, account_key)
    answer = keeper("POST", "", {})
    assert message(answer, 400) == f"Service account {EMAIL} has 10 keys, which is the maximum. Delete one."
    assert answer.json()["error"]["status"] == "FAILED_PRECONDITION"


def test_the_keys_of_a_deleted_account_are_deleted(iam, account, account_key):
    iam.cloud.keys.create(iam.cloud.accounts.get(EMAIL), account_key)
    iam.call("DELETE", ACCOUNT)
    recreated = iam.call("POST", ACCOUNTS, {"accountId": "mcp-reference"}).json()
    assert iam.cloud.keys.list(recreated) == []
