"""A program of somebody else's, in a folder that holds nothing but what is installed."""

import json

import pytest

from pulumi_mcpfleet.components.foundation import Foundation, FoundationInFleet, required_apis
from pulumi_mcpfleet.components.mcp_server import McpServer, ServerInFleet
from pulumi_mcpfleet.fleet import parse_fleet

IMAGE = "docker-build:index:Image"
CLOUD_IMAGE = "mcpfleet-build:index:Image"


@pytest.fixture
def run(deploy, tmp_path, monkeypatch):
    """Deploy one server in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(source):
        fleet = parse_fleet({"region": "europe-west1", "servers": {"time": {"source": source}}}, root=tmp_path)

        def program():
            foundation = Foundation.in_fleet(
                "fleet", FoundationInFleet(project="p", region="europe-west1", apis=required_apis(fleet))
            )
            for name, spec in fleet.servers.items():
                args = ServerInFleet(project="p", regions=fleet.all_regions, foundation=foundation, spec=spec)
                McpServer.in_fleet(name, args)

        return deploy(program)

    return run


def test_a_stdio_servers_image_gets_the_bridge_from_the_packages_that_are_installed(run, tmp_path):
    plan = run({"stdio": {"pypi": "mcp-server-time==2026.10.19"}})
    inputs = plan.one(IMAGE).inputs
    context = tmp_path / inputs["context"]["location"]
    assert (context / "mcpfleet_bridge" / "__main__.py").is_file()
    assert (context / "mcpfleet_server" / "__init__.py").is_file()
    assert "--hash=sha256:" in (context / "requirements.txt").read_text()
    assert "mcp-server-time==2026.10.19" in inputs["dockerfile"]["inline"]
    copied = [line.split()[1] for line in inputs["dockerfile"]["inline"].splitlines() if line.startswith("COPY ")]
    assert [name for name in copied if not name.startswith("--from=") and not (context / name).exists()] == []


def test_cloud_build_gets_the_same_folder(run, tmp_path):
    inputs = run({"stdio": {"npm": "a@1.0.0"}, "builder": "cloud-build"}).one(CLOUD_IMAGE).inputs
    assert (tmp_path / inputs["context"] / "mcpfleet_bridge" / "__main__.py").is_file()


def test_nothing_that_a_stack_knows_names_the_folder_it_was_deployed_from(run, tmp_path):
    plan = run({"stdio": {"npm": "a@1.0.0"}})
    assert str(tmp_path) not in json.dumps([resource.inputs for resource in plan.resources], default=str)
