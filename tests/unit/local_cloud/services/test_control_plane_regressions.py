"""Regression tests of an attack on the control plane."""

import asyncio

import pytest

from mcpfleet_local_cloud.app import create_app

PROJECT = "projects/mcpfleet-local"
LOCATION = f"{PROJECT}/locations/europe-west1"
ACCOUNTS = f"/iam/v1/{PROJECT}/serviceAccounts"
REPOSITORIES = f"/artifactregistry/v1/{LOCATION}/repositories"
SERVICES = f"/serviceusage/v1/{PROJECT}/services"
RUN = f"/run/v2/{LOCATION}/services"
HALF_A_PAIR = '"\\ud800"'


@pytest.fixture
def cloud(running):
    running.enable("iam", "run", "artifactregistry")
    running.grant("roles/owner", f"serviceAccount:deployer@{running.project}.iam.gserviceaccount.com")
    return running


@pytest.fixture
def account(cloud):
    """The path of a service account."""
    created = cloud.call("POST", ACCOUNTS, {"accountId": "mcp-echo", "serviceAccount": {}}).json()
    return f"{ACCOUNTS}/{created['email']}"


def send(cloud, method, path, content, **extra):
    return cloud.client.request(method, path, content=content, headers=cloud.headers(), **extra)


def refusal(answer):
    return answer.status_code, answer.json()["error"]["status"]


BAD = (400, "INVALID_ARGUMENT")


def test_a_lone_surrogate_is_refused_and_accounts_can_still_be_listed(cloud, account):
    body = f'{{"serviceAccount": {{"displayName": {HALF_A_PAIR}}}, "updateMask": "displayName"}}'
    assert refusal(send(cloud, "PATCH", account, body)) == BAD
    assert cloud.call("GET", ACCOUNTS).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (ACCOUNTS, f'{{"accountId": "okname1", "serviceAccount": {{"description": {HALF_A_PAIR}}}}}'),
        (f"{REPOSITORIES}?repositoryId=r", f'{{"format": "DOCKER", "description": {HALF_A_PAIR}}}'),
        (f"{REPOSITORIES}?repositoryId=r", f'{{"format": "DOCKER", "labels": {{{HALF_A_PAIR}: "x"}}}}'),
        (f"{SERVICES}:batchEnable", f'{{"serviceIds": [{HALF_A_PAIR}]}}'),
        (f"{RUN}?serviceId=echo", f'{{"description": {HALF_A_PAIR}}}'),
        (f"/crm/v1/{PROJECT}:testIamPermissions", f'{{"permissions": [{HALF_A_PAIR}]}}'),
    ],
)
def test_text_that_no_response_can_contain_is_refused(cloud, path, body):
    assert refusal(send(cloud, "POST", path, body)) == BAD


def test_a_surrogate_pair_is_accepted_as_a_character(cloud, account):
    body = '{"serviceAccount": {"displayName": "\\ud83d\\ude80"}, "updateMask": "displayName"}'
    assert send(cloud, "PATCH", account, body).json()["displayName"] == "\N{ROCKET}"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
def test_nan_and_infinity_are_refused(cloud, number):
    body = f'{{"format": "DOCKER", "labels": {{"a": {number}}}}}'
    assert refusal(send(cloud, "POST", f"{REPOSITORIES}?repositoryId=r", body)) == BAD


@pytest.mark.parametrize("version", [[], {}, "one", 2, [1]])
def test_a_policy_version_of_any_type_is_accepted_or_refused(cloud, account, version):
    assert refusal(cloud.call("POST", f"{account}:setIamPolicy", {"policy": {"version": version}})) == BAD


@pytest.mark.parametrize("size", ["9" * 5000, "\u00b2", "\u0661", "-1", "1_0", "x"])
@pytest.mark.parametrize("path", [ACCOUNTS, SERVICES])
def test_an_invalid_page_size_is_refused(cloud, path, size):
    assert refusal(cloud.call("GET", path, params={"pageSize": size})) == BAD


@pytest.mark.parametrize("lines", ["9" * 5000, "\u00b2", "0", "-1"])
def test_an_invalid_number_of_log_lines_is_refused(cloud, lines):
    headers = {"Authorization": f"Bearer {cloud.cloud.state.admin_token}"}
    assert refusal(cloud.client.get("/_local/logs", params={"lines": lines}, headers=headers)) == BAD


@pytest.mark.parametrize("mask", ["(" * 20_000, "a(" * 5_000 + "b" + ")" * 5_000, "a/" * 5_000 + "b"])
def test_a_field_mask_of_any_depth_is_accepted_or_refused(cloud, mask):
    assert refusal(cloud.call("GET", ACCOUNTS, params={"fields": mask})) == BAD


POLICY = {"action": "DELETE", "condition": {"tagState": "ANY"}}


@pytest.mark.parametrize(
    "fields",
    [
        {"format": 99},
        {"mode": []},
        {"description": 5},
        {"labels": 5},
        {"labels": {"a": 5}},
        {"dockerConfig": 5},
        {"cleanupPolicyDryRun": "no"},
        {"cleanupPolicies": {"a": 5}},
        {"cleanupPolicies": {"a": {**POLICY, "action": []}}},
        {"cleanupPolicies": {"a": {**POLICY, "condition": []}}},
        {"cleanupPolicies": {"a": {**POLICY, "condition": {"tagPrefixes": 5}}}},
        {"cleanupPolicies": {"a": {**POLICY, "condition": {"packageNamePrefixes": [5]}}}},
        {"cleanupPolicies": {"a": {**POLICY, "condition": {"olderThan": 5}}}},
        {"cleanupPolicies": {"a": {**POLICY, "condition": {"olderThan": "9" * 400 + "s"}}}},
        {"cleanupPolicies": {"a": {"action": "KEEP", "mostRecentVersions": {"keepCount": "9" * 5000}}}},
        {"cleanupPolicies": {"a": {"action": "KEEP", "mostRecentVersions": {"keepCount": [1]}}}},
    ],
)
def test_a_repository_with_a_field_of_the_wrong_type_is_refused(cloud, fields):
    body = {"format": "DOCKER", **fields}
    assert refusal(cloud.call("POST", f"{REPOSITORIES}?repositoryId=bad", body)) == BAD
    assert cloud.call("POST", f"{REPOSITORIES}?repositoryId=good", {"format": "DOCKER"}).status_code == 200
    mask = next(iter(fields))
    if mask in ("description", "labels", "dockerConfig", "cleanupPolicies", "cleanupPolicyDryRun"):
        changed = cloud.call("PATCH", f"{REPOSITORIES}/good", fields, params={"updateMask": mask})
        assert refusal(changed) == BAD


def test_a_null_in_a_repository_counts_as_unset(cloud):
    condition = {"tagState": "ANY", "tagPrefixes": None, "olderThan": None}
    body = {"format": "DOCKER", "labels": None, "cleanupPolicies": {"a": {"action": "DELETE", "condition": condition}}}
    cloud.call("POST", f"{REPOSITORIES}?repositoryId=r", body)
    answer = cloud.call("PATCH", f"{REPOSITORIES}/r", {"description": None}, params={"updateMask": "description"})
    assert answer.status_code == 200, "the cleanup policies were applied"
    assert "labels" not in answer.json()


def test_a_disconnect_during_an_upload_is_no_server_error(cloud, caplog):
    cloud.call("POST", f"{REPOSITORIES}?repositoryId=r", {"format": "DOCKER"})
    name = "europe-west1/mcpfleet-local/r/server"
    location = cloud.call("POST", f"/v2/{name}/blobs/uploads/").headers["location"]
    lines, sent = [], []

    async def scenario():
        incoming = [{"type": "http.request", "body": b"half", "more_body": True}, {"type": "http.disconnect"}]
        headers = [(name.lower().encode(), value.encode()) for name, value in cloud.headers().items()]
        scope = {"type": "http", "method": "PATCH", "path": location, "query_string": b"", "headers": headers}

        async def receive():
            return incoming.pop(0)

        async def send(message):
            sent.append(message)

        await create_app(cloud.cloud, lines.append)(scope, receive, send)

    asyncio.run(scenario())
    assert (lines[0]["status"], lines[0]["severity"], sent) == (499, "INFO", [])
    assert not caplog.records
    assert cloud.call("GET", location).headers["range"] == "0-3", "what had arrived is kept"
