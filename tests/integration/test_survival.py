"""`kill -9` at bad moments: the next command succeeds, and nothing is doubled or left behind."""

import socket
import threading

import pytest

from mcpfleet_local_cloud.commands.background import find_running
from mcpfleet_local_cloud.commands.leftovers import inventory
from tests.integration.checkout import eventually

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def checkout(make_checkout):
    return make_checkout("survival")


def seen(checkout, wanted):
    """Whether the local cloud's inventory satisfies `wanted`; False while it does not respond."""

    def look():
        try:
            return wanted(inventory(checkout.place))
        except Exception:  # it may be starting, or killed
            return False

    return look


def pushed(found):
    return [name for name in found["images"] if "/mcpfleet-local/" in name]


def rolling_out(found):
    return [item for item in found["services"] if not item["latestReadyRevision"]]


def is_whole(checkout, engine):
    """Both servers are up, once each, and the state knows all of it."""
    found = inventory(checkout.place)
    assert sorted(item["name"].rpartition("/")[2] for item in found["services"]) == ["mcp-reference", "mcp-toolbox"]
    assert len(found["repositories"]) == 1
    assert len([email for email in found["serviceAccounts"] if email.startswith("mcp-")]) == 2
    eventually(lambda: len(checkout.containers(engine)) == 2, "one container for each server")
    types = [item["type"] for item in checkout.state.resources]
    assert types.count("gcp:cloudrunv2/service:Service") == 2
    assert "No changes" in checkout.ok("up")


@pytest.mark.parametrize("moment", [pushed, rolling_out], ids=["after the push", "during the rollout"])
def test_a_killed_up_is_finished_by_the_next_up(checkout, engine, moment):
    process = checkout.begin("up")
    eventually(lambda: seen(checkout, moment)() or process.poll() is not None, "the moment to kill")
    assert process.poll() is None, process.communicate()[0]
    checkout.kill(process)
    assert "12 checks of 2 servers passed" in checkout.ok("up")
    is_whole(checkout, engine)
    checkout.ok("down")


def test_an_up_continues_after_the_local_cloud_is_killed_during_a_rollout(checkout, engine):
    process = checkout.begin("up")
    eventually(seen(checkout, rolling_out), "a rollout has begun")
    checkout.kill_cloud()
    process.communicate(timeout=240)
    # Whether that run could wait for a cloud that somebody starts again does not matter; the next one must succeed.
    assert "12 checks of 2 servers passed" in checkout.ok("up")
    is_whole(checkout, engine)


def test_a_killed_down_is_finished_by_the_next_down(checkout, engine):
    cloud = find_running(checkout.place, "cloud")
    process = checkout.begin("down")
    eventually(seen(checkout, lambda found: len(found["services"]) < 2), "the first service is gone")
    checkout.kill(process)
    assert "Nothing is left" in checkout.ok("down")
    assert (
        engine.containers.list(all=True, filters={"label": f"dev.mcpfleet.cloud={cloud['id']}"}, ignore_removed=True)
        == []
    )


def test_a_down_after_the_cloud_and_containers_were_killed_leaves_nothing(checkout, engine):
    checkout.ok("up")
    cloud = find_running(checkout.place, "cloud")
    containers = checkout.containers(engine)
    checkout.kill_cloud()
    for container in containers:
        container.kill("SIGKILL")
    assert "Nothing is left" in checkout.ok("down")
    assert (
        engine.containers.list(all=True, filters={"label": f"dev.mcpfleet.cloud={cloud['id']}"}, ignore_removed=True)
        == []
    )


def test_down_reports_a_lost_state_and_removes_it_with_force(checkout, engine):
    checkout.ok("up")
    (checkout.place.state / "pulumi" / ".pulumi" / "stacks" / "mcpfleet" / "local.json").unlink()
    code, output = checkout.dev("down")
    assert code == 1
    assert "service projects/mcpfleet-local/locations/europe-west1/services/mcp-reference" in output
    assert "./dev down --force" in output
    assert "Nothing is left" in checkout.ok("down", "--force")


def test_a_port_in_use_is_reported_with_the_next_step(checkout):
    with socket.create_server(("127.0.0.1", checkout.place.port)):
        code, output = checkout.dev("up")
    assert code == 1
    assert str(checkout.place.port) in output
    assert "MCPFLEET_PORT" in output
    assert "Traceback" not in output


def test_of_two_concurrent_ups_one_updates_and_one_is_refused(checkout):
    first, second = checkout.begin("up"), checkout.begin("up")
    outputs = {}
    readers = [
        threading.Thread(target=lambda item=item: outputs.update({item.pid: item.communicate(timeout=240)[0]}))
        for item in (first, second)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(timeout=250)
    codes = sorted([first.returncode, second.returncode])
    assert codes in ([0, 0], [0, 1]), outputs
    if codes == [0, 1]:
        loser = first if first.returncode else second
        assert "is locked" in outputs[loser.pid]
    assert all("Traceback" not in output for output in outputs.values())
    assert "12 checks of 2 servers passed" in checkout.ok("up")
    checkout.ok("down")
