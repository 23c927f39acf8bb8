"""Services over HTTP: documents, defaults, changes, deletion, operations, permissions."""

import copy
from typing import Any

import pytest

pytestmark = pytest.mark.anyio
NAME = "projects/demo/locations/europe-west1/services/hello"
COMPUTE = "481516234200-compute@developer.gserviceaccount.com"
# What the provider's schema calls output only: it never sends these back.
OUTPUT_ONLY = [
    "name",
    "uid",
    "generation",
    "observedGeneration",
    "createTime",
    "updateTime",
    "creator",
    "lastModifier",
    "etag",
    "latestReadyRevision",
    "latestCreatedRevision",
    "conditions",
    "terminalCondition",
    "reconciling",
    "trafficStatuses",
    "uri",
    "urls",
]


def echo(document: dict[str, Any]) -> dict[str, Any]:
    """The PATCH body that the provider makes of what it read: everything but the output-only fields."""
    return {name: copy.deepcopy(value) for name, value in document.items() if name not in OUTPUT_ONLY}


async def test_a_created_service_has_every_field_of_googles_document(world: Any, wire_body: Any):
    service = await world.create(wire_body)
    assert [field for field in OUTPUT_ONLY if field not in service] == []
    assert (service["name"], service["generation"], service["observedGeneration"]) == (NAME, "1", "1")
    assert service["creator"] == service["lastModifier"] == "ann@x.org"
    assert service["latestReadyRevision"] == service["latestCreatedRevision"]
    assert service["latestReadyRevision"].startswith(f"{NAME}/revisions/hello-00001-")
    assert service["terminalCondition"]["state"] == "CONDITION_SUCCEEDED"
    assert {condition["type"] for condition in service["conditions"]} == {"RoutesReady", "ConfigurationsReady"}
    assert service["reconciling"] is False
    assert service["trafficStatuses"] == [{"type": "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST", "percent": 100}]
    assert service["urls"] == [service["uri"], "https://hello-481516234200.europe-west1.run.app"]


async def test_defaults_are_set_only_for_fields_that_the_provider_computes(world: Any, body: Any):
    service = echo(await world.create(body))
    assert service == {
        "ingress": "INGRESS_TRAFFIC_ALL",
        "launchStage": "GA",
        "traffic": [{"type": "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST", "percent": 100}],
        "template": {
            "serviceAccount": COMPUTE,
            "timeout": "300s",
            "maxInstanceRequestConcurrency": 80,
            "scaling": {"maxInstanceCount": 100},
            "containers": [
                {
                    "image": "docker.io/acme/hello:1",
                    "ports": [{"name": "http1", "containerPort": 8080}],
                    "resources": {"limits": {"cpu": "1000m", "memory": "512Mi"}, "cpuIdle": True},
                    "startupProbe": {
                        "timeoutSeconds": 240,
                        "periodSeconds": 240,
                        "failureThreshold": 1,
                        "tcpSocket": {"port": 8080},
                    },
                }
            ],
        },
    }


async def test_resources_without_cpu_idle_stay_without_it(world: Any, body: Any):
    body["template"]["containers"][0]["resources"] = {"limits": {"memory": "1Gi"}}
    service = await world.create(body)
    expected = {"limits": {"memory": "1Gi", "cpu": "1000m"}}
    assert service["template"]["containers"][0]["resources"] == expected


async def test_a_fraction_of_a_cpu_has_a_concurrency_of_one(world: Any, body: Any):
    body["template"]["containers"][0]["resources"] = {"limits": {"cpu": "500m"}, "cpuIdle": True}
    assert (await world.create(body))["template"]["maxInstanceRequestConcurrency"] == 1


async def test_a_service_is_returned_as_sent_with_the_ports_of_probes(world: Any, wire_body: Any):
    service = await world.create(wire_body)
    container = service["template"]["containers"][0]
    assert container["env"] == wire_body["template"]["containers"][0]["env"]
    assert container["startupProbe"] == {
        "failureThreshold": 3,
        "periodSeconds": 10,
        "timeoutSeconds": 1,
        "httpGet": {"path": "/healthz", "port": 8080},
    }
    assert service["labels"] == wire_body["labels"]
    assert {"name", "command", "args", "livenessProbe"}.isdisjoint(container)
    assert "executionEnvironment" not in service["template"]


async def test_sending_the_service_back_changes_nothing(world: Any, wire_body: Any):
    original = await world.create(wire_body)
    wire_body["template"]["containers"][0]["env"].reverse()  # a set for the provider
    for patch in (echo(original), wire_body):
        assert (await world.patch(patch))["done"] is True
        after = await world.ok("GET", "/hello")
        assert after == original
    assert await world.revisions() == {"00001": "ready"}
    assert world.plane.count("start") == 1


async def test_a_patch_replaces_and_absent_fields_return_to_their_defaults(world: Any, wire_body: Any, body: Any):
    wire_body["invokerIamDisabled"] = True
    assert (await world.create(wire_body))["invokerIamDisabled"] is True
    del wire_body["invokerIamDisabled"]
    await world.patch(wire_body)
    service = await world.ok("GET", "/hello")
    assert "invokerIamDisabled" not in service
    await world.patch(body)
    service = await world.ok("GET", "/hello")
    assert service["template"]["serviceAccount"] == COMPUTE
    assert {"labels", "customAudiences"}.isdisjoint(service)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {"x": "y"}},
        {"description": "new"},
        {"customAudiences": ["mcp://other"]},
        {"invokerIamDisabled": True},
        {"ingress": "INGRESS_TRAFFIC_INTERNAL_ONLY"},
        {"annotations": {"acme.org/owner": "me"}},
        {"client": "pulumi", "clientVersion": "1"},
    ],
    ids=str,
)
async def test_changes_outside_the_template_create_no_revision(world: Any, body: Any, change: Any):
    original = await world.create(body)
    await world.patch({**body, **change})
    after = await world.ok("GET", "/hello")
    assert {name: after[name] for name in change} == change
    assert after["latestReadyRevision"] == original["latestReadyRevision"]
    assert (after["generation"], after["observedGeneration"], after["uid"]) == ("2", "2", original["uid"])
    assert after["etag"] != original["etag"]
    assert world.plane.count("start") == 1


async def test_service_level_scaling_reaches_the_instances_without_a_new_revision(world: Any, body: Any):
    await world.create(body)
    done = await world.patch({**body, "scaling": {"minInstanceCount": 2, "maxInstanceCount": 5}})
    assert "error" not in done
    (serving,) = world.plane.routed.values()
    assert (serving.min_instances, serving.max_instances) == (2, 5)
    assert await world.revisions() == {"00001": "ready"}


async def test_a_new_image_creates_a_revision_and_removes_the_old_one(world: Any, body: Any):
    await world.create(body)
    body["template"]["containers"][0]["image"] = "docker.io/acme/hello:2"
    await world.patch(body)
    service = await world.ok("GET", "/hello")
    assert service["latestReadyRevision"].startswith(f"{NAME}/revisions/hello-00002-")
    assert await world.revisions() == {"00001": "retired", "00002": "ready"}
    assert list(world.plane.running) == [service["latestReadyRevision"].rpartition("/")[2]]


async def test_a_revision_runs_as_configured_with_a_pinned_image(world: Any, wire_body: Any):
    wire_body["template"]["containers"][0] |= {
        "command": ["/bin/x"],
        "args": ["--a"],
        "ports": [{"containerPort": 5000}],
    }
    wire_body["template"] |= {"timeout": "60s", "maxInstanceRequestConcurrency": 7}
    await world.create(wire_body)
    (run,) = world.plane.routed.values()
    assert run.main.image == "docker.io/acme/hello@sha256:" + "a" * 64
    assert (run.main.command, run.main.args, run.main.port) == (("/bin/x",), ("--a",), 5000)
    assert run.main.env == (("S", ""), ("A", "b"))
    assert (run.main.cpu, run.main.memory_bytes, run.timeout, run.concurrency) == (1.0, 512 * 1024**2, 60, 7)
    assert (run.min_instances, run.max_instances) == (0, 3)
    assert (run.main.startup_probe.http_path, run.main.startup_probe.port, run.main.startup_probe.period) == (
        "/healthz",
        5000,
        10,
    )
    assert run.service_account == "mcp-hello@demo.iam.gserviceaccount.com"


async def test_an_existing_name_is_refused_with_googles_message(world: Any, body: Any):
    await world.create(body)
    answer = await world.call("POST", "?serviceId=hello", body)
    assert (answer.status_code, answer.json()["error"]["message"]) == (409, "Resource 'hello' already exists.")


async def test_an_operation_can_be_read_listed_and_waited_for(world: Any, body: Any):
    release = world.plane.hold("start")
    operation = await world.begin(body)
    path = f"/run/v2/{operation['name']}"
    assert operation["done"] is False
    assert operation["metadata"]["@type"].endswith("google.cloud.run.v2.Service")
    assert (await world.ok("POST", f"{path}:wait", {"timeout": "0s"}))["done"] is False
    assert (await world.ok("GET", "/hello"))["reconciling"] is True
    release.set()
    done = await world.ok("POST", f"{path}:wait", {})
    assert done["response"] == {
        "@type": "type.googleapis.com/google.cloud.run.v2.Service",
        **await world.ok("GET", "/hello"),
    }
    assert await world.ok("GET", path) == done
    assert (await world.ok("GET", path.rpartition("/")[0]))["operations"] == [done]


async def test_delete_removes_the_service_its_revisions_and_its_policy(world: Any, body: Any):
    await world.create(body)
    binding = {"role": "roles/run.invoker", "members": ["allUsers"]}
    await world.ok("POST", "/hello:setIamPolicy", {"policy": {"bindings": [binding]}})
    done = await world.finish(await world.ok("DELETE", "/hello"))
    assert done["response"]["deleteTime"]
    assert (await world.call("GET", "/hello")).status_code == 404
    assert world.plane.running == {}
    assert {"run.service", "run.revision"}.isdisjoint(world.store.count_by_kind())
    recreated = await world.create(body)
    assert recreated["generation"] == "1"
    assert "bindings" not in await world.ok("GET", "/hello:getIamPolicy")


async def test_an_outdated_etag_is_a_conflict(world: Any, body: Any):
    first = await world.create(body)
    await world.patch({**body, "description": "x", "etag": first["etag"]})
    for answer in (
        await world.call("DELETE", "/hello", params={"etag": first["etag"]}),
        await world.call("PATCH", "/hello", {**body, "etag": first["etag"]}),
    ):
        assert answer.status_code == 409
        assert "Conflict for resource 'hello'" in answer.json()["error"]["message"]
    now = await world.ok("GET", "/hello")
    await world.finish(await world.ok("DELETE", "/hello", params={"etag": now["etag"]}))
    assert (await world.call("GET", "/hello")).status_code == 404


async def test_validate_only_does_nothing(world: Any, body: Any):
    done = await world.ok("POST", "?serviceId=hello&validateOnly=true", body)
    assert (done["done"], done["response"]["template"]["timeout"]) == (True, "300s")
    assert (await world.call("GET", "/hello")).status_code == 404
    original = await world.create(body)
    await world.ok("PATCH", "/hello?validateOnly=true", {**body, "description": "x"})
    await world.ok("DELETE", "/hello?validateOnly=true")
    assert await world.ok("GET", "/hello") == original


async def test_a_patch_of_a_missing_service_is_404_unless_allow_missing(world: Any, body: Any):
    answer = await world.call("PATCH", "/hello", body)
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == (
        "Resource 'hello' of kind 'SERVICE' in region 'europe-west1' in project 'demo' does not exist."
    )
    done = await world.finish(await world.ok("PATCH", "/hello?allowMissing=true", {**body, "name": NAME}))
    assert done["response"]["name"] == NAME


async def test_an_update_mask_changes_only_its_fields(world: Any, wire_body: Any):
    await world.create(wire_body)
    patch = {"description": "d", "labels": {"no": "no"}, "template": {"timeout": "9s"}}
    await world.patch(patch, query="?updateMask=description,template.timeout")
    service = await world.ok("GET", "/hello")
    assert (service["description"], service["template"]["timeout"]) == ("d", "9s")
    assert service["labels"] == wire_body["labels"]
    assert service["template"]["containers"][0]["image"] == "docker.io/acme/hello"
    for mask in ("nothing", "uri", "description.x", "template.containers.image"):
        assert (await world.call("PATCH", f"/hello?updateMask={mask}", patch)).status_code == 400, mask


async def test_force_new_revision_creates_a_revision_of_the_same_template(world: Any, body: Any):
    await world.create(body)
    await world.patch(body, query="?forceNewRevision=true")
    assert await world.revisions() == {"00001": "retired", "00002": "ready"}


async def test_a_named_revision_keeps_its_name_and_a_duplicate_is_refused(world: Any, body: Any):
    body["template"]["revision"] = "hello-v1"
    assert (await world.create(body))["latestReadyRevision"].endswith("/hello-v1")
    body["template"]["timeout"] = "5s"
    answer = await world.call("PATCH", "/hello", body)
    assert answer.status_code == 409
    assert "Revision named 'hello-v1' with different configuration" in answer.text
    assert (await world.ok("GET", "/hello"))["generation"] == "1"
    body["template"]["revision"] = "other-v1"
    answer = await world.call("PATCH", "/hello", body)
    assert "must be prefixed by the name of the enclosing Service" in answer.json()["error"]["message"]


async def test_lists_have_pages(world: Any, body: Any):
    for name in ("b", "a", "c"):
        await world.create(body, name)
    first = await world.ok("GET", "?pageSize=2")
    assert [service["name"][-1] for service in first["services"]] == ["a", "b"]
    second = await world.ok("GET", "", params={"pageSize": 2, "pageToken": first["nextPageToken"]})
    assert [service["name"][-1] for service in second["services"]] == ["c"]
    assert "nextPageToken" not in second
    assert (await world.call("GET", "?pageToken=rubbish")).status_code == 400
    assert (await world.call("GET", "?pageSize=-1")).status_code == 400
    assert await world.ok("GET", "/run/v2/projects/demo/locations/us-east1/services") == {}


async def test_revisions_are_read_listed_and_deleted_after_they_serve(world: Any, body: Any):
    await world.create(body)
    await world.patch({"template": {**body["template"], "timeout": "10s"}})
    await world.create(body, "other")
    names = [
        revision["name"].rpartition("/")[2] for revision in (await world.ok("GET", "/hello/revisions"))["revisions"]
    ]
    assert [name[:11] for name in names] == ["hello-00002", "hello-00001"]
    assert len((await world.ok("GET", "/-/revisions"))["revisions"]) == 3
    newest = await world.ok("GET", f"/hello/revisions/{names[0]}")
    assert (newest["service"], newest["timeout"], newest["conditions"][0]["type"]) == ("hello", "10s", "Ready")
    assert newest["containers"][0]["image"].endswith("a" * 64)
    assert newest["containerStatuses"][0]["imageDigest"] == newest["containers"][0]["image"]
    assert newest["scalingStatus"] == {"desiredMinInstanceCount": 0}
    answer = await world.call("DELETE", f"/hello/revisions/{names[0]}")
    assert answer.json()["error"]["status"] == "FAILED_PRECONDITION"
    assert "cannot be directly deleted because it is actively serving" in answer.text
    assert (await world.ok("DELETE", f"/hello/revisions/{names[1]}"))["done"] is True
    assert (await world.call("GET", f"/hello/revisions/{names[1]}")).status_code == 404
    assert (await world.call("GET", "/nobody/revisions")).status_code == 404


@pytest.mark.parametrize(
    ("location", "status", "text"),
    [
        ("-", 400, "Location '-' is not allowed"),
        ("us-central99", 403, "Permission denied on 'locations/us-central99' (or it may not exist)."),
        ("global", 501, "multiRegionSettings"),
    ],
)
async def test_invalid_locations_are_refused(world: Any, body: Any, location: str, status: int, text: str):
    path = f"/run/v2/projects/demo/locations/{location}/services"
    for answer in (await world.call("GET", path), await world.call("POST", f"{path}?serviceId=hello", body)):
        assert (answer.status_code, text in answer.json()["error"]["message"]) == (status, True), answer.text


async def test_a_project_number_is_accepted_and_a_dash_is_not(world: Any, body: Any):
    await world.create(body)
    path = "/run/v2/projects/{}/locations/europe-west1/services/hello"
    assert (await world.ok("GET", path.format(481516234200)))["name"] == NAME
    assert (await world.call("GET", path.format("-"))).status_code == 400
    assert (await world.call("GET", path.format("stranger"))).status_code == 403


async def test_the_ingress_accepts_every_audience_of_a_service(world: Any, wire_body: Any):
    service = await world.create(wire_body)
    endpoint = world.model.find_endpoint(NAME)
    url, deterministic = service["urls"]
    assert endpoint.audiences == {url, f"{url}/", deterministic, f"{deterministic}/", "mcp://hello"}
    assert endpoint.hosts == {"hello-481516234200.europe-west1.run.app"}
    assert (endpoint.ingress, endpoint.invoker_iam_disabled) == ("INGRESS_TRAFFIC_ALL", False)
    changed = {**wire_body, "invokerIamDisabled": True, "ingress": "INGRESS_TRAFFIC_INTERNAL_ONLY"}
    await world.patch(changed)
    endpoint = world.model.find_endpoint(NAME)
    assert (endpoint.ingress, endpoint.invoker_iam_disabled) == ("INGRESS_TRAFFIC_INTERNAL_ONLY", True)
    assert world.model.endpoints() == [endpoint]
    assert world.model.find_endpoint(NAME + "x") is None


async def test_a_service_whose_port_is_in_use_is_still_readable(world: Any, body: Any):
    await world.create(body)
    world.plane.refusals["address"] = "port 20001 is taken by another program"
    service = await world.ok("GET", "/hello")
    assert "uri" not in service
    assert world.model.find_endpoint(NAME).hosts
    done = await world.patch({**body, "template": {**body["template"], "timeout": "8s"}})
    assert "taken by another program" in done["error"]["message"]


async def test_inventory_and_workloads_list_running_services(world: Any, body: Any):
    await world.create(body)
    (service,) = world.model.inventory()
    assert (service["name"], service["state"], [revision["state"] for revision in service["revisions"]]) == (
        NAME,
        "CONDITION_SUCCEEDED",
        ["ready"],
    )
    assert world.model.workloads() == list(world.plane.running.values())
