"""A whole fleet as one component, from a config file and from arguments."""

import json

import pulumi
import pytest

import pulumi_mcpfleet
from pulumi_mcpfleet import Fleet

FLEET = "mcpfleet:index:Fleet"
SHARED = {
    "region": "europe-west1",
    "load_balancer": "shared",
    "servers": {"echo": {"source": {"image": "docker.io/acme/echo:1"}, "domain": "mcp.acme.dev"}},
    "clients": {
        "agent": {
            "source": {"image": "docker.io/acme/agent:1"},
            "calls": ["echo"],
            "topology": "mesh",
            "vpc": {"network": "default"},
        }
    },
}


@pytest.fixture(name="run")
def _run(deploy):
    """Run `Fleet.from_config()` with a fleet in the config file."""

    def run(fleet, **options):
        config = {"gcp:project": "p", "mcpfleet:fleet": json.dumps(fleet)}
        return deploy(Fleet.from_config, config=config, **options)

    return run


def test_everything_is_below_the_fleet_and_keeps_the_name_that_it_had_outside(run):
    plan = run(SHARED)
    children = {
        (resource.type.rpartition(":")[2], resource.name)
        for resource in plan.resources
        if resource.parent == (FLEET, "fleet")
    }
    assert children == {
        ("Foundation", "fleet"),
        ("McpServer", "echo"),
        ("LoadBalancer", "fleet"),
        ("ServiceMesh", "fleet"),
        ("McpClient", "agent"),
    }


def test_whatever_is_below_the_fleet_is_aliased_to_the_top_of_the_stack_where_it_was(run):
    plan = run(SHARED)
    for resource in plan.resources:
        if resource.parent == (FLEET, "fleet"):
            (alias,) = resource.aliases
            assert f"::{resource.type}::{resource.name}" in str(alias) or "noParent: true" in str(alias)


def test_a_program_without_a_config_file_gives_the_same_fleet_as_arguments(run, deploy):
    by_arguments, by_config = deploy(lambda: Fleet("fleet", {"project": "p", **SHARED})), run(SHARED)
    plans = [
        {(resource.type, resource.name): resource.inputs for resource in plan.resources}
        for plan in (by_arguments, by_config)
    ]
    assert plans[0] == plans[1]


def test_the_outputs_are_those_of_the_component_and_can_be_exported(deploy):
    def program():
        fleet = Fleet("fleet", {"project": "p", **SHARED})
        pulumi.export("servers", fleet.servers)
        pulumi.export("clients", fleet.clients)

    plan = deploy(program)
    assert plan.component_outputs[FLEET, "fleet"] == plan.exports
    assert plan.exports["servers"]["echo"]["mcp_url"] == "https://mcp.acme.dev/mcp"


def test_mistakes_are_one_error_with_a_line_for_each_and_nothing_is_registered(run, empty_plan):
    with pytest.raises(pulumi.RunError) as refusal:
        run({"regin": "x", "servers": {"echo": {"source": {"image": "a/b"}, "cpu": "0"}}}, plan=empty_plan)
    assert {line.partition(":")[0] for line in str(refusal.value).splitlines()} == {
        "fleet.regin",
        "fleet.servers.echo.cpu",
        "fleet.region",
    }
    assert [resource.type for resource in empty_plan.resources] == ["pulumi:pulumi:Stack"]


@pytest.mark.parametrize(
    ("fleet", "path"), [([1], "fleet"), ("text", "fleet"), ({**SHARED, "project": "p"}, "fleet.project")]
)
def test_a_config_value_that_is_no_fleet_is_refused_under_its_path(run, fleet, path):
    with pytest.raises(pulumi.RunError, match=f"^{path}: "):
        run(fleet)


def test_the_parts_take_the_options_that_a_component_hands_on(deploy):
    def program():
        opts = pulumi.ResourceOptions(protect=True)
        Fleet("fleet", {"project": "p", **SHARED}, opts)

    assert {resource.protect for resource in deploy(program).resources if resource.type != "pulumi:pulumi:Stack"} == {
        True
    }


def test_the_package_names_what_it_has_and_nothing_else():
    assert all(getattr(pulumi_mcpfleet, name).__name__ == name for name in pulumi_mcpfleet.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = pulumi_mcpfleet.Nothing
