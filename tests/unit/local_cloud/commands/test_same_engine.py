"""A local cloud stays on the Docker Engine where it began."""

from dataclasses import replace

import pytest

from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.phases import SetupError
from mcpfleet_local_cloud.commands.same_engine import hold, let_go
from mcpfleet_local_cloud.docker_engine import Address, Facts

FIRST = Facts(version="28.0.1", identity="7EI7 /var/lib/docker")
OTHER = replace(FIRST, kind="Colima", identity="9ABC /var/lib/docker")
MACHINE, COLIMA = Address(host="unix:///var/run/docker.sock"), Address(host="unix:///c.sock", chosen_by="DOCKER_HOST")


@pytest.fixture
def place(tmp_path):
    place = CloudFolder(root=tmp_path, state=tmp_path)
    place.cloud_state.mkdir()
    return place


def test_the_engine_of_the_first_up_is_kept(place):
    hold(place, MACHINE, FIRST)
    with pytest.raises(SetupError) as refused:
        hold(place, COLIMA, OTHER)
    assert refused.value.message == (
        "What is deployed here is on Docker Engine 28.0.1 at unix:///var/run/docker.sock; found now is Colima 28.0.1 "
        "at unix:///c.sock (DOCKER_HOST). Nothing was changed."
    )
    assert "DOCKER_HOST=unix:///var/run/docker.sock ./dev down" in refused.value.next_step
    hold(place, MACHINE, FIRST)


def test_the_same_engine_may_be_reached_elsewhere_and_be_updated(place):
    hold(place, MACHINE, FIRST)
    hold(place, COLIMA, replace(FIRST, version="29.0.0"))


def test_once_nothing_is_left_there_another_may_be_used(place):
    hold(place, MACHINE, FIRST)
    let_go(place)
    hold(place, COLIMA, OTHER)
    let_go(place)
    let_go(place)


def test_an_up_that_started_no_cloud_binds_to_nothing(place):
    hold(place, MACHINE, FIRST)
    place.cloud_state.rmdir()
    hold(place, COLIMA, OTHER)


def test_an_engine_that_is_gone_for_good_can_be_given_up(place):
    hold(place, MACHINE, FIRST)
    hold(place, COLIMA, OTHER, force=True)
    hold(place, COLIMA, OTHER)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"identity": 1}', '"x"'])
def test_a_broken_file_holds_nobody(place, content):
    (place.state / "docker-engine.json").write_text(content)
    hold(place, COLIMA, OTHER)
