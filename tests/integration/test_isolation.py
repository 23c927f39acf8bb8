"""What a container must not reach, and whose tokens it must not get; with real containers on a real network."""

import asyncio
import json
import uuid
from contextlib import asynccontextmanager

import pytest

from mcpfleet_local_cloud import docker_engine
from mcpfleet_local_cloud.data_plane import DockerDataPlane, remove_docker_objects
from mcpfleet_local_cloud.data_plane.contract import Container, Probe, Revision
from mcpfleet_local_cloud.data_plane.engine import Engine
from mcpfleet_local_cloud.identity.metadata import create_metadata
from mcpfleet_local_cloud.identity.tokens import Identity
from mcpfleet_local_cloud.state.folder import Settings
from mcpfleet_local_cloud.state.store import Store

pytestmark = pytest.mark.integration

SERVE = "import http.server as h; h.HTTPServer(('0.0.0.0', 8080), h.SimpleHTTPRequestHandler).serve_forever()"
PROBE = """
import json, socket, sys
def reached(host, port):
    try: socket.create_connection((host, port), 1).close()
    except OSError: return False
    return True
print(json.dumps([reached(host, port) for host, port in json.loads(sys.argv[1])]))
"""
ASK = """
import sys, urllib.request
ask = urllib.request.Request(f"http://{sys.argv[1]}/computeMetadata/v1/instance/service-accounts/default/email",
    headers={"Metadata-Flavor": "Google", "Host": "metadata.google.internal"})
print(urllib.request.urlopen(ask, timeout=5).read().decode())
"""


class DeafEngine(Engine):
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
    """One data plane, and what its containers see."""

    def __init__(self, state):
        self.state = state
        self.cloud_id = f"test-{uuid.uuid4().hex[:8]}"
        self.docker = docker_engine.client()

    @asynccontextmanager
    async def plane(self):
        settings, store = Settings(state=self.state, port=9), Store(self.state / "cloud.db")
        engine = DeafEngine(self.cloud_id)
        plane = DockerDataPlane(
            settings=settings, cloud_id=self.cloud_id, store=store, registry_token=lambda: "t", engine=engine
        )
        identity = Identity(self.state / "keys")
        await plane.open(create_metadata(plane.workload, identity, settings, lambda email: "1"))
        try:
            yield plane
        finally:
            await plane.close()
            store.close()

    def container(self, service):
        labels = [f"dev.mcpfleet.cloud={self.cloud_id}", f"dev.mcpfleet.service={service}"]
        (found,) = self.docker.containers.list(filters={"label": labels})
        return found

    def network(self, container):
        return container.attrs["NetworkSettings"]["Networks"][f"mcpfleet-{self.cloud_id}"]

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
def world(tmp_path):
    world = World(tmp_path)
    yield world
    remove_docker_objects(world.cloud_id)
    world.docker.close()


def test_a_container_reaches_neither_another_services_container_nor_this_machines_ports(world):
    async def scenario():
        async with world.plane() as plane:
            await plane.start(revision("one"))
            await plane.start(revision("two"))
            port = int(plane.address("projects/p/locations/r/services/two").rpartition(":")[2])
            own, other = (world.network(world.container(name)) for name in ("one", "two"))
            targets = [
                [own["IPAddress"], 8080],
                [other["IPAddress"], 8080],
                [own["Gateway"], port],
                ["127.0.0.1", port],
                ["metadata.google.internal", plane_port(world)],
            ]
            assert json.loads(await world.inside("one", PROBE, json.dumps(targets))) == [
                True,
                False,
                False,
                False,
                True,
            ]

    def plane_port(world):
        environment = dict(line.split("=", 1) for line in world.container("one").attrs["Config"]["Env"])
        return int(environment["GCE_METADATA_HOST"].rpartition(":")[2])

    world.run(scenario)


def test_the_next_holder_of_a_dead_containers_address_does_not_get_the_dead_ones_identity(world):
    async def scenario():
        async with world.plane() as plane:
            await plane.start(revision("one"))
            dead = world.container("one")
            address = world.network(dead)["IPAddress"]
            await asyncio.to_thread(dead.kill)
            await plane.start(revision("two"))
            assert world.network(world.container("two"))["IPAddress"] == address, "Docker gives it away at once"
            environment = dict(line.split("=", 1) for line in world.container("two").attrs["Config"]["Env"])
            assert await world.inside("two", ASK, environment["GCE_METADATA_HOST"]) == "two@p.iam.gserviceaccount.com"

    world.run(scenario)
