"""Tests of permissions, disabled APIs, service accounts, and IAM policies of services."""

from typing import Any

import pytest

pytestmark = pytest.mark.anyio
COMPUTE = "481516234200-compute@developer.gserviceaccount.com"

CALLS = [
    ("POST", "?serviceId=new", "run.services.create"),
    ("GET", "", "run.services.list"),
    ("GET", "/hello", "run.services.get"),
    ("PATCH", "/hello", "run.services.update"),
    ("DELETE", "/hello", "run.services.delete"),
    ("GET", "/hello:getIamPolicy", "run.services.getIamPolicy"),
    ("POST", "/hello:setIamPolicy", "run.services.setIamPolicy"),
    ("GET", "/hello/revisions", "run.revisions.list"),
    ("GET", "/hello/revisions/x", "run.revisions.get"),
    ("DELETE", "/hello/revisions/x", "run.revisions.delete"),
    ("GET", "/run/v2/projects/demo/locations/europe-west1/operations/x", "run.operations.get"),
    ("GET", "/run/v2/projects/demo/locations/europe-west1/operations", "run.operations.list"),
]


@pytest.mark.parametrize(("method", "path", "permission"), CALLS)
async def test_every_method_requires_its_permission_a_token_and_the_api(
    world: Any, body: Any, method: str, path: str, permission: str
):
    payload = body if method in ("POST", "PATCH") else None
    answer = await world.call(method, path, payload, as_="eve@x.org")
    assert answer.status_code == 403
    assert f"Permission '{permission}' denied" in answer.json()["error"]["message"]
    assert (await world.call(method, path, payload, as_="")).status_code == 401
    world.authorizer.apis.clear()
    answer = await world.call(method, path, payload)
    assert (answer.status_code, "run.googleapis.com has not been used" in answer.text) == (403, True)


async def test_the_account_must_exist_and_the_caller_must_have_act_as(world: Any, body: Any):
    body["template"]["serviceAccount"] = "nobody@demo.iam.gserviceaccount.com"
    text = "Permission 'iam.serviceaccounts.actAs' denied on service account {} (or it may not exist)."
    answer = await world.call("POST", "?serviceId=hello", body)
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        403,
        text.format(body["template"]["serviceAccount"]),
    )
    world.policies.set("projects/demo", {"bindings": [{"role": "roles/run.developer", "members": ["user:dev@x.org"]}]})
    account = "mcp-hello@demo.iam.gserviceaccount.com"
    body["template"]["serviceAccount"] = account
    answer = await world.call("POST", "?serviceId=hello", body, as_="dev@x.org")
    assert (answer.status_code, answer.json()["error"]["message"]) == (403, text.format(account))
    binding = {"role": "roles/iam.serviceAccountUser", "members": ["user:dev@x.org"]}
    world.policies.set(f"projects/demo/serviceAccounts/{account}", {"bindings": [binding]})
    await world.ok("POST", "?serviceId=hello", body, as_="dev@x.org")


async def test_without_a_default_account_a_service_must_name_one(world: Any, body: Any):
    world.accounts.remove(COMPUTE)
    answer = await world.call("POST", "?serviceId=hello", body)
    assert (answer.status_code, COMPUTE in answer.text) == (403, True)


async def test_policies_follow_googles_read_modify_write(world: Any, body: Any):
    assert (await world.call("GET", "/hello:getIamPolicy")).status_code == 404
    assert (await world.call("POST", "/hello:setIamPolicy", {"policy": {}})).status_code == 404
    await world.create(body)
    policy = await world.ok("GET", "/hello:getIamPolicy")
    updated = {"bindings": [{"role": "roles/run.invoker", "members": ["user:ann@x.org"]}], "etag": policy["etag"]}
    await world.ok("POST", "/hello:setIamPolicy", {"policy": {**updated, "version": 3}})
    stored = await world.ok("GET", "/hello:getIamPolicy")
    assert stored["bindings"] == updated["bindings"]
    assert (await world.call("POST", "/hello:setIamPolicy", {"policy": updated})).status_code == 409
    await world.ok("POST", "/hello:setIamPolicy", {"policy": {"etag": stored["etag"], "version": 3}})
    assert "bindings" not in await world.ok("GET", "/hello:getIamPolicy")
    for wrong in ({}, {"policy": {"bindings": [{"rolle": "x"}]}}, {"polcy": {}}, []):
        assert (await world.call("POST", "/hello:setIamPolicy", wrong)).status_code == 400, wrong


async def test_test_iam_permissions_returns_the_callers_permissions(world: Any, body: Any):
    await world.create(body)
    request_body = {"permissions": ["run.services.get", "run.routes.invoke"]}
    assert await world.ok("POST", "/hello:testIamPermissions", request_body) == request_body
    assert await world.ok("POST", "/hello:testIamPermissions", request_body, as_="eve@x.org") == {}
