"""Tests of how `mcpfleet secrets` reaches a stack's local cloud."""

from importlib.metadata import entry_points

import pytest

from mcpfleet.errors import McpfleetError
from mcpfleet.secret_manager import CLOUDS
from mcpfleet_local_cloud.commands import background
from mcpfleet_local_cloud.commands.connection import connect
from mcpfleet_local_cloud.commands.environment import UNIVERSE


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "Pulumi.yaml").write_text("name: acme\nruntime: python\n")
    (tmp_path / "Pulumi.local.yaml").write_text("config: {gcp:universeDomain: mcpfleet.test}\n")
    (tmp_path / "Pulumi.dev.yaml").write_text("config: {}\n")
    monkeypatch.delenv("MCPFLEET_PORT", raising=False)
    monkeypatch.setattr(background, "find_running", lambda folder, name: {"pid": 1})
    return tmp_path


def test_a_running_local_cloud_is_reached_at_its_url_as_the_deployer(project):
    variables = connect(project, "local")
    assert variables["GOOGLE_APPLICATION_CREDENTIALS"] == str(project / ".mcpfleet" / "credentials" / "deployer.json")
    assert variables["GOOGLE_SECRET_MANAGER_CUSTOM_ENDPOINT"] == "http://127.0.0.1:8470/secretmanager/v1/"


def test_a_stack_that_is_not_local_is_one_message(project):
    with pytest.raises(McpfleetError, match=r"Pulumi\.dev\.yaml is a stack of Google Cloud.*Next: "):
        connect(project, "dev")


def test_the_command_finds_the_local_cloud_by_the_stacks_universe():
    (point,) = entry_points(group=CLOUDS, name=UNIVERSE)
    assert point.load() is connect
