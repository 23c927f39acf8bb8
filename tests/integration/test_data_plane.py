"""The data plane with real containers: what a revision may do wrong, what it must survive, what it can rely on."""

import asyncio
import json
import uuid
from contextlib import asynccontextmanager
from dataclasses import replace

import docker
import pytest

from local_cloud.dataplane import FrontDoor, Probe, Revision, RolloutError
from local_cloud.identity import Identity
from local_cloud.ingress import create_ingress
from local_cloud.metadata import create_metadata
from local_cloud.runtime import DockerDataPlane, remove_docker_objects
from local_cloud.settings import Settings
from local_cloud.store import Store

pytestmark = pytest.mark.integration

IMAGE = "mcpfleet/base:python3.13"
EMAIL = "mcp-echo@p.iam.gserviceaccount.com"
SERVICE = "projects/p/locations/r/services/echo"
QUICK = Probe(port=8080, timeout=1, period=1, failure_threshold=2)

SERVER = """
import http.server, json, os, signal, socketserver, sys, threading, time, urllib.request
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): print("request", self.path, flush=True)
    def reply(self, body, status=200):
        self.send_response(status); self.send_header("content-length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        if self.path == "/stream":
            self.send_response(200); self.send_header("transfer-encoding", "chunked"); self.end_headers()
            for word in (b"one", b"two"):
                self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(word), word)); self.wfile.flush()
                if word == b"one": go.wait(20)
            self.wfile.write(b"0\\r\\n\\r\\n")
        elif self.path == "/go": go.set(); self.reply(b"ok")
        elif self.path == "/slow": time.sleep(1.5); self.reply(b"slow")
        elif self.path == "/slower": arrived.set(); time.sleep(5); self.reply(b"slower")
        elif self.path == "/arrived": arrived.wait(20); self.reply(b"ok")
        elif self.path == "/hang": time.sleep(60)
        elif self.path == "/die": os._exit(9)
        elif self.path == "/sick": sick.set(); self.reply(b"ok")
        elif self.path == "/alive": self.reply(b"", 500 if sick.is_set() else 200)
        elif self.path == "/env": self.reply(json.dumps({**dict(os.environ), "pid": os.getpid()}).encode())
        elif self.path.startswith("/metadata/"):
            ask = urllib.request.Request("http://" + os.environ["GCE_METADATA_HOST"] + self.path[9:],
                headers={"Metadata-Flavor": "Google"})
            self.reply(urllib.request.urlopen(ask, timeout=5).read())
        else: self.reply(socket_name.encode())
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer): daemon_threads = True
go, arrived, sick, socket_name = threading.Event(), threading.Event(), threading.Event(), os.uname().nodename
server = Server((os.environ.get("BIND", "0.0.0.0"), int(os.environ.get("LISTEN", os.environ["PORT"]))), Handler)
def stop(*_):
    print("stopping", flush=True)
    threading.Thread(target=lambda: (server.shutdown(), time.sleep(0.3), os._exit(0))).start()
signal.signal(signal.SIGTERM, stop)
print("listening", flush=True)
server.serve_forever()
time.sleep(30)
"""


def python(code, **changes):
    """A revision that runs *code*."""
    settings = {"startup_probe": QUICK, "env": ()} | changes
    return Revision(
        name=settings.pop("name", "echo-00001-abc"),
        service="echo",
        project="p",
        region="r",
        image=IMAGE,
        service_account=EMAIL,
        command=("python3", "-c"),
        args=(code,),
        **settings,
    )


class Everybody:
    def allows(self, email, permission, resource):
        return True


class World:
    """One data plane behind an ingress, and a client."""

    def __init__(self, state, cloud_id):
        self.settings = Settings(state=state, port=9)  # nothing listens there: no image is ever pulled
        self.cloud_id = cloud_id
        self.store = Store(state / "cloud.db")
        self.identity = Identity(state / "keys")
        self.docker = docker.from_env()

    @asynccontextmanager
    async def plane(self, **options):
        plane = DockerDataPlane(
            settings=self.settings, cloud_id=self.cloud_id, store=self.store, registry_token=lambda: "t", **options
        )
        await plane.open(create_metadata(plane.workload, self.identity, self.settings, lambda email: "123"))
        door = FrontDoor(service=SERVICE, audiences=frozenset(), hosts=frozenset())
        lookup = {SERVICE: door}
        ingress = create_ingress(lambda port: lookup.get(plane.service_at(port)), self.identity, Everybody(), plane)
        await plane.publish(ingress)
        try:
            yield plane
        finally:
            await plane.close()

    def containers(self):
        label = f"dev.mcpfleet.cloud={self.cloud_id}"
        return self.docker.containers.list(all=True, filters={"label": label})

    def run(self, scenario):
        async def bounded():
            async with asyncio.timeout(90):
                await scenario()

        asyncio.run(bounded())


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path, f"test-{uuid.uuid4().hex[:8]}")
    yield world
    remove_docker_objects(world.cloud_id)
    assert world.containers() == []
    world.docker.close()
    world.store.close()


async def attempts():
    """One look after the other, until the scenario's own time is up."""
    while True:
        yield
        await asyncio.sleep(0.1)


async def connect(plane, path):
    port = int(plane.address(SERVICE).rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n".encode())
    return reader, writer


async def get(plane, path):
    """Status and body."""
    reader, writer = await connect(plane, path)
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


async def serve(plane, revision):
    plane.address(SERVICE)
    await plane.start(revision)
    await plane.route(SERVICE, revision)


@pytest.mark.parametrize(
    ("code", "changes", "google", "advice"),
    [
        pytest.param(
            "import time; print('I sleep', flush=True); time.sleep(99)",
            {},
            "failed to start and listen on the port defined provided by the PORT=8080 environment variable",
            "nothing in it listens on any port",
            id="never listens",
        ),
        pytest.param(
            "import sys; print('no DATABASE_URL', flush=True); sys.exit(3)",
            {},
            "Container called exit(3).",
            "failed at start",
            id="crashes",
        ),
        pytest.param(
            SERVER,
            {"env": (("BIND", "127.0.0.1"),)},
            "failed to start and listen on the port",
            "listens on 127.0.0.1:8080, which nothing outside the container reaches. Let it listen on 0.0.0.0:8080",
            id="listens on 127.0.0.1",
        ),
        pytest.param(
            SERVER,
            {"env": (("LISTEN", "5000"),)},
            "failed to start and listen on the port",
            "listens on port 5000, not on 8080",
            id="listens on another port",
        ),
        pytest.param(
            "print('eating', flush=True); x = bytearray(400 * 2**20); x[:] = b'1' * len(x)",
            {"memory_bytes": 64 * 2**20},
            "Memory limit of 64 MiB exceeded",
            "more memory",
            id="out of memory",
        ),
        pytest.param(
            SERVER,
            {"startup_probe": replace(QUICK, http_path="/missing-501", port=8080), "env": (("LISTEN", "5000"),)},
            "failed the configured startup probe checks",
            "listens on port 5000",
            id="HTTP probe fails",
        ),
    ],
)
def test_a_revision_that_cannot_serve_is_told_why_and_nothing_of_it_stays(world, code, changes, google, advice):
    async def scenario():
        async with world.plane() as plane:
            with pytest.raises(RolloutError) as refusal:
                await plane.start(python(code, **changes))
            text = str(refusal.value)
            assert text.startswith("Revision 'echo-00001-abc' is not ready and cannot serve traffic. ")
            assert google in text.partition("\n")[0]
            assert advice in text.rpartition("What to change: ")[2]
            assert world.containers() == []
            assert (await plane.logs(SERVICE)) or code is SERVER

    world.run(scenario)


def test_a_program_that_is_not_in_the_image_is_named(world):
    async def scenario():
        async with world.plane() as plane:
            with pytest.raises(RolloutError, match=r"no-such-program.*not found"):
                await plane.start(replace(python(""), command=("no-such-program",)))
            assert world.containers() == []

    world.run(scenario)


def test_an_image_that_does_not_exist_is_named(world):
    async def scenario():
        async with world.plane() as plane:
            with pytest.raises(RolloutError, match=r"Image '127\.0\.0\.1:9/x/y:1' could not be fetched"):
                await plane.resolve("127.0.0.1:9/x/y:1")

    world.run(scenario)


def test_a_crash_at_start_is_noticed_long_before_the_probes_window_closes(world):
    async def scenario():
        async with world.plane() as plane:
            patient = Probe(port=8080, timeout=240, period=240, failure_threshold=1)
            async with asyncio.timeout(20):
                with pytest.raises(RolloutError):
                    await plane.start(python("raise SystemExit(1)", startup_probe=patient))

    world.run(scenario)


def test_a_container_gets_cloud_runs_environment_and_is_process_one(world):
    async def scenario():
        async with world.plane() as plane:
            await serve(plane, python(SERVER, env=(("MCP_PATH", "/mcp"),)))
            status, body = await get(plane, "/env")
            env = json.loads(body)
            assert (status, env["pid"]) == (200, 1)
            assert (env["PORT"], env["K_SERVICE"], env["K_REVISION"]) == ("8080", "echo", "echo-00001-abc")
            assert env["MCP_PATH"] == "/mcp"

    world.run(scenario)


def test_a_container_gets_an_id_token_from_the_metadata_server(world):
    async def scenario():
        async with world.plane() as plane:
            await serve(plane, python(SERVER))
            path = "/metadata/computeMetadata/v1/instance/service-accounts/default/identity?audience=https://a"
            status, token = await get(plane, path)
            claims = world.identity.verify_id_token(token.decode())
            assert (status, claims.email, claims.audience) == (200, EMAIL, "https://a")

    world.run(scenario)


def test_a_stream_arrives_chunk_by_chunk(world):
    async def scenario():
        async with world.plane() as plane:
            await serve(plane, python(SERVER))
            reader, writer = await connect(plane, "/stream")
            seen = await reader.readuntil(b"one\r\n")  # the server sends the rest only after /go
            assert b"two" not in seen
            await get(plane, "/go")
            assert (await reader.read()).endswith(b"two\r\n0\r\n\r\n")
            writer.close()

    world.run(scenario)


def test_a_killed_container_is_replaced_and_what_it_served_gets_503(world):
    async def scenario():
        async with world.plane() as plane:
            await serve(plane, python(SERVER))
            (before,) = world.containers()
            hanging = asyncio.create_task(get(plane, "/hang"))
            await get(plane, "/env")  # `/hang` went first
            await asyncio.to_thread(before.kill, "SIGKILL")
            assert (await hanging)[0] == 503
            status, name = await get(plane, "/")
            async for _ in attempts():
                if before.id not in [each.id for each in world.containers()]:
                    break
            (after,) = world.containers()
            assert (status, after.short_id) == (200, name.decode())
            assert after.id != before.id
            assert "Container called exit(137)." in await plane.logs(SERVICE)

    world.run(scenario)


def test_an_instance_whose_liveness_probe_fails_is_replaced(world):
    async def scenario():
        async with world.plane() as plane:
            probe = Probe(port=8080, http_path="/alive", timeout=1, period=1, failure_threshold=2)
            await serve(plane, python(SERVER, liveness_probe=probe))
            _, before = await get(plane, "/")
            await get(plane, "/sick")
            after = before
            async for _ in attempts():
                status, after = await get(plane, "/")
                if after != before:
                    break
            assert status == 200

    world.run(scenario)


def test_full_instances_bring_another_one_up_and_no_more_than_the_maximum(world):
    async def scenario():
        async with world.plane() as plane:
            await serve(plane, python(SERVER, concurrency=1, max_instances=2))
            answers = await asyncio.gather(*(get(plane, "/slow") for _ in range(4)))
            assert {status for status, _ in answers} == {200}
            assert len(world.containers()) == 2

    world.run(scenario)


def test_an_idle_service_scales_to_zero_and_wakes_up_for_a_request(world):
    async def scenario():
        async with world.plane(idle_after=0.5) as plane:
            await serve(plane, python(SERVER))
            async for _ in attempts():
                if not world.containers():
                    break
            assert (await get(plane, "/"))[0] == 200

    world.run(scenario)


def test_the_next_process_takes_over_what_the_last_one_left_running(world):
    async def scenario():
        revision = python(SERVER)
        async with world.plane() as plane:
            await serve(plane, revision)
            address = plane.address(SERVICE)
            (before,) = world.containers()
        async with world.plane() as plane:
            await serve(plane, revision)
            assert [each.id for each in world.containers()] == [before.id]
            assert plane.address(SERVICE) == address
            assert (await get(plane, "/"))[0] == 200
            before.kill("SIGKILL")  # it is watched as before
            assert (await get(plane, "/"))[0] in (200, 503)
            async for _ in attempts():
                if before.id not in [each.id for each in world.containers()]:
                    break
            assert (await get(plane, "/"))[0] == 200

    world.run(scenario)


def test_what_no_revision_wants_any_more_is_swept_away(world):
    async def scenario():
        kept, gone = python(SERVER), python(SERVER, name="echo-00002-abc")
        async with world.plane() as plane:
            await asyncio.gather(plane.start(kept), plane.start(gone))
        async with world.plane() as plane:
            await plane.sweep([kept])
            assert [each.labels["dev.mcpfleet.revision"] for each in world.containers()] == [kept.name]

    world.run(scenario)


def test_a_retired_revision_finishes_its_requests_then_gets_sigterm(world):
    async def scenario():
        async with world.plane() as plane:
            old, new = python(SERVER), python(SERVER, name="echo-00002-abc")
            await serve(plane, old)
            slow = asyncio.create_task(get(plane, "/slower"))
            await get(plane, "/arrived")
            await serve(plane, new)
            await plane.retire(old)
            assert slow.done(), "retired only once its request was answered"
            assert await slow == (200, b"slower")
            assert [each.labels["dev.mcpfleet.revision"] for each in world.containers()] == [new.name]
            assert "stopping\n" in await plane.logs(SERVICE)
            assert (await get(plane, "/"))[0] == 200

    world.run(scenario)


def test_a_revision_of_a_dead_process_can_be_retired_and_a_service_removed(world):
    async def scenario():
        revision = python(SERVER)
        async with world.plane() as plane:
            await serve(plane, revision)
        async with world.plane() as plane:
            await plane.retire(revision)
            assert world.containers() == []
            await serve(plane, revision)
            await plane.remove(SERVICE)
            assert world.containers() == []
            assert world.store.list("address") == []

    world.run(scenario)


def test_a_program_that_ignores_sigterm_is_not_waited_for(world):
    code = "import http.server; http.server.HTTPServer(('', 8080), None).serve_forever()"

    async def scenario():
        async with world.plane() as plane:
            revision = python(code)
            await serve(plane, revision)
            async with asyncio.timeout(8):  # less than the ten seconds between SIGTERM and SIGKILL
                await plane.remove(SERVICE)

    world.run(scenario)


def test_a_removed_cloud_leaves_nothing_in_docker(world):
    async def scenario():
        async with world.plane() as plane:
            await serve(plane, python(SERVER))
            removed = await plane.destroy_all()
            assert [line.split()[0] for line in removed] == ["container", "network"]
        assert world.containers() == []
        assert world.docker.networks.list(filters={"label": f"dev.mcpfleet.cloud={world.cloud_id}"}) == []

    world.run(scenario)
