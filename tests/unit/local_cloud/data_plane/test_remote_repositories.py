"""Tests of remote repositories: an image's upstream, and refused configurations."""

import pytest

from mcpfleet_local_cloud.data_plane.images import Images
from mcpfleet_local_cloud.docker_engine import EngineFacts

BASE = "/artifactregistry/v1/projects/mcpfleet-local/locations/europe-west1/repositories"
REPOSITORY = "gcp:artifactregistry/repository:Repository"
OURS = "127.0.0.1:8470/europe-west1/mcpfleet-local"


def remote(**docker):
    return {"format": "DOCKER", "mode": "REMOTE_REPOSITORY", "remoteRepositoryConfig": {"dockerRepository": docker}}


@pytest.fixture
def api(running):
    running.enable("artifactregistry")
    return running


@pytest.mark.parametrize(
    ("docker", "behind"),
    [
        ({"publicRepository": "DOCKER_HUB"}, "docker.io/acme/x"),
        ({"customRepository": {"uri": "https://ghcr.io"}}, "ghcr.io/acme/x"),
        ({"customRepository": {"uri": "https://ghcr.io/team/"}}, "ghcr.io/team/acme/x"),
    ],
)
def test_an_image_of_a_remote_repository_resolves_to_its_upstream(api, docker, behind):
    assert api.call("POST", f"{BASE}?repository_id=far", remote(**docker)).status_code == 200
    assert api.cloud.repositories.upstream(f"{OURS}/far/acme/x") == behind
    assert api.cloud.repositories.upstream(f"{OURS}/near/acme/x") is None
    assert api.cloud.repositories.upstream("ghcr.io/acme/x") is None


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (remote(), 400),
        ({"format": "DOCKER", "mode": "REMOTE_REPOSITORY"}, 400),
        ({**remote(publicRepository="DOCKER_HUB"), "mode": "STANDARD_REPOSITORY"}, 400),
        ({**remote(publicRepository="DOCKER_HUB"), "mode": "VIRTUAL_REPOSITORY"}, 501),
        (
            {
                "format": "DOCKER",
                "mode": "REMOTE_REPOSITORY",
                "remoteRepositoryConfig": {"upstreamCredentials": {"usernamePasswordCredentials": {"username": "x"}}},
            },
            501,
        ),
    ],
)
def test_a_remote_repository_without_a_valid_upstream_is_refused(api, body, status):
    assert api.call("POST", f"{BASE}?repository_id=far", body).status_code == status


def test_a_second_run_of_a_program_with_a_remote_repository_changes_nothing(api, program):
    inputs = {
        "location": "europe-west1",
        "repositoryId": "far",
        "format": "DOCKER",
        "mode": "REMOTE_REPOSITORY",
        "remoteRepositoryConfig": {
            "description": "ghcr.io",
            "dockerRepository": {"customRepository": {"uri": "https://ghcr.io"}},
        },
    }
    made = program.create(REPOSITORY, inputs)
    assert made.properties["registryUri"] == f"{OURS}/far"
    assert program.diff(REPOSITORY, program.read(REPOSITORY, made), inputs) == {}
    program.delete(REPOSITORY, made)


class Docker:
    """Docker that has one image."""

    class Image:
        id, tags = "sha256:" + "1" * 64, ["ghcr.io/acme/x:1"]
        attrs = {"Os": "linux", "Architecture": "amd64", "RepoDigests": ["ghcr.io/acme/x@sha256:" + "2" * 64]}  # noqa: RUF012

    def __init__(self):
        self.asked = []
        self.client = self
        self.images = self
        self.facts = EngineFacts()

    def get(self, name):
        self.asked.append(name)
        return self.Image()

    async def call(self, work, *args):
        return work(*args)


@pytest.mark.anyio
async def test_docker_pulls_the_upstream_image_and_the_repositorys_name_is_kept(anyio_backend):
    docker = Docker()
    images = Images(
        docker,
        registry=lambda: "127.0.0.1:8470",
        access_token=lambda: "t",
        service_agent="agent",
        upstream=lambda name: name.replace(f"{OURS}/far", "ghcr.io") if name.startswith(f"{OURS}/far/") else None,
    )
    name, image_id = await images.fetch(f"{OURS}/far/acme/x:1")
    assert name == f"{OURS}/far/acme/x@sha256:{'2' * 64}"
    assert image_id == "sha256:" + "1" * 64
    assert docker.asked == ["ghcr.io/acme/x:1"]


@pytest.fixture
def anyio_backend():
    return "asyncio"
