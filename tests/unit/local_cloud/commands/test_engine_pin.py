"""A local cloud stays on the Docker Engine where it began."""

from dataclasses import replace

import pytest

from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.engine_pin import pin, unpin
from mcpfleet_local_cloud.commands.phases import SetupError
from mcpfleet_local_cloud.docker_engine import EngineAddress, EngineFacts

FIRST = EngineFacts(version="28.0.1", identity="7EI7 /var/lib/docker")
OTHER = replace(FIRST, kind="Colima", identity="9ABC /var/lib/docker")
MACHINE, COLIMA = (
    EngineAddress(host="unix:///var/run/docker.sock"),
    EngineAddress(host="unix:///c.sock", chosen_by="DOCKER_HOST"),
)


@pytest.fixture
def folder(tmp_path):
    folder = CloudFolder(root=tmp_path, state=tmp_path)
    folder.cloud_state.mkdir()
    return folder


def test_the_engine_of_the_first_up_is_required_later(folder):
    pin(folder, MACHINE, FIRST)
    with pytest.raises(SetupError) as refused:
        pin(folder, COLIMA, OTHER)
    assert refused.value.message == (
        "The stack is deployed on Docker Engine 28.0.1 at unix:///var/run/docker.sock; the Docker engine "
        "found now is Colima 28.0.1 at unix:///c.sock (DOCKER_HOST). Nothing was changed."
    )
    assert "DOCKER_HOST=unix:///var/run/docker.sock ./dev down" in refused.value.next_step
    pin(folder, MACHINE, FIRST)


def test_the_same_engine_may_have_another_address_and_version(folder):
    pin(folder, MACHINE, FIRST)
    pin(folder, COLIMA, replace(FIRST, version="29.0.0"))


def test_another_engine_can_be_used_after_everything_was_removed(folder):
    pin(folder, MACHINE, FIRST)
    unpin(folder)
    pin(folder, COLIMA, OTHER)
    unpin(folder)
    unpin(folder)


def test_an_up_that_started_no_cloud_pins_no_engine(folder):
    pin(folder, MACHINE, FIRST)
    folder.cloud_state.rmdir()
    pin(folder, COLIMA, OTHER)


def test_a_lost_engine_can_be_unpinned(folder):
    pin(folder, MACHINE, FIRST)
    pin(folder, COLIMA, OTHER, force=True)
    pin(folder, COLIMA, OTHER)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"identity": 1}', '"x"'])
def test_an_invalid_pin_file_is_ignored(folder, content):
    (folder.state / "docker-engine.json").write_text(content)
    pin(folder, COLIMA, OTHER)
