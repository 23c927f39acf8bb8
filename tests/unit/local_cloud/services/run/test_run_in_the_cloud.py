"""Cloud Run in the whole cloud: the real authorizer, the real policies, one restart."""

from typing import Any

SERVICES = "/run/v2/projects/{}/locations/europe-west1/services"
BODY = {"template": {"containers": [{"image": "docker.io/acme/hello:1"}]}}


def deployed(running: Any, body: Any = BODY) -> Any:
    """The finished operation of a deployment by the deployer."""
    answer = running.call("POST", SERVICES.format(running.project), body, params={"serviceId": "hello"})
    assert answer.status_code == 200, answer.text
    waited = running.call("POST", f"/run/v2/{answer.json()['name']}:wait", {})
    assert waited.json()["done"] is True
    return waited.json()


def test_the_api_must_be_enabled_first(running: Any):
    answer = running.call("POST", SERVICES.format(running.project), BODY, params={"serviceId": "hello"})
    assert answer.status_code == 403
    assert answer.json()["error"]["details"][0]["reason"] == "SERVICE_DISABLED"


def test_the_deployer_can_deploy_and_an_unknown_account_cannot(running: Any):
    running.enable("run")
    service = deployed(running)["response"]
    assert service["creator"] == f"deployer@{running.project}.iam.gserviceaccount.com"
    assert list(running.plane.routed) == [service["name"]]
    path = f"/run/v2/{service['name']}"
    assert running.call("GET", path).json()["uri"] == service["uri"]
    refused = running.call("GET", path, as_="bob@mcpfleet.test")
    assert refused.status_code == 403
    assert "Permission 'run.services.get' denied on resource" in refused.json()["error"]["message"]
    assert running.client.get(path).status_code == 401
    assert running.cloud.inventory()["services"][0]["name"] == service["name"]


def test_a_service_exists_again_after_a_restart_of_the_cloud(start: Any, plane: Any):
    with start() as running:
        running.enable("run")
        original = deployed(running)["response"]
    plane.running.clear()
    plane.routed.clear()
    with start() as running:
        after = running.call("GET", f"/run/v2/{original['name']}").json()
    assert {**after, "@type": original["@type"]} == original
    assert list(plane.routed) == [original["name"]]
    assert len(plane.running) == 1
