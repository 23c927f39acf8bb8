"""A stack whose program created each component by itself, as up to version 0.1, moves below the component `Fleet`."""

import json

import pytest

pytestmark = pytest.mark.integration

FLEET = "mcpfleet:index:Fleet"


@pytest.fixture(scope="module")
def checkout(make_checkout):
    checkout = make_checkout("upgrade")
    checkout.ok("up")
    return checkout


def state_file(checkout):
    return checkout.place.state / "pulumi" / ".pulumi" / "stacks" / "mcpfleet" / "local.json"


def changes(checkout):
    """Return the number of changes of the last update, by operation."""
    history = checkout.place.state / "pulumi" / ".pulumi" / "history" / "mcpfleet" / "local"
    last = max(history.glob("*.history.json"), key=lambda file: file.name)
    return json.loads(last.read_text())["resourceChanges"]


def without_the_fleet(text):
    """Return the state as the earlier program wrote it: without a `Fleet` as parent."""
    state = json.loads(text.replace(f"{FLEET}$", ""))
    resources = state["checkpoint"]["latest"]["resources"]
    (fleet,) = (item for item in resources if item["type"] == FLEET)
    resources.remove(fleet)
    for one in resources:
        if one.get("parent") == fleet["urn"]:
            one["parent"] = fleet["parent"]
    return json.dumps(state)


def test_updating_a_stack_of_the_last_version_only_creates_the_fleet_component(checkout):
    file = state_file(checkout)
    before = without_the_fleet(file.read_text())
    assert FLEET not in before
    count = len(json.loads(before)["checkpoint"]["latest"]["resources"])
    file.write_text(before)
    checkout.ok("up")
    assert changes(checkout) == {"create": 1, "same": count - providers(before)}
    assert f"{FLEET}$mcpfleet:index:McpServer$gcp:cloudrunv2/service:Service" in file.read_text()
    checkout.ok("up")
    assert set(changes(checkout)) == {"same"}, "the moved state is taken over as a whole"


def providers(text):
    """Return the number of a state's providers, which the engine does not count as resources."""
    resources = json.loads(text)["checkpoint"]["latest"]["resources"]
    return sum(item["type"].startswith("pulumi:providers:") for item in resources)
