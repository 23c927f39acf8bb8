"""Tests of the leftovers of a destroyed stack, kind by kind, and of the client of the admin API."""

import json
from dataclasses import dataclass, field
from types import SimpleNamespace

import httpx2
import pytest

from mcpfleet_local_cloud.commands import leftovers
from mcpfleet_local_cloud.commands.admin import AdminClient
from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.phases import SetupError
from mcpfleet_local_cloud.commands.stack_state import state_file

CLOUD = {"id": "c0ffee", "pid": 1}
EMPTY = {
    "registry": "127.0.0.1:18300",
    "services": [],
    "records": [],
    "operations": [],
    "repositories": [],
    "images": [
        "projects/mcpfleet-public/locations/us/repositories/images/dockerImages/base@sha256:0",
        "us/mcpfleet-public/images/base",
    ],
    "serviceAccounts": [
        "deployer@mcpfleet-local.iam.gserviceaccount.com",
        "481516234200-compute@developer.gserviceaccount.com",
    ],
}


@dataclass
class Thing:
    name: str
    labels: dict = field(default_factory=dict)
    tags: list = field(default_factory=list)
    attrs: dict = field(default_factory=dict)
    removed: bool = False

    def remove(self, **options):
        self.removed = True


@dataclass
class Shelf:
    things: list

    def list(self, all=None, filters=None):  # noqa: A002 - as Docker names it
        if filters is None:
            return self.things
        key, _, value = filters["label"].partition("=")
        return [item for item in self.things if item.labels.get(key) == value and not item.removed]


class Images(Shelf):
    """A digest goes with the last tag of its image, as in Docker."""

    def remove(self, reference):
        (image,) = [item for item in self.things if reference in item.tags] or [None]
        if image is None:
            raise leftovers.ImageNotFound(reference)
        self.things.remove(image)


@dataclass
class FakeDocker:
    containers: Shelf = field(default_factory=lambda: Shelf([]))
    networks: Shelf = field(default_factory=lambda: Shelf([]))
    images: Images = field(default_factory=lambda: Images([]))

    @property
    def api(self):
        """The client's lower layer, whose `images` are the engine's own documents."""
        documents = [
            {"RepoTags": item.tags or None, "RepoDigests": item.attrs.get("RepoDigests")} for item in self.images.things
        ]
        return SimpleNamespace(images=lambda: [*documents, {"RepoTags": ["<none>:<none>"], "RepoDigests": None}])


@pytest.fixture
def folder(tmp_path):
    return CloudFolder(root=tmp_path, state=tmp_path / "state", port=8470)


@pytest.fixture
def docker():
    return FakeDocker()


def ours(name, cloud="c0ffee", service="mcp-echo"):
    labels = {"dev.mcpfleet.service": service} if service else {}
    return Thing(name, labels={"dev.mcpfleet.cloud": cloud, **labels})


def image(*tags, digests=()):
    return Thing("", tags=[*tags], attrs={"RepoDigests": list(digests) or None})


def test_a_fresh_cloud_has_no_leftovers(folder, docker):
    docker.images.things = [
        image("python:3.13"),
        image("127.0.0.1:18300/us/mcpfleet-public/images/base:latest"),
        image(),
    ]
    docker.containers.things = [ours("x", cloud="other"), Thing("somebody-elses"), ours("gateway", service="")]
    assert leftovers.find(folder, docker, CLOUD, EMPTY) == []


@pytest.mark.parametrize(
    ("held", "line"),
    [
        (
            {"services": [{"name": "projects/p/locations/l/services/mcp-echo"}]},
            "service projects/p/locations/l/services/mcp-echo",
        ),
        (
            {"repositories": ["projects/p/locations/l/repositories/mcpfleet"]},
            "repository projects/p/locations/l/repositories/mcpfleet",
        ),
        ({"records": ["secret projects/1/secrets/db"]}, "secret projects/1/secrets/db"),
        ({"operations": ["projects/p/locations/l/operations/x"]}, "operation projects/p/locations/l/operations/x"),
        ({"images": ["l/p/mcpfleet/echo@sha256:0"]}, "registry content l/p/mcpfleet/echo@sha256:0"),
        (
            {"serviceAccounts": ["mcp-echo@p.iam.gserviceaccount.com"]},
            "service account mcp-echo@p.iam.gserviceaccount.com",
        ),
    ],
)
def test_resources_of_the_local_cloud_are_leftovers(folder, docker, held, line):
    assert leftovers.find(folder, docker, CLOUD, {**EMPTY, **held}) == [line]


def test_docker_objects_of_this_cloud_are_leftovers(folder, docker):
    docker.containers.things = [ours("mcpfleet-echo-1"), ours("another", cloud="other")]
    docker.images.things = [
        image("127.0.0.1:18300/l/p/mcpfleet/echo:1", digests=["127.0.0.1:18300/l/p/mcpfleet/echo@sha256:0"]),
        image("127.0.0.1:183001/l/p/mcpfleet/echo:1"),
    ]
    assert leftovers.find(folder, docker, CLOUD, EMPTY) == [
        "container mcpfleet-echo-1",
        "image 127.0.0.1:18300/l/p/mcpfleet/echo:1",
        "image 127.0.0.1:18300/l/p/mcpfleet/echo@sha256:0",
    ]


def test_resources_in_the_state_are_leftovers(folder, docker):
    file = state_file(folder)
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"checkpoint": {"latest": {"resources": [{"type": "t", "urn": "urn:pulumi:x"}]}}}))
    assert leftovers.find(folder, docker, CLOUD, EMPTY) == ["state: urn:pulumi:x"]


def test_a_cloud_without_an_id_has_nothing_in_docker(folder, docker):
    docker.containers.things = [Thing("x", labels={"dev.mcpfleet.cloud": ""}), ours("y")]
    assert leftovers.find(folder, docker, {}, EMPTY) == []


def test_removing_a_cloud_removes_its_gateway_networks_and_state(folder, docker):
    state_file(folder).parent.mkdir(parents=True)
    state_file(folder).write_text("{}")
    mine, other = ours("mine"), ours("other", cloud="other")
    docker.networks.things = [mine, other]
    gateway, others = ours("gateway", service=""), ours("gateway", cloud="other", service="")
    docker.containers.things = [gateway, others]
    leftovers.remove_cloud(folder, docker, CLOUD)
    assert (mine.removed, other.removed) == (True, False)
    assert (gateway.removed, others.removed) == (True, False)
    assert not (folder.state / "pulumi").exists()
    leftovers.remove_cloud(folder, docker, CLOUD)


def test_a_container_left_at_the_end_is_an_error(folder, docker):
    docker.containers.things = [ours("late")]
    with pytest.raises(SetupError, match="Docker still has late"):
        leftovers.remove_cloud(folder, docker, CLOUD)
    with pytest.raises(SetupError, match="Docker still has late") as failure:
        leftovers.remove_cloud(folder, docker, CLOUD, "type this.")
    assert failure.value.next_step == "type this."


# The local cloud, asked.


@pytest.fixture
def admin(folder):
    """`admin(answer)`: one whose cloud gives that answer, and the requests that it sent."""
    folder.cloud_state.mkdir(parents=True)
    (folder.cloud_state / "admin-token").write_text("s3cret\n")

    def admin(answer):
        sent = []

        def handle(request):
            sent.append(request)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return AdminClient(folder, httpx2.MockTransport(handle)), sent

    return admin


def test_the_cloud_is_called_with_its_own_token(admin):
    cloud, sent = admin(httpx2.Response(200, json=EMPTY))
    assert cloud.inventory() == EMPTY
    assert str(sent[0].url) == "http://127.0.0.1:8470/_local/inventory"
    assert sent[0].headers["authorization"] == "Bearer s3cret"


def test_logs_returns_the_lines_of_one_service(admin):
    cloud, sent = admin(httpx2.Response(200, text="one\ntwo\n"))
    assert cloud.logs("projects/p/locations/l/services/mcp-echo&lines=1") == ["one", "two"]
    assert dict(sent[0].url.params) == {"service": "projects/p/locations/l/services/mcp-echo&lines=1"}


def test_a_reset_removes_the_state_and_the_built_images(admin, folder):
    state_file(folder).parent.mkdir(parents=True)
    state_file(folder).write_text("corrupt")
    cloud, sent = admin(httpx2.Response(200, json=EMPTY))
    folder.published_image_file.parent.mkdir(parents=True, exist_ok=True)
    folder.published_image_file.write_text("sha256:base")
    mine, public, another = "127.0.0.1:18300/r/mcpfleet/a", "127.0.0.1:18300/us/mcpfleet-public/images/base", "other:1"
    engine = FakeDocker(
        images=Images(
            [
                Thing("a", tags=[f"{mine}:latest"], attrs={"RepoDigests": [f"{mine}@sha256:1"]}),
                Thing("base", tags=[f"{public}:latest"]),
                Thing("other", tags=[another]),
            ]
        )
    )
    leftovers.reset(folder, cloud, engine)
    assert [image.name for image in engine.images.list()] == ["base", "other"], "a failed up may have built some"
    assert not folder.published_image_file.exists(), (
        "the registry is empty: the next up has to push the base image again"
    )
    assert [request.method for request in sent] == ["POST", "GET"]
    assert not state_file(folder).exists()


@pytest.mark.parametrize(
    ("answer", "message", "step"),
    [
        (httpx2.ConnectError("refused"), "does not answer at http://127.0.0.1:8470", "./dev up"),
        (httpx2.ReadTimeout("slow"), "does not answer", "./dev up"),
        (
            httpx2.Response(401, json={"error": {"message": "no"}}),
            "does not accept this checkout's token",
            "delete that file",
        ),
        (
            httpx2.Response(404, json={"error": {"message": "mcp-echo not found"}}),
            "answered 404 .*: mcp-echo not found",
            "log",
        ),
        (httpx2.Response(500, text="oops"), "answered 500 .*: oops", "cloud.log"),
        (httpx2.Response(502), "answered 502 .*: Bad Gateway", "cloud.log"),
    ],
)
def test_an_unreachable_cloud_is_an_error_with_the_next_step(admin, answer, message, step):
    cloud, _ = admin(answer)
    with pytest.raises(SetupError, match=message) as failure:
        cloud.logs("mcp-echo")
    assert step in failure.value.next_step
    assert "s3cret" not in failure.value.message + failure.value.next_step


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_missing_token_is_an_error_with_the_next_step(admin, folder, content):
    cloud, sent = admin(httpx2.Response(200))
    file = folder.cloud_state / "admin-token"
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(SetupError) as failure:
        cloud.inventory()
    assert str(file) in failure.value.message
    assert "./dev up" in failure.value.next_step
    assert sent == []
