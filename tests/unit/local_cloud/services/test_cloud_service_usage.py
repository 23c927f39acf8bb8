"""Service Usage, Resource Manager and Billing as the provider calls them."""

import pytest

SERVICES = "/serviceusage/v1/projects/mcpfleet-local/services"
PROJECT = "/crm/v1/projects/mcpfleet-local"
RUN = "projects/481516234200/services/run.googleapis.com"


def message(answer, code):
    assert answer.status_code == code, answer.text
    return answer.json()["error"]["message"]


def enabled(running):
    query = {"fields": "services/name,nextPageToken", "filter": "state:ENABLED", "pageSize": "200"}
    answer = running.call("GET", SERVICES, params=query)
    return [service["name"].rpartition("/")[2] for service in answer.json()["services"]]


def test_a_fresh_project_has_the_apis_to_enable_the_others(running):
    assert enabled(running) == ["cloudresourcemanager.googleapis.com", "serviceusage.googleapis.com"]


def test_the_providers_list_request_gets_only_names(running):
    query = {"fields": "services/name,nextPageToken", "filter": "state:ENABLED", "pageSize": "200"}
    assert running.call("GET", SERVICES, params=query).json() == {
        "services": [
            {"name": "projects/481516234200/services/cloudresourcemanager.googleapis.com"},
            {"name": "projects/481516234200/services/serviceusage.googleapis.com"},
        ]
    }


def test_enabling_is_finished_at_once_and_can_be_polled_in_both_api_versions(running):
    operation = running.call("POST", f"{SERVICES}/run.googleapis.com:enable", {}).json()
    assert operation["done"] is True
    assert operation["name"].startswith("operations/")
    assert operation["response"]["@type"].endswith("serviceusage.v1.EnableServiceResponse")
    assert operation["response"]["service"] == {
        "name": RUN,
        "config": {"name": "run.googleapis.com", "title": "Cloud Run Admin API"},
        "state": "ENABLED",
        "parent": "projects/481516234200",
    }
    for version in ("v1", "v1beta1"):
        assert running.call("GET", f"/serviceusage/{version}/{operation['name']}").json() == operation
    assert "run.googleapis.com" in enabled(running)


def test_enabling_an_enabled_api_changes_nothing(running):
    running.call("POST", f"{SERVICES}/run.googleapis.com:enable", {})
    repeated = running.call("POST", f"{SERVICES}/run.googleapis.com:enable").json()
    assert repeated["name"] == "operations/noop.DONE_OPERATION"
    assert repeated["response"]["service"]["state"] == "ENABLED"
    assert running.call("GET", f"/serviceusage/v1beta1/{repeated['name']}").json()["done"] is True


def test_a_batch_enables_all_apis_or_none(running):
    valid_apis = ["run.googleapis.com", "iam.googleapis.com"]
    bad = running.call("POST", f"{SERVICES}:batchEnable", {"serviceIds": [*valid_apis, "nope.googleapis.com"]})
    assert message(bad, 403) == "Not found or permission denied for service(s): nope.googleapis.com."
    assert bad.json()["error"]["details"][0]["reason"] == "SERVICE_CONFIG_NOT_FOUND_OR_PERMISSION_DENIED"
    assert len(enabled(running)) == 2
    operation = running.call("POST", f"{SERVICES}:batchEnable", {"serviceIds": valid_apis}).json()
    assert [service["state"] for service in operation["response"]["services"]] == ["ENABLED", "ENABLED"]
    assert set(valid_apis) < set(enabled(running))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, "serviceIds: at least one service must be given."),
        ({"serviceIds": ["run.googleapis.com"] * 21}, "serviceIds: at most 20 services can be enabled at once."),
        ({"serviceIds": "run.googleapis.com"}, "Invalid value at 'service_ids' (TYPE_STRING), \"run.googleapis.com\""),
        ({"services": []}, 'Invalid JSON payload received. Unknown name "services": Cannot find field.'),
    ],
)
def test_a_batch_of_the_wrong_shape_is_refused(running, body, expected):
    assert message(running.call("POST", f"{SERVICES}:batchEnable", body), 400) == expected


def test_disabling_an_api_removes_it_from_the_enabled_ones(running):
    running.enable("run")
    body = {"checkIfServiceHasUsage": "SKIP", "disableDependentServices": True}
    operation = running.call("POST", f"{SERVICES}/run.googleapis.com:disable", body).json()
    assert operation["response"]["service"]["state"] == "DISABLED"
    assert running.call("GET", f"{SERVICES}/run.googleapis.com").json()["state"] == "DISABLED"
    assert "run.googleapis.com" not in enabled(running)
    repeated = running.call("POST", f"{SERVICES}/run.googleapis.com:disable", {}).json()
    assert repeated["name"] == "operations/noop.DONE_OPERATION"


def test_check_if_service_has_usage_is_refused_as_unsupported(running):
    answer = running.call("POST", f"{SERVICES}/run.googleapis.com:disable", {"checkIfServiceHasUsage": "CHECK"})
    expected = (
        "checkIfServiceHasUsage: the local cloud does not support this field yet: usage is not recorded here; use SKIP."
    )
    assert message(answer, 501) == expected


def test_an_unknown_api_is_403_and_an_unknown_operation_404(running):
    expected = "Not found or permission denied for service(s): x.googleapis.com."
    assert message(running.call("GET", f"{SERVICES}/x.googleapis.com"), 403) == expected
    missing = running.call("GET", "/serviceusage/v1/operations/acat.x")
    assert message(missing, 404) == "Resource 'operations/acat.x' was not found."


def test_the_pages_of_a_list_have_every_item_once(running):
    visited, token = [], ""
    for _ in range(100):
        answer = running.call("GET", f"{SERVICES}?pageSize=7&pageToken={token}").json()
        visited += [service["config"]["name"] for service in answer["services"]]
        token = answer.get("nextPageToken", "")
        if not token:
            break
    assert visited == sorted(set(visited))
    assert len(visited) == len(running.cloud.usage.list(running.cloud.projects.get(running.project), None))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("filter=state:BROKEN", "Invalid filter 'state:BROKEN': state:ENABLED and state:DISABLED are supported."),
        ("pageSize=many", "Invalid value at 'page_size' (TYPE_INT32), \"many\""),
        ("pageToken=%25%25", "The page token is invalid."),
        ("pageToken=a", "The page token is invalid."),
        ("fields=services(name", "Invalid field selection: a bracket is not closed."),
        ("fields=services/name)", "Invalid field selection services/name)"),
        ("fields=,name", "Invalid field selection: a name is missing."),
    ],
)
def test_a_query_of_the_wrong_shape_is_refused(running, query, expected):
    assert message(running.call("GET", f"{SERVICES}?{query}"), 400) == expected


@pytest.mark.parametrize("mask", ["services(name,state),nextPageToken", "services/name,services/state"])
def test_every_spelling_of_a_field_mask_is_accepted(running, mask):
    answer = running.call("GET", f"{SERVICES}?filter=state:ENABLED&fields={mask}").json()
    assert [set(service) for service in answer["services"]] == [{"name", "state"}] * 2


def test_enabling_an_api_requires_the_permission(running):
    answer = running.call("POST", f"{SERVICES}/run.googleapis.com:enable", {}, as_="bob@mcpfleet.test")
    assert "Permission 'serviceusage.services.enable' denied" in message(answer, 403)
    assert len(enabled(running)) == 2


def test_the_project_has_the_fields_that_the_provider_reads(running):
    for name in ("mcpfleet-local", "481516234200"):
        project = running.call("GET", f"/crm/v1/projects/{name}").json()
        assert project["projectId"] == "mcpfleet-local"
        assert project["projectNumber"] == "481516234200"
        assert project["lifecycleState"] == "ACTIVE"


def test_a_list_of_projects_has_only_projects_visible_to_the_caller(running):
    assert [project["projectId"] for project in running.call("GET", "/crm/v1/projects").json()["projects"]] == [
        running.project
    ]
    assert running.call("GET", "/crm/v1/projects", as_="bob@mcpfleet.test").json() == {}


def test_a_run_administrator_cannot_change_the_projects_policy(running):
    running.grant("roles/run.admin", "user:ada@mcpfleet.test")
    answer = running.call("POST", f"{PROJECT}:setIamPolicy", {"policy": {}}, as_="ada@mcpfleet.test")
    assert "Permission 'resourcemanager.projects.setIamPolicy' denied" in message(answer, 403)


def test_the_providers_read_modify_write_of_a_projects_policy_works(running):
    running.grant("roles/resourcemanager.projectIamAdmin", "user:ada@mcpfleet.test")
    ada = "ada@mcpfleet.test"
    policy = running.call("POST", f"{PROJECT}:getIamPolicy", {"options": {"requestedPolicyVersion": 3}}, as_=ada).json()
    policy["bindings"].append({"role": "roles/run.viewer", "members": ["user:bob@mcpfleet.test"]})
    body = {"policy": {**policy, "version": 3}, "updateMask": "bindings,etag,auditConfigs"}
    written = running.call("POST", f"{PROJECT}:setIamPolicy", body, as_=ada).json()
    assert {"role": "roles/run.viewer", "members": ["user:bob@mcpfleet.test"]} in written["bindings"]
    stale = running.call("POST", f"{PROJECT}:setIamPolicy", body, as_=ada)
    assert message(stale, 409).startswith("There were concurrent policy changes on projects/mcpfleet-local.")
    assert stale.json()["error"]["status"] == "ABORTED"


def test_a_policy_with_an_unknown_account_gets_the_error_that_the_provider_expects(running):
    running.grant("roles/resourcemanager.projectIamAdmin", "user:ada@mcpfleet.test")
    member = "serviceAccount:ghost@mcpfleet-local.iam.gserviceaccount.com"
    body = {"policy": {"bindings": [{"role": "roles/viewer", "members": [member]}]}}
    answer = running.call("POST", f"{PROJECT}:setIamPolicy", body, as_="ada@mcpfleet.test")
    assert message(answer, 400) == "Service account ghost@mcpfleet-local.iam.gserviceaccount.com does not exist."


def test_a_caller_can_test_its_permissions(running):
    body = {"permissions": ["run.services.create", "storage.objects.nothing"]}
    answer = running.call("POST", f"{PROJECT}:testIamPermissions", body)
    assert answer.json() == {"permissions": ["run.services.create"]}
    assert running.call("POST", f"{PROJECT}:testIamPermissions", body, as_="bob@mcpfleet.test").json() == {}


@pytest.mark.parametrize(
    "permission",
    ["*", "run.*", "run.services.*", "run.services", "", " run.services.get", "resourcemanager.projects.create"],
)
def test_wildcards_and_unrelated_permissions_cannot_be_tested_on_a_project(running, permission):
    body = {"permissions": ["run.services.create", permission]}
    answer = running.call("POST", f"{PROJECT}:testIamPermissions", body)
    assert message(answer, 400) == f"Permission {permission} is not valid for this resource."


def test_billing_is_disabled_and_its_api_must_be_enabled(running):
    path = "/billing/v1/projects/mcpfleet-local/billingInfo"
    assert "Cloud Billing API has not been used" in message(running.call("GET", path), 403)
    running.enable("cloudbilling")
    assert running.call("GET", path).json() == {
        "name": "projects/mcpfleet-local/billingInfo",
        "projectId": "mcpfleet-local",
        "billingAccountName": "",
        "billingEnabled": False,
    }
    assert "resourcemanager.projects.get" in message(running.call("GET", path, as_="bob@mcpfleet.test"), 403)
