"""Which addresses each service's network has, and what happens where another program's are in the way."""

import asyncio
from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet_local_cloud.data_plane.networks import Networks
from mcpfleet_local_cloud.data_plane.subnets import split_range
from tests.unit.local_cloud.data_plane.docker_networks import CLOUD, LABEL, FakeDocker, FakeEngine


def service(name):
    return f"projects/p/locations/r/services/{name}"


@pytest.fixture
def docker():
    return FakeDocker("172.20.0.0/16", "172.21.0.0/16")


async def opened(docker):
    networks = Networks(FakeEngine(docker))
    await networks.open()
    return networks


@given(st.integers(8, 28), st.integers(0, 2**32 - 1))
def test_subnets_do_not_overlap_and_reserve_addresses_for_helpers(prefix, address):
    whole = IPv4Network((address, prefix), strict=False)
    found = [part for part, _ in zip(split_range(whole), range(8), strict=False)]
    assert found
    for one, other in pairwise(found):
        assert one.subnet.broadcast_address < other.subnet.network_address
    for part in found:
        assert part.subnet.subnet_of(whole)
        for helper in (part.router, part.gateway):
            assert part.contains(helper)
            assert IPv4Address(helper) not in part.instances
        assert part.instances.subnet_of(part.subnet)
        assert part.instances.num_addresses >= 8


@pytest.mark.parametrize(("whole", "count"), [("172.20.0.0/16", 256), ("192.168.16.0/20", 16), ("10.1.2.0/24", 16)])
def test_a_range_chosen_by_docker_is_large_enough_for_a_fleet(whole, count):
    assert len(list(split_range(IPv4Network(whole)))) == count


def test_each_service_and_the_gateway_have_their_own_network(docker):
    async def scenario():
        networks = await opened(docker)
        found = await asyncio.gather(*(networks.ensure(service(f"s{number}")) for number in range(20)))
        again = await networks.ensure(service("s3"))
        assert again == found[3]
        subnets = {each.addresses.subnet for each in (*found, networks.gateway_network)}
        assert len(subnets) == len(docker.networks.things) == 21
        assert all(IPv4Network("172.20.0.0/16").supernet_of(subnet) for subnet in subnets)
        assert networks.ranges == ("172.20.0.0/16",)
        assert networks.find_by_address(found[3].addresses.gateway) == found[3]
        assert networks.find_by_address("172.21.0.1") is None
        assert min(item.name for item in docker.networks.things) == networks.gateway_network.name, (
            "it has the published ports"
        )

    asyncio.run(scenario())


def test_the_next_process_finds_the_existing_networks(docker):
    async def scenario():
        before = await opened(docker)
        made = await before.ensure(service("echo"))
        after = await opened(docker)
        assert (after.gateway_network, after.all) == (before.gateway_network, {service("echo"): made})
        assert await after.ensure(service("echo")) == made
        assert (await after.ensure(service("other"))).addresses != made.addresses

    asyncio.run(scenario())


def test_ipv6_subnets_added_by_docker_are_ignored(docker):
    docker.more = [{"Subnet": "fd4b:1::/64"}]

    async def scenario():
        before = await opened(docker)
        made = await before.ensure(service("echo"))
        after = await opened(docker)
        assert (after.gateway_network, after.all) == (before.gateway_network, {service("echo"): made})

    asyncio.run(scenario())


def test_subnets_in_use_by_other_programs_are_skipped(docker):
    async def scenario():
        networks = await opened(docker)
        for number in (1, 2):
            ipam = {"Config": [{"Subnet": f"172.20.{number}.0/24"}]}
            docker.networks.create(f"other{number}", {}, ipam=ipam)
        assert str((await networks.ensure(service("echo"))).addresses.subnet) == "172.20.3.0/24"
        await networks.ensure(service("next"))
        assert docker.networks.refused == 2, "what was refused once is not asked for again"

    asyncio.run(scenario())


def test_a_full_range_makes_docker_choose_another():
    docker = FakeDocker("10.1.2.0/26", "10.1.3.0/24")

    async def scenario():
        networks = await opened(docker)
        found = [await networks.ensure(service(f"s{number}")) for number in range(5)]
        assert networks.ranges == ("10.1.2.0/26", "10.1.3.0/24")
        assert len({each.addresses.subnet for each in (*found, networks.gateway_network)}) == 6
        assert {item.name for item in docker.networks.things} == {
            each.name for each in (*found, networks.gateway_network)
        }

    asyncio.run(scenario())


def test_a_lost_range_is_chosen_anew(docker):
    async def scenario():
        await opened(docker)
        docker.networks.things.clear()
        docker.networks.create("another program's", {})
        assert (await opened(docker)).ranges == ("172.21.0.0/16",)

    asyncio.run(scenario())


def test_a_removed_services_subnet_is_reused(docker):
    async def scenario():
        networks = await opened(docker)
        gone = await networks.ensure(service("echo"))
        await networks.remove(service("echo"))
        assert [item.name for item in docker.networks.things] == [networks.gateway_network.name]
        assert (await networks.ensure(service("other"))).addresses == gone.addresses
        await networks.remove(service("unknown"))

    asyncio.run(scenario())


def test_networks_of_an_earlier_version_and_of_an_interrupted_choice_are_removed(docker):
    docker.networks.create(f"mcpfleet-{CLOUD}", {LABEL: CLOUD})
    docker.networks.create(f"mcpfleet-{CLOUD}-range", {LABEL: CLOUD})

    async def scenario():
        networks = await opened(docker)
        (only,) = docker.networks.things
        assert (only.name, str(networks.gateway_network.addresses.subnet)) == (
            networks.gateway_network.name,
            "172.20.0.0/24",
        )

    asyncio.run(scenario())
