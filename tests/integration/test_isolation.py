"""Isolation on a real network: what a container can't reach, and whose tokens it can't get."""

import asyncio
import json
import uuid
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from mcpfleet_local_cloud import docker_engine
from mcpfleet_local_cloud.data_plane import DockerDataPlane, remove_docker_objects
from mcpfleet_local_cloud.data_plane.contract import Container, Probe, Revision
from mcpfleet_local_cloud.data_plane.engine import CloudContainers
from mcpfleet_local_cloud.identity.metadata import create_metadata_app
from mcpfleet_local_cloud.identity.tokens import Identity
from mcpfleet_local_cloud.state.folder import Settings
from mcpfleet_local_cloud.state.store import Store

pytestmark = pytest.mark.integration

SERVE = "import http.server as h; h.HTTPServer(('0.0.0.0', 8080), h.SimpleHTTPRequestHandler).serve_forever()"
PROBE = """
import json, socket, sys, time
def reached(host, port, tries=4):
    for later in range(tries):
        if later: time.sleep(0.6)
        try: socket.create_connection((host, port), 1).close()
        except OSError: return False
    return True
print(json.dumps([reached(host, port) for host, port in json.loads(sys.argv[1])]))
"""
# Reached is what is reached again and again: while Docker Engine 20.10 makes a network for anybody, it takes the jump
# to its isolation rules away for a moment (docs/threat-model.md, "What is outside").
ASK = """
import sys, urllib.request
ask = urllib.request.Request(f"http://{sys.argv[1]}/computeMetadata/v1/instance/service-accounts/default/email",
    headers={"Metadata-Flavor": "Google", "Host": "metadata.google.internal"})
print(urllib.request.urlopen(ask, timeout=5).read().decode())
"""


KNOCK = """
import socket, sys
said = b""
try:
    with socket.create_connection(("metadata.google.internal", int(sys.argv[1])), 5) as connection:
        connection.sendall(b"GET /v2/ HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n" + bytes(200))
        said = connection.recv(100)
except OSError: pass
print(said or "nothing")
"""


class DeafEngine(CloudContainers):
    """Docker whose events do not arrive: a container's end is noticed late."""

    def watch(self, ended, connected):
        super().watch(lambda _: None, connected)


def revision(service):
    return Revision(
        name=f"{service}-00001-abc",
        service=service,
        project="p",
        region="r",
        containers=(
            Container(
                name="",
                image="mcpfleet/base:python3.13",
                command=("python3", "-c"),
                args=(SERVE,),
                port=8080,
                startup_probe=Probe(port=8080, timeout=1, period=1, failure_threshold=10),
            ),
        ),
        service_account=f"{service}@p.iam.gserviceaccount.com",
    )


class World:
    """A data plane, and its containers' view."""

    def __init__(self, state):
        self.state = state
        self.cloud_id = f"test-{uuid.uuid4().hex[:8]}"
        self.docker = docker_engine.create_client()

    @asynccontextmanager
    async def plane(self):
        settings, store = Settings(state=self.state, port=9), Store(self.state / "cloud.db")
        engine = DeafEngine(self.cloud_id)
        plane = DockerDataPlane(
            settings=settings, cloud_id=self.cloud_id, store=store, registry_token=lambda: "t", engine=engine
        )
        identity = Identity(self.state / "keys")
        await plane.open(create_metadata_app(plane.find_workload, identity, settings, lambda email: "1"))
        try:
            yield plane
        finally:
            await plane.close()
            store.close()

    def container(self, service):
        labels = [f"dev.mcpfleet.cloud={self.cloud_id}", f"dev.mcpfleet.service={service}"]
        (found,) = self.docker.containers.list(filters={"label": labels}, ignore_removed=True)
        return found

    def network(self, container):
        (only,) = container.attrs["NetworkSettings"]["Networks"].values()
        return only

    def gateway(self):
        """The gateway container's networks."""
        return self._gateway().attrs["NetworkSettings"]["Networks"]

    def published(self):
        """The gateway container's ports on this machine."""
        ports = self._gateway().attrs["NetworkSettings"]["Ports"]
        return [int(item["HostPort"]) for published in ports.values() for item in published]

    def _gateway(self):
        labels = [f"dev.mcpfleet.cloud={self.cloud_id}", "dev.mcpfleet.role=gateway"]
        (found,) = self.docker.containers.list(filters={"label": labels}, ignore_removed=True)
        return found

    async def inside(self, service, code, *arguments):
        command = ["python3", "-c", code, *arguments]
        code, output = await asyncio.to_thread(self.container(service).exec_run, command)
        assert code == 0, output.decode()
        return output.decode().strip()

    def run(self, scenario):
        async def bounded():
            async with asyncio.timeout(60):
                await scenario()

        asyncio.run(bounded())


@pytest.fixture
def make_world(tmp_path):
    """`make_world(name)`: a cloud that leaves nothing behind."""
    made = []

    def make(name):
        made.append(World(tmp_path / name))
        return made[-1]

    yield make
    for world in made:
        remove_docker_objects(world.cloud_id)
        world.docker.close()


@pytest.fixture
def world(make_world):
    return make_world("cloud")


def test_a_container_cannot_reach_another_services_container_or_the_machines_ports(world):
    async def scenario():
        async with world.plane() as plane:
            await plane.start(revision("one"))
            await plane.start(revision("two"))
            port = int(plane.address("projects/p/locations/r/services/two").rpartition(":")[2])
            own, other = (world.network(world.container(name)) for name in ("one", "two"))
            gateway = world.gateway()
            elsewhere = [each["IPAddress"] for each in gateway.values() if each["Gateway"] != own["Gateway"]]
            assert len(elsewhere) == 2, "the gateway container's own network, and the other service's"
            allowed = [[own["IPAddress"], 8080], ["metadata.google.internal", 80]]
            refused = [
                [other["IPAddress"], 8080],
                [own["Gateway"], port],
                [other["Gateway"], port],
                ["127.0.0.1", port],
                *([ip, gate] for ip in elsewhere for gate in (80, 7300, 7301)),
                *([own["Gateway"], published] for published in world.published()),
            ]
            assert json.loads(await world.inside("one", PROBE, json.dumps(allowed))) == [True] * len(allowed)
            assert json.loads(await world.inside("one", PROBE, json.dumps(refused))) == [False] * len(refused)

    world.run(scenario)


def test_a_container_cannot_use_the_gateways_ports_for_the_host(world):
    async def scenario():
        async with world.plane() as plane:
            await plane.start(revision("one"))
            for port in ("7300", "7301"):
                assert await world.inside("one", KNOCK, port) == "nothing"

    world.run(scenario)


def test_a_reused_address_does_not_get_the_identity_of_its_former_container(world):
    async def scenario():
        async with world.plane() as plane:
            old, new = revision("one"), replace(revision("one"), name="one-00002-abc", service_account="new@p")
            await plane.start(old)
            dead = world.container("one")
            address = world.network(dead)["IPAddress"]
            await asyncio.to_thread(dead.kill)
            await plane.start(new)
            assert world.network(world.container("one"))["IPAddress"] == address, "Docker gives it away at once"
            environment = dict(line.split("=", 1) for line in world.container("one").attrs["Config"]["Env"])
            assert await world.inside("one", ASK, environment["GCE_METADATA_HOST"]) == "new@p"

    world.run(scenario)


def test_two_clouds_on_one_machine_are_isolated(make_world):
    one, other = make_world("one"), make_world("other")

    async def scenario():
        async with one.plane() as here, other.plane() as there:
            await asyncio.gather(here.start(revision("same")), there.start(revision("same")))
            assert not set(one.published()) & set(other.published())
            theirs = [each["IPAddress"] for each in other.gateway().values()]
            targets = [[other.network(other.container("same"))["IPAddress"], 8080]]
            targets += [[ip, port] for ip in theirs for port in (80, 443, 7300, 7301)]
            assert json.loads(await one.inside("same", PROBE, json.dumps(targets))) == [False] * len(targets)
            for cloud in (one, other):
                assert await cloud.inside("same", ASK, "metadata.google.internal") == "same@p.iam.gserviceaccount.com"

    one.run(scenario)
