"""Operations go when they have been finished for an hour, and all of them when `down` has its proof made."""

from contextlib import ExitStack
from typing import Any

import pytest

from mcpfleet_local_cloud.rest.operations import MAX_FINISHED, RETENTION_SECONDS, Operations
from mcpfleet_local_cloud.services.cloudbuild.model import KIND as BUILD
from mcpfleet_local_cloud.state.store import Store

SERVICES = "/run/v2/projects/mcpfleet-local/locations/europe-west1/services"
VALUE = "a-value-that-nobody-may-find-later"


def wish(value: str = VALUE) -> Any:
    return {"template": {"containers": [{"image": "docker.io/acme/hello:1", "env": [{"name": "A", "value": value}]}]}}


def finished(running: Any, answer: Any) -> str:
    """The name of the operation that *answer* begins, once it is done."""
    assert answer.status_code == 200, answer.text
    name = answer.json()["name"]
    assert running.call("POST", f"/run/v2/{name}:wait", {}).json()["done"] is True
    return name


def on_disk(running: Any) -> bytes:
    return b"".join(path.read_bytes() for path in running.cloud.settings.state.glob("cloud.db*"))


def forget(running: Any) -> None:
    admin = {"Authorization": f"Bearer {running.cloud.state.admin_token}"}
    assert running.client.post("/_local/forget", headers=admin).json() == {}


@pytest.fixture
def deployed(running: Any) -> Any:
    running.enable("run")
    finished(running, running.call("POST", SERVICES, wish(), params={"serviceId": "hello"}))
    return running


def test_a_finished_operation_can_be_polled_for_an_hour_across_restarts(start: Any, clock: Any):
    with start() as first:
        first.enable("run")
        name = finished(first, first.call("POST", SERVICES, wish(), params={"serviceId": "hello"}))
        clock.pass_by(RETENTION_SECONDS - 10)
    with start() as second:
        operation = second.call("GET", f"/run/v2/{name}").json()
        assert operation["done"] is True
        assert operation.keys() <= {"name", "metadata", "done", "response"}
        clock.pass_by(20)
        assert second.call("GET", f"/run/v2/{name}").status_code == 404
        assert second.call("GET", SERVICES.replace("services", "operations")).json().get("operations", []) == []


def test_older_finished_operations_are_removed_at_the_next_start(start: Any, clock: Any):
    with start() as first:
        first.enable("run")
        finished(first, first.call("POST", SERVICES, wish(), params={"serviceId": "hello"}))
        assert first.cloud.inventory()["documents"]["operation"] >= 1
    clock.pass_by(RETENTION_SECONDS + 1)
    with start() as second:
        assert second.cloud.inventory()["operations"] == []


def test_the_number_of_finished_operations_is_limited_and_the_oldest_are_removed():
    operations = Operations(Store())
    names = [
        operations.add_finished("projects/p/locations/l", {"number": number})["name"]
        for number in range(MAX_FINISHED + 20)
    ]
    assert sorted(operation["name"] for operation in operations.list("projects/p/locations/l")) == sorted(names[20:])


def test_finished_operations_without_an_end_time_are_removed_at_the_next_start(start: Any):
    with start() as first:
        old = {"name": "projects/p/locations/l/operations/x", "metadata": {}, "done": True, "response": {}}
        first.cloud.store.put("operation", old["name"], old)
    with start() as second:
        assert second.cloud.operations.find(old["name"]) is None


def test_a_failed_deletion_can_be_repeated_after_its_operation_expired(deployed: Any, clock: Any):
    async def fails(_service: str) -> None:
        raise OSError("no engine")

    works, deployed.plane.remove = deployed.plane.remove, fails
    first = finished(deployed, deployed.call("DELETE", f"{SERVICES}/hello"))
    assert "error" in deployed.call("GET", f"/run/v2/{first}").json()
    clock.pass_by(RETENTION_SECONDS + 1)
    deployed.plane.remove = works
    second = finished(deployed, deployed.call("DELETE", f"{SERVICES}/hello"))
    assert "response" in deployed.call("GET", f"/run/v2/{second}").json()
    assert deployed.call("GET", f"{SERVICES}/hello").status_code == 404


def test_an_environment_value_leaves_the_file_with_its_last_record(deployed: Any):
    assert VALUE.encode() in on_disk(deployed)
    finished(deployed, deployed.call("DELETE", f"{SERVICES}/hello"))
    assert deployed.cloud.inventory()["operations"] != []
    forget(deployed)
    assert deployed.cloud.inventory()["operations"] == []
    assert VALUE.encode() not in on_disk(deployed)


def test_a_reset_leaves_no_value_in_the_file(deployed: Any):
    admin = {"Authorization": f"Bearer {deployed.cloud.state.admin_token}"}
    assert deployed.client.post("/_local/reset", headers=admin).json() == {}
    assert VALUE.encode() not in on_disk(deployed)


def test_unfinished_operations_are_not_removed(deployed: Any):
    with ExitStack() as stack:
        unfinished = {"name": "projects/p/locations/l/operations/x", "metadata": {}, "done": False}
        deployed.cloud.store.put("operation", unfinished["name"], unfinished)
        stack.callback(deployed.cloud.store.delete, "operation", unfinished["name"])
        forget(deployed)
        assert deployed.cloud.inventory()["operations"] == [unfinished["name"]]
    assert deployed.call("GET", f"{SERVICES}/hello").status_code == 200


def test_finished_builds_and_their_logs_are_removed(running: Any):
    log = running.cloud.settings.state / "builds" / "b1.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text("a line\n")
    for build, status in (("b1", "FAILURE"), ("b2", "WORKING")):
        running.cloud.store.put(BUILD, f"projects/p/locations/l/builds/{build}", {"id": build, "status": status})
    forget(running)
    assert [name for name, _ in running.cloud.store.list(BUILD)] == ["projects/p/locations/l/builds/b2"]
    assert not log.exists()
