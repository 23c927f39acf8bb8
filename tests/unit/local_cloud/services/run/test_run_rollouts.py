"""Rollouts that fail, hang, are overtaken, or are killed at any moment."""

import asyncio
from typing import Any

import pytest

pytestmark = pytest.mark.anyio
NAME = "projects/demo/locations/europe-west1/services/hello"
PATIENCE = 5
NOT_READY = (
    "Revision 'hello-00002-abc' is not ready and cannot serve traffic. The user-provided container failed to start and "
    "listen on the port defined provided by the PORT=8080 environment variable within the allocated timeout."
)


def changed(body: dict[str, Any], timeout: str) -> dict[str, Any]:
    """Return the same service with another template."""
    return {**body, "template": {**body["template"], "timeout": timeout}}


async def reached(world: Any, step: str) -> None:
    async with asyncio.timeout(PATIENCE):
        await world.plane.reached[step].wait()


async def test_a_revision_that_never_listens_fails_and_the_previous_one_keeps_serving(world: Any, body: Any):
    first = await world.create(body)
    world.plane.refusals["start"] = NOT_READY
    done = await world.patch(changed(body, "10s"))
    assert done["error"] == {"code": 9, "message": NOT_READY}
    service = await world.ok("GET", "/hello")
    assert service["latestReadyRevision"] == first["latestReadyRevision"]
    assert "/hello-00002-" in service["latestCreatedRevision"]
    assert (service["generation"], service["observedGeneration"], service["reconciling"]) == ("2", "1", False)
    terminal = service["terminalCondition"]
    assert (terminal["state"], terminal["reason"], terminal["message"]) == (
        "CONDITION_FAILED",
        "REVISION_FAILED",
        NOT_READY,
    )
    states = {condition["type"]: condition["state"] for condition in service["conditions"]}
    assert states == {"RoutesReady": "CONDITION_SUCCEEDED", "ConfigurationsReady": "CONDITION_FAILED"}
    failed = await world.ok("GET", f"/run/v2/{service['latestCreatedRevision']}")
    assert failed["conditions"][0]["revisionReason"] == "HEALTH_CHECK_CONTAINER_ERROR"
    assert [f"{NAME}/revisions/{name}" for name in world.plane.running] == [first["latestReadyRevision"]]


async def test_after_a_failure_the_same_patch_creates_another_revision(world: Any, body: Any):
    await world.create(body)
    world.plane.refusals["start"] = NOT_READY
    await world.patch(changed(body, "10s"))
    del world.plane.refusals["start"]
    assert "error" not in await world.patch(changed(body, "10s"))
    assert await world.revisions() == {"00001": "retired", "00002": "failed", "00003": "ready"}
    assert (await world.ok("GET", "/hello"))["terminalCondition"]["state"] == "CONDITION_SUCCEEDED"


async def test_a_missing_image_is_the_revisions_reason(world: Any, body: Any):
    text = "Revision 'hello-00001-abc' is not ready and cannot serve traffic. Image 'docker.io/acme/hello:1' not found."
    world.plane.refusals["resolve"] = text
    done = await world.finish(await world.begin(body))
    assert done["error"] == {"code": 9, "message": text}
    service = await world.ok("GET", "/hello")
    assert {"latestReadyRevision", "observedGeneration", "trafficStatuses"}.isdisjoint(service)
    revision = await world.ok("GET", f"/run/v2/{service['latestCreatedRevision']}")
    assert revision["conditions"][0]["reason"] == "CONTAINER_MISSING"
    assert world.plane.count("start") == 0
    await world.finish(await world.ok("DELETE", "/hello"))


async def test_a_data_plane_failure_ends_the_operation_and_the_next_patch_works(world: Any, body: Any):
    world.plane.broken["start"] = OSError("docker is gone")
    done = await world.finish(await world.begin(body))
    assert done["error"]["code"] == 13
    service = await world.ok("GET", "/hello")
    assert (service["reconciling"], service["terminalCondition"]["state"]) == (False, "CONDITION_FAILED")
    assert "docker is gone" in service["terminalCondition"]["message"]
    world.plane.broken.clear()
    assert "error" not in await world.patch(body)


async def test_a_newer_template_overtakes_a_rollout(world: Any, body: Any):
    await world.create(body)
    world.plane.reached["start"].clear()
    world.plane.hold("start")
    slow = await world.ok("PATCH", "/hello", changed(body, "10s"))
    await reached(world, "start")
    world.plane.holds.clear()
    done = await world.patch(changed(body, "20s"))
    overtaken = await world.finish(slow)
    assert overtaken["error"]["code"] == 10
    assert "Generation 2 of service 'hello' was superseded" in overtaken["error"]["message"]
    assert done["response"]["template"]["timeout"] == "20s"
    assert await world.revisions() == {"00001": "retired", "00002": "retired", "00003": "ready"}
    assert [revision.timeout for revision in world.plane.running.values()] == [20]


async def test_an_overtaken_revision_is_removed_even_if_the_newer_one_fails(world: Any, body: Any):
    await world.create(body)
    world.plane.reached["start"].clear()
    world.plane.hold("start")
    await world.ok("PATCH", "/hello", changed(body, "10s"))
    await reached(world, "start")
    world.plane.holds.clear()
    world.plane.refusals["start"] = NOT_READY
    done = await world.patch(changed(body, "20s"))
    assert done["error"]["message"] == NOT_READY
    assert await world.revisions() == {"00001": "ready", "00002": "retired", "00003": "failed"}
    assert [revision.timeout for revision in world.plane.running.values()] == [300]


async def test_a_recreated_service_runs_under_the_same_revision_name(world: Any, body: Any):
    body["template"]["revision"] = "hello-v1"
    await world.create(body)
    await world.finish(await world.ok("DELETE", "/hello"))
    await world.create(body)
    assert list(world.plane.running) == ["hello-v1"]
    assert list(world.plane.routed) == [NAME]


async def test_a_label_changed_during_a_rollout_shares_its_revision_and_its_outcome(world: Any, body: Any):
    release = world.plane.hold("start")
    first = await world.begin(body)
    await reached(world, "start")
    second = await world.ok("PATCH", "/hello", {**body, "labels": {"a": "b"}})
    release.set()
    for operation in (first, second):
        done = await world.finish(operation)
        assert done["response"]["generation"] == "2"
        assert done["response"]["labels"] == {"a": "b"}
    assert await world.revisions() == {"00001": "ready"}


async def test_the_same_patch_during_its_rollout_is_the_same_operation(world: Any, body: Any):
    release = world.plane.hold("start")
    operation = await world.begin(body)
    assert (await world.ok("PATCH", "/hello", body))["name"] == operation["name"]
    release.set()
    assert "response" in await world.finish(operation)


async def test_concurrent_patches_end_with_the_newest(world: Any, body: Any):
    operations = [await world.begin(body)]
    operations += [await world.ok("PATCH", "/hello", changed(body, f"{n}s")) for n in range(1, 9)]
    outcomes = [await world.finish(operation) for operation in operations]
    assert all(outcome["error"]["code"] == 10 for outcome in outcomes[:-1])
    assert outcomes[-1]["response"]["template"]["timeout"] == "8s"
    await world.model.wait_drained()
    assert [revision.timeout for revision in world.plane.running.values()] == [8]
    assert set((await world.revisions()).values()) == {"retired", "ready"}


async def test_a_service_can_be_deleted_during_its_rollout(world: Any, body: Any):
    world.plane.hold("start")
    creation = await world.begin(body)
    await reached(world, "start")
    removal = world.plane.hold("remove")
    deletion = await world.ok("DELETE", "/hello")
    await reached(world, "remove")
    assert world.model.find_endpoint(NAME) is None
    assert (await world.ok("DELETE", "/hello"))["name"] == deletion["name"]
    assert (await world.call("PATCH", "/hello", changed(body, "9s"))).status_code == 409
    assert (await world.call("POST", "?serviceId=hello", body)).status_code == 409
    removal.set()
    assert "response" in await world.finish(deletion)
    assert (await world.finish(creation))["error"]["code"] == 10
    assert (world.plane.running, world.model.inventory()) == ({}, [])


async def test_a_failed_deletion_can_be_repeated(world: Any, body: Any):
    await world.create(body)
    world.plane.broken["remove"] = OSError("docker is gone")
    assert (await world.finish(await world.ok("DELETE", "/hello")))["error"]["code"] == 13
    world.plane.broken.clear()
    assert "response" in await world.finish(await world.ok("DELETE", "/hello"))
    assert (await world.call("GET", "/hello")).status_code == 404


async def test_an_operation_does_not_wait_for_requests_of_the_old_revision(world: Any, body: Any):
    await world.create(body)
    world.plane.hold("retire")
    done = await world.finish(await world.ok("PATCH", "/hello", changed(body, "9s")))
    assert "response" in done
    await reached(world, "retire")
    assert await world.revisions() == {"00001": "retiring", "00002": "ready"}
    assert "response" in await world.finish(await world.ok("DELETE", "/hello"))  # nor does deletion
    assert world.plane.running == {}


async def test_a_failed_scaling_is_retried_with_the_next_patch(world: Any, body: Any):
    await world.create(body)
    world.plane.refusals["start"] = "Quota"
    scaled = {**body, "scaling": {"minInstanceCount": 2}}
    assert (await world.patch(scaled))["error"]["message"] == "Quota"
    del world.plane.refusals["start"]
    assert "error" not in await world.patch(scaled)
    assert await world.revisions() == {"00001": "ready"}
    assert [revision.min_instances for revision in world.plane.routed.values()] == [2]
    world.plane.refusals["start"] = "Quota"
    await world.patch(body)
    del world.plane.refusals["start"]
    assert "error" not in await world.patch(scaled)  # back to what ran before it broke
    assert [revision.min_instances for revision in world.plane.routed.values()] == [2]


# Killed at any moment.


async def recovered(reborn: Any) -> Any:
    world = reborn()
    async with asyncio.timeout(PATIENCE):
        await world.model.recover()
        for operation in world.operations.list("projects/demo/locations/europe-west1"):
            assert (await world.operations.wait(operation["name"], PATIENCE))["done"], operation
        await world.model.wait_drained()
    return world


def moments(world: Any) -> list[Any]:
    """From now on, what a kill would leave after each write and each step of the data plane."""
    snapshots: list[Any] = []

    def take() -> None:
        snapshots.append(world.snapshot())

    world.store.written = world.plane.happened = take
    return snapshots


async def check_consistent(world: Any, seconds: int, revisions: int) -> None:
    """Check that one revision with the newest template runs and is routed, and that no operation is left."""
    service = await world.ok("GET", "/hello")
    assert service["reconciling"] is False
    assert service["terminalCondition"]["state"] == "CONDITION_SUCCEEDED"
    assert service["template"]["timeout"] == f"{seconds}s"
    assert service["latestReadyRevision"] == service["latestCreatedRevision"]
    (running,) = world.plane.running.values()
    assert world.plane.routed == {NAME: running}
    assert running.timeout == seconds
    states = list((await world.revisions()).values())
    assert states == ["retired"] * (revisions - 1) + ["ready"]


async def test_a_creation_killed_at_any_moment_finishes_under_the_same_operation(world: Any, body: Any):
    snapshots = moments(world)
    operation = await world.begin(changed(body, "10s"))
    await world.finish(operation)
    assert len(snapshots) > 8
    for reborn in snapshots:
        restarted = await recovered(reborn)
        if restarted.model.inventory():
            await check_consistent(restarted, 10, 1)
            done = restarted.operations.get(operation["name"])
            assert done["response"]["generation"] == "1"
        await restarted.close()
    assert restarted.model.inventory()


async def test_an_update_killed_at_any_moment_ends_with_the_new_or_old_revision(world: Any, body: Any):
    await world.create(changed(body, "10s"))
    snapshots = moments(world)
    operation = await world.ok("PATCH", "/hello", changed(body, "20s"))
    await world.finish(operation)
    await world.model.wait_drained()
    asked_for = 0
    for reborn in snapshots:
        restarted = await recovered(reborn)
        is_updated = (await restarted.ok("GET", "/hello"))["generation"] == "2"
        asked_for += is_updated
        await check_consistent(restarted, 20 if is_updated else 10, 2 if is_updated else 1)
        if is_updated:
            assert restarted.operations.get(operation["name"])["response"]["generation"] == "2"
        await restarted.close()
    assert asked_for > 8


async def test_an_overtaken_update_killed_at_any_moment_ends_with_the_newest_revision(world: Any, body: Any):
    await world.create(changed(body, "10s"))
    world.plane.reached["start"].clear()
    world.plane.hold("start")
    slow = await world.ok("PATCH", "/hello", changed(body, "20s"))
    await reached(world, "start")
    world.plane.holds.clear()
    snapshots = moments(world)
    fast = await world.ok("PATCH", "/hello", changed(body, "30s"))
    await world.finish(fast)
    await world.model.wait_drained()
    for reborn in snapshots:
        restarted = await recovered(reborn)
        if (await restarted.ok("GET", "/hello"))["generation"] == "3":
            await check_consistent(restarted, 30, 3)
            assert "response" in restarted.operations.get(fast["name"])
            assert restarted.operations.get(slow["name"])["error"]["code"] == 10
        await restarted.close()


async def test_a_deletion_killed_at_any_moment_is_finished(world: Any, body: Any):
    await world.create(body)
    snapshots = moments(world)
    operation = await world.ok("DELETE", "/hello")
    await world.finish(operation)
    assert len(snapshots) > 3
    for reborn in snapshots:
        restarted = await recovered(reborn)
        if operation["name"] in {
            other["name"] for other in restarted.operations.list("projects/demo/locations/europe-west1")
        }:
            assert (restarted.model.inventory(), restarted.plane.running) == ([], {})
            assert "response" in restarted.operations.get(operation["name"])
            assert {"run.service", "run.revision"}.isdisjoint(restarted.store.count_by_kind())
        await restarted.close()


async def test_after_a_kill_during_a_failing_update_the_old_revision_serves(world: Any, body: Any):
    await world.create(changed(body, "10s"))
    world.plane.refusals["start"] = NOT_READY
    snapshots = moments(world)
    operation = await world.ok("PATCH", "/hello", changed(body, "20s"))
    await world.finish(operation)
    kept_count = 0
    for reborn in snapshots:
        restarted = reborn()
        start = restarted.plane.start

        async def only_the_old(revision: Any, start: Any = start, restarted: Any = restarted) -> None:
            restarted.plane.refusals = {} if revision.timeout == 10 else {"start": NOT_READY}
            await start(revision)

        restarted.plane.start = only_the_old
        restarted = await recovered(lambda restarted=restarted: restarted)
        assert [item.timeout for item in restarted.plane.routed.values()] == [10]
        assert list(restarted.plane.running) == [item.name for item in restarted.plane.routed.values()]
        operations = {item["name"]: item for item in restarted.operations.list("projects/demo/locations/europe-west1")}
        if operation["name"] in operations and (await restarted.ok("GET", "/hello"))["generation"] == "2":
            kept_count += 1
            assert operations[operation["name"]]["error"] == {"code": 9, "message": NOT_READY}
            assert (await restarted.ok("GET", "/hello"))["terminalCondition"]["message"] == NOT_READY
        await restarted.close()
    assert kept_count > 3


@pytest.mark.parametrize("first", ["model", "operations"])
async def test_a_stopped_clouds_operation_is_continued_by_the_next_process(world: Any, body: Any, first: str):
    world.plane.hold("start")
    operation = await world.begin(body)
    await reached(world, "start")
    for part in (world.model, world.operations) if first == "model" else (world.operations, world.model):
        await part.close()
    assert world.operations.get(operation["name"])["done"] is False
    restarted = await recovered(world.snapshot())
    assert "response" in restarted.operations.get(operation["name"])
    await restarted.close()


async def test_a_closed_model_with_an_emptied_store_starts_empty(world: Any, body: Any):
    body["template"]["revision"] = "hello-v1"
    await world.create(body)
    await world.model.close()
    for kind in ("run.service", "run.revision"):
        for name, _ in world.store.list(kind):
            world.store.delete(kind, name)
    world.plane.running, world.plane.routed = {}, {}
    await world.create(body)
    assert list(world.plane.routed) == [NAME]


async def test_after_a_restart_ready_revisions_run_again_with_their_pinned_images(world: Any, body: Any):
    original = await world.create(body)
    restarted = world.snapshot()()
    restarted.plane.running.clear()  # the machine was restarted too
    await restarted.model.recover()
    assert await restarted.ok("GET", "/hello") == original
    assert [call[0] for call in restarted.plane.calls] == ["resolve", "start", "route"]
    assert restarted.plane.calls[0][1].endswith("@sha256:" + "a" * 64)
    await restarted.close()


async def test_a_revision_that_fails_to_restart_is_reported_and_recovers_at_the_next_restart(world: Any, body: Any):
    await world.create(body)
    broken = world.snapshot()()
    broken.plane.refusals["start"] = "The container crashed."
    await broken.model.recover()
    service = await broken.ok("GET", "/hello")
    assert service["terminalCondition"]["message"] == "The container crashed."
    healed = broken.snapshot()()
    await healed.model.recover()
    assert (await healed.ok("GET", "/hello"))["terminalCondition"]["state"] == "CONDITION_SUCCEEDED"
    assert list(healed.plane.routed) == [NAME]
    patched = broken.snapshot()()  # or at the next patch, also one that changes nothing
    assert "error" not in await patched.patch(body)
    assert list(patched.plane.routed) == [NAME]
    assert await patched.revisions() == {"00001": "ready"}
    for state in (broken, healed, patched):
        await state.close()
