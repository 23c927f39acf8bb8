"""A data plane with real containers behind an ingress."""

import asyncio
import uuid
from contextlib import asynccontextmanager, contextmanager
from dataclasses import fields

from mcpfleet_local_cloud import docker_engine
from mcpfleet_local_cloud.data_plane import DockerDataPlane, remove_docker_objects
from mcpfleet_local_cloud.data_plane.contract import Container, Probe, Revision, ServiceEndpoint
from mcpfleet_local_cloud.front_end.ingress import create_ingress
from mcpfleet_local_cloud.identity.metadata import create_metadata_app
from mcpfleet_local_cloud.identity.tokens import Identity
from mcpfleet_local_cloud.state.folder import Settings
from mcpfleet_local_cloud.state.store import Store

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


def python(code, *sidecars, name="echo-00001-abc", container="", **changes):
    """A revision that runs *code*; *changes* are of its ingress container where one has such a field."""
    given = {
        "image": IMAGE,
        "command": ("python3", "-c"),
        "args": (code,),
        "port": 8080,
        "startup_probe": QUICK,
    } | changes
    own = {field.name: given.pop(field.name) for field in fields(Container) if field.name in given}
    return Revision(
        name=name,
        service="echo",
        project="p",
        region="r",
        containers=(Container(name=container, **own), *sidecars),
        service_account=EMAIL,
        **given,
    )


class Everybody:
    def allows(self, email, permission, resource):
        return True


class World:
    """A data plane behind an ingress, and a client."""

    def __init__(self, state, cloud_id):
        self.settings = Settings(state=state, port=9)  # nothing listens there: no image is ever pulled
        self.cloud_id = cloud_id
        self.store = Store(state / "cloud.db")
        self.identity = Identity(state / "keys")
        self.docker = docker_engine.create_client()

    @asynccontextmanager
    async def plane(self, **options):
        plane = DockerDataPlane(
            settings=self.settings, cloud_id=self.cloud_id, store=self.store, registry_token=lambda: "t", **options
        )
        await plane.open(create_metadata_app(plane.find_workload, self.identity, self.settings, lambda email: "123"))
        door = ServiceEndpoint(service=SERVICE, audiences=frozenset(), hosts=frozenset())
        lookup = {SERVICE: door}
        ingress = create_ingress(lambda port: lookup.get(plane.find_service(port)), self.identity, Everybody(), plane)
        await plane.publish(ingress)
        try:
            yield plane
        finally:
            await plane.close()

    def containers(self):
        """The containers of services, without the gateway container."""
        labels = [f"dev.mcpfleet.cloud={self.cloud_id}", "dev.mcpfleet.service"]
        return self.docker.containers.list(all=True, filters={"label": labels}, ignore_removed=True)

    def volumes(self):
        """The volumes of services, without the gateway container's."""
        labels = [f"dev.mcpfleet.cloud={self.cloud_id}", "dev.mcpfleet.service"]
        return self.docker.volumes.list(filters={"label": labels})

    def gateway(self):
        """The gateway container."""
        labels = [f"dev.mcpfleet.cloud={self.cloud_id}", "dev.mcpfleet.role=gateway"]
        (found,) = self.docker.containers.list(all=True, filters={"label": labels}, ignore_removed=True)
        return found

    def networks(self):
        """The names of this cloud's networks."""
        filters = {"label": f"dev.mcpfleet.cloud={self.cloud_id}"}
        return sorted(each.name for each in self.docker.networks.list(filters=filters))

    def run(self, scenario):
        async def bounded():
            async with asyncio.timeout(90):
                await scenario()

        asyncio.run(bounded())


@contextmanager
def a_world(state):
    """A world that leaves nothing in Docker."""
    world = World(state, f"test-{uuid.uuid4().hex[:8]}")
    try:
        yield world
    finally:
        remove_docker_objects(world.cloud_id)
        assert world.containers() == []
        world.docker.close()
        world.store.close()


async def attempts():
    """Yield repeatedly until the scenario's time limit."""
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
