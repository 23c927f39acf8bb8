"""The peer of `./dev bench fleet` registers what the fleet's program registers, or the figures mean nothing."""

import importlib.util
import json
import runpy
import sys
from pathlib import Path

import pytest

from devtools.bench.bare import deploy as deploy_by_hand
from devtools.bench.fleet import example_fleet

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module", name="deploy")
def _deploy():
    """The mocks' harness of tests/unit/infra."""
    place = ROOT / "tests" / "unit" / "infra" / "conftest.py"
    spec = importlib.util.spec_from_file_location("infra_harness", place)
    harness = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = harness  # dataclasses look their module up
    spec.loader.exec_module(harness)
    yield harness._deploy
    del sys.modules[spec.name]


def resources(plan):
    """Everything that was registered: by type and name, what it hangs off, and its inputs."""
    return {(resource.type, resource.name): (resource.parent, resource.inputs) for resource in plan.resources}


def test_both_programs_register_the_same_resources_with_the_same_inputs_and_outputs(deploy):
    config = {"gcp:project": "p", "mcpfleet:fleet": json.dumps(example_fleet(3))}
    fleet = deploy(lambda: runpy.run_path(str(ROOT), run_name="__main__"), config=config)
    by_hand = deploy(deploy_by_hand, config=config)
    assert len(resources(fleet)) == 3 * 4 + 9
    assert resources(fleet) == resources(by_hand)
    fleet_resources, bare_resources = fleet.exports["servers"], by_hand.exports["servers"]
    assert {name: set(server) for name, server in fleet_resources.items()} == {
        name: set(item) for name, item in bare_resources.items()
    }
