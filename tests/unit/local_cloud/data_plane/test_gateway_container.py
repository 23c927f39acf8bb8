"""Tests of how the gateway container is created, taken over and replaced, and of its ports."""

import asyncio
import io
import json
import tarfile

import pytest

from mcpfleet_local_cloud.data_plane.contract import OpenError
from mcpfleet_local_cloud.data_plane.gateway_container import GatewayContainer
from mcpfleet_local_cloud.data_plane.networks import Networks
from mcpfleet_local_cloud.state.folder import Settings
from tests.unit.local_cloud.data_plane.docker_networks import FakeDocker, FakeEngine

SERVICE = "projects/p/locations/r/services/echo"
NAME = "mcpfleet-c1-gateway"


@pytest.fixture
def docker():
    return FakeDocker()


@pytest.fixture
def start(docker, tmp_path):
    """Start a process of the cloud; return its networks and the id of its gateway container."""

    async def start():
        engine = FakeEngine(docker)
        networks = Networks(engine)
        await networks.open()
        gateway = GatewayContainer(engine, networks, Settings(state=tmp_path))
        await gateway.ensure()
        return gateway, networks

    return start


def made(docker):
    return docker.containers.by_name[NAME]


def test_the_gateway_container_has_minimal_privileges(docker, start):
    asyncio.run(start())
    spec = made(docker).spec
    assert spec["user"] == "65534:65534"
    assert (spec["cap_drop"], spec["security_opt"], spec["read_only"]) == (["ALL"], ["no-new-privileges"], True)
    assert "cap_add" not in spec
    assert spec["mem_limit"] == spec["memswap_limit"] == "256m"
    assert spec["pids_limit"] == 16
    assert {host for host, _ in spec["ports"].values()} == {"127.0.0.1"}
    assert made(docker).running


def test_the_key_is_passed_only_as_a_file(docker, start):
    gateway, _ = asyncio.run(start())
    with tarfile.open(fileobj=io.BytesIO(made(docker).files["/gateway"])) as tar:
        assert tar.extractfile("key").read() == gateway.key
    assert gateway.key.hex() not in repr(made(docker).spec)
    assert repr(gateway.key) not in repr(made(docker).spec)


def test_the_next_process_takes_the_gateway_over_and_connects_every_network(docker, start):
    async def scenario():
        gateway, networks = await start()
        network = await networks.ensure(SERVICE)
        await gateway.attach(network)
        again, _ = await start()
        assert (again.id, docker.made, again.key, again.ports) == (gateway.id, 1, gateway.key, gateway.ports)
        assert docker.networks.get(network.name).attached == {NAME: network.addresses.gateway}

    asyncio.run(scenario())


def test_a_removed_gateway_is_created_again_with_all_its_addresses(docker, start):
    async def scenario():
        gateway, networks = await start()
        network = await networks.ensure(SERVICE)
        await gateway.attach(network)
        made(docker).remove(force=True, v=True)
        await gateway.ensure()
        assert made(docker).running
        assert docker.networks.get(network.name).attached == {NAME: network.addresses.gateway}

    asyncio.run(scenario())


def test_a_stopped_gateway_is_started_again(docker, start):
    async def scenario():
        gateway, _ = await start()
        made(docker).running = False
        await gateway.ensure()
        assert (made(docker).running, docker.made) == (True, 1)

    asyncio.run(scenario())


def test_a_gateway_with_another_base_image_or_key_is_replaced(docker, start, tmp_path):
    asyncio.run(start())
    docker.image = "sha256:new"
    asyncio.run(start())
    assert (made(docker).spec["image"], docker.made) == ("sha256:new", 2)
    (tmp_path / "keys" / "gateway").unlink()
    asyncio.run(start())
    assert docker.made == 3


def test_ports_in_use_are_skipped_and_the_chosen_ports_are_kept(docker, start):
    first = asyncio.run(start())[0].ports
    made(docker).remove(force=True, v=True)
    assert asyncio.run(start())[0].ports == first
    docker.taken_ports = {first.tunnel}
    made(docker).remove(force=True, v=True)
    second = asyncio.run(start())[0].ports
    assert second.registry == first.registry
    assert second.tunnel not in docker.taken_ports
    docker.taken_ports = set()
    assert asyncio.run(start())[0].ports == second


def test_two_clouds_on_one_machine_try_different_ports(docker, start, tmp_path):
    taken = asyncio.run(start())[0].ports
    docker.taken_ports = {taken.tunnel, taken.registry}
    made(docker).remove(force=True, v=True)
    (tmp_path / "gateway" / "ports.json").unlink()
    mine = asyncio.run(start())[0].ports
    assert not {mine.tunnel, mine.registry} & docker.taken_ports


def test_the_registrys_port_never_changes(docker, start):
    ports = asyncio.run(start())[0].ports
    docker.taken_ports = {ports.registry}
    made(docker).remove(force=True, v=True)
    with pytest.raises(OpenError, match=f"Port {ports.registry} of 127.0.0.1, which is in the names") as refused:
        asyncio.run(start())
    assert f":{ports.registry}" in refused.value.next_step
    assert NAME not in docker.containers.by_name
    docker.taken_ports = set()
    assert asyncio.run(start())[0].ports == ports


def test_no_free_port_at_all_is_a_clear_error(docker, start):
    docker.taken_ports = set(range(18300, 18500))
    with pytest.raises(OpenError, match="All ports from 18300 to 18499"):
        asyncio.run(start())


def test_a_missing_base_image_is_an_error_with_the_command_to_run(docker, start):
    docker.image = None
    with pytest.raises(OpenError, match="lacks the image mcpfleet/base") as refused:
        asyncio.run(start())
    assert refused.value.next_step == "type: ./dev setup"


def test_the_gateways_settings_file_is_readable_by_its_owner_only(start, tmp_path):
    asyncio.run(start())
    for file in (tmp_path / "keys" / "gateway", tmp_path / "gateway" / "ports.json"):
        assert file.stat().st_mode & 0o077 == 0
    assert set(json.loads((tmp_path / "gateway" / "ports.json").read_text())) == {"tunnel", "registry"}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("gateway/ports.json", b""),
        ("gateway/ports.json", b'{"tunnel": 18301}'),
        ("gateway/ports.json", b'{"tunnel": "18301", "registry": 18300}'),
        ("gateway/ports.json", b'{"tunnel": 18301, "registry": 70000}'),
        ("gateway/ports.json", b"[1, 2]"),
        ("gateway/ports.json", b"\xff"),
        ("keys/gateway", b""),
        ("keys/gateway", b"not hexadecimal"),
        ("keys/gateway", b"abcd"),
    ],
)
def test_a_damaged_settings_file_is_an_error_that_explains_its_removal(docker, start, tmp_path, file, content):
    ports = asyncio.run(start())[0].ports
    (tmp_path / file).write_bytes(content)
    with pytest.raises(OpenError, match=f"{tmp_path / file} can't be read") as refused:
        asyncio.run(start())
    assert f"rm {tmp_path / file}" in refused.value.next_step
    (tmp_path / file).unlink()
    assert asyncio.run(start())[0].ports == ports
