"""Docker's networks and containers as far as the gateway container needs them, in memory."""

from ipaddress import IPv4Network
from types import SimpleNamespace

from mcpfleet_local_cloud.data_plane import gateway_container
from mcpfleet_local_cloud.docker_engine import EngineFacts

APIError, ImageNotFound, NotFound = (
    gateway_container.APIError,
    gateway_container.ImageNotFound,
    gateway_container.NotFound,
)
CLOUD = "c1"
LABEL = "dev.mcpfleet.cloud"


def refusal(said, status=403):
    return APIError("refused", SimpleNamespace(status_code=status, reason="", url=""), said)


class FakeNetwork:
    def __init__(self, docker, name, subnet, labels):
        self.docker, self.name = docker, name
        self.attrs = {"Labels": labels, "IPAM": {"Config": [*docker.more, {"Subnet": str(subnet)}]}, "Containers": {}}
        self.attached = {}

    def reload(self):
        pass

    def connect(self, container, ipv4_address):
        if container in self.attached:
            raise refusal(f"endpoint with name {container} already exists in network {self.name}")
        if container not in self.docker.containers.by_name:
            raise NotFound(f"No such container: {container}")
        self.attached[container] = ipv4_address
        self.docker.containers.by_name[container].networks.add(self.name)

    def disconnect(self, container, force):
        if self.attached.pop(container, None) is None:
            raise refusal("is not connected", 404)

    def remove(self):
        self.docker.networks.things.remove(self)


class FakeNetworks:
    def __init__(self, docker, pools):
        self.docker, self.pools, self.things, self.refused = docker, [IPv4Network(pool) for pool in pools], [], 0

    def _in_use(self, subnet):
        taken = [IPv4Network(item.attrs["IPAM"]["Config"][-1]["Subnet"]) for item in self.things]
        return any(subnet.overlaps(item) for item in taken)

    def list(self, filters):
        key, _, value = filters["label"].partition("=")
        return [item for item in self.things if item.attrs["Labels"].get(key) == value]

    def get(self, name):
        for one in self.things:
            if one.name == name:
                return one
        raise NotFound(name)

    def create(self, name, labels, ipam=None, **_):
        if ipam is None:
            subnet = next(pool for pool in self.pools if not self._in_use(pool))
        else:
            subnet = IPv4Network(ipam["Config"][0]["Subnet"])
            if self._in_use(subnet):
                self.refused += 1
                raise refusal("Pool overlaps with other one on this address space")
        self.things.append(FakeNetwork(self.docker, name, subnet, labels))
        return self.things[-1]


class FakeContainer:
    def __init__(self, docker, spec):
        self.docker, self.spec, self.name = docker, spec, spec["name"]
        self.id = f"id{docker.made}"
        self.labels = spec["labels"]
        self.networks = {spec["network"]}
        self.running = False
        self.files = {}

    @property
    def attrs(self):
        return {"NetworkSettings": {"Networks": dict.fromkeys(self.networks)}}

    def put_archive(self, path, data):
        self.files[path] = data

    def start(self):
        for _, port in self.spec["ports"].values():
            if port in self.docker.taken_ports:
                raise refusal(f"driver failed: Bind for 127.0.0.1:{port} failed: port is already allocated", 500)
        self.running = True

    def remove(self, force, v):
        del self.docker.containers.by_name[self.name]
        for network in self.docker.networks.things:
            network.attached.pop(self.name, None)


class FakeDocker:
    """A fake `docker.DockerClient`."""

    def __init__(self, *pools, image="sha256:base"):
        self.networks = FakeNetworks(self, pools or ["172.20.0.0/16"])
        self.taken_ports = set()
        self.made = 0
        self.more = []
        """What each network has besides its IPv4 addresses."""
        self.containers = SimpleNamespace(by_name={}, list=self._list, create=self._create)
        self.images = SimpleNamespace(get=self._image)
        self.image = image
        self.api = SimpleNamespace(create_endpoint_config=lambda **given: given)

    def _image(self, name):
        if self.image is None:
            raise ImageNotFound(name)
        return SimpleNamespace(id=self.image)

    def _list(self, filters, **_):
        wanted = [item.partition("=")[::2] for item in filters["label"]]
        every = self.containers.by_name.values()
        return [item for item in every if all(item.labels.get(key) == value for key, value in wanted)]

    def _create(self, **spec):
        assert spec["name"] not in self.containers.by_name, "Docker refuses a second container of a name"
        self.made += 1
        self.containers.by_name[spec["name"]] = FakeContainer(self, spec)
        return self.containers.by_name[spec["name"]]


class FakeEngine:
    """`Engine` whose calls are made at once."""

    def __init__(self, docker):
        self.client, self.cloud_id, self.facts = docker, CLOUD, EngineFacts()

    async def call(self, work, *args):
        return work(*args)
