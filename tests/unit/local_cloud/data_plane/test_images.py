"""Tests of resolving an image's reference, with a fake Docker."""

import asyncio

import pytest

from mcpfleet_local_cloud.data_plane.contract import RolloutError
from mcpfleet_local_cloud.data_plane.images import APIError, ImageNotFound, Images, parse_reference
from mcpfleet_local_cloud.docker_engine import EngineFacts

REGISTRY = "127.0.0.1:8470"
OWN = f"{REGISTRY}/europe-west1/p/mcpfleet/echo"
DIGEST = "sha256:" + "a" * 64
ID = "sha256:" + "b" * 64


class FakeImage:
    def __init__(self, *, tags=(), digests=(), platform="linux/amd64", image_id=ID):
        self.id = image_id
        self.tags = list(tags)
        os_name, architecture = platform.split("/")
        self.attrs = {"RepoDigests": list(digests), "Os": os_name, "Architecture": architecture}


class FakeDocker:
    """Docker's images: the local ones, and those that a pull finds."""

    def __init__(self, *present, remote=(), steps=(), refusal=None, architecture="amd64", only=None):
        self.present = list(present)
        self.remote = list(remote)
        self.steps = steps
        self.refusal = refusal
        self.only = only
        self.pulls = []
        self.removed = []
        self.images = self
        self.api = self
        self.client = self
        self.facts = EngineFacts(architecture=architecture)

    async def call(self, work, *args):
        return work(*args)

    def get(self, name):
        for image in self.present:
            if name in [*image.tags, *image.attrs["RepoDigests"], image.id]:
                return image
        raise ImageNotFound(name)

    def pull(self, repository, *, tag, auth_config, platform, stream, decode):
        self.pulls.append((repository, tag, auth_config, platform))
        if self.refusal:
            raise self.refusal
        if self.only not in (None, platform):
            raise refusal(404, f"no matching manifest for {platform} in the manifest list entries")
        self.present += self.remote
        return iter(self.steps)

    def remove(self, name):
        self.removed.append(name)


def refusal(status, text):
    class Reply:
        status_code = status
        reason = text
        url = "u"

    return APIError(text, response=Reply(), explanation=text)


def fetch(docker, image):
    images = Images(docker, registry=lambda: REGISTRY, access_token=lambda: "ya29.x", service_agent="agent@g")
    return asyncio.run(images.fetch(image))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("python", ("python", None, None)),
        ("python:3.13", ("python", "3.13", None)),
        (f"{OWN}:v1", (OWN, "v1", None)),
        (OWN, (OWN, None, None)),
        (f"{OWN}@{DIGEST}", (OWN, None, DIGEST)),
        (f"{OWN}:v1@{DIGEST}", (OWN, "v1", DIGEST)),
    ],
)
def test_references_are_split_as_docker_splits_them(text, parts):
    reference = parse_reference(text)
    assert (reference.repository, reference.tag, reference.digest) == parts


def test_a_digest_that_docker_has_is_not_pulled_again():
    docker = FakeDocker(FakeImage(digests=[f"{OWN}@{DIGEST}"]))
    assert fetch(docker, f"{OWN}@{DIGEST}") == (f"{OWN}@{DIGEST}", ID)
    assert docker.pulls == []


def test_a_digest_of_the_local_registry_is_pulled_as_the_service_agent():
    docker = FakeDocker(remote=[FakeImage(digests=[f"{OWN}@{DIGEST}"])])
    assert fetch(docker, f"{OWN}@{DIGEST}") == (f"{OWN}@{DIGEST}", ID)
    credentials = {"username": "oauth2accesstoken", "password": "ya29.x"}
    assert docker.pulls == [(OWN, DIGEST, credentials, "linux/amd64")]


def test_a_tag_of_the_local_registry_is_always_pulled():
    image = FakeImage(tags=[f"{OWN}:v1"], digests=[f"{OWN}@{DIGEST}"])
    docker = FakeDocker(image)
    assert fetch(docker, f"{OWN}:v1") == (f"{OWN}@{DIGEST}", ID)
    assert len(docker.pulls) == 1


def test_credentials_are_not_sent_to_another_registry():
    docker = FakeDocker(remote=[FakeImage(tags=["other.test/x:1"], digests=[f"other.test/x@{DIGEST}"])])
    fetch(docker, "other.test/x:1")
    assert docker.pulls[0][2] is None


def test_an_unpushed_image_has_a_stable_name_that_resolves_to_it():
    docker = FakeDocker(FakeImage(tags=["mcpfleet/base:python3.13"]))
    name, _ = fetch(docker, "mcpfleet/base:python3.13")
    assert name == f"mcpfleet/base@{ID}"
    assert fetch(docker, name) == (name, ID)
    assert docker.pulls == []


def test_the_stable_name_does_not_resolve_for_another_repository():
    docker = FakeDocker(FakeImage(tags=["mcpfleet/base:python3.13"]), refusal=refusal(404, "manifest unknown"))
    with pytest.raises(RolloutError, match="not found"):
        fetch(docker, f"mcpfleet/other@{ID}")


@pytest.mark.parametrize("platform", ["linux/arm64", "windows/amd64"])
def test_an_image_for_another_platform_is_refused_with_googles_message(platform):
    docker = FakeDocker(FakeImage(tags=["x:1"], platform=platform))
    with pytest.raises(RolloutError, match=r"Container manifest type '.*' must support amd64/linux\."):
        fetch(docker, "x:1")


@pytest.mark.parametrize("platform", ["linux/arm64", "linux/amd64"])
def test_an_arm_machine_runs_its_own_images_and_emulates_those_of_cloud_run(platform):
    docker = FakeDocker(FakeImage(tags=["x:1"], platform=platform), architecture="arm64")
    assert fetch(docker, "x:1")[1] == ID


def test_an_arm_machine_refuses_images_of_other_platforms():
    docker = FakeDocker(FakeImage(tags=["x:1"], platform="linux/s390x"), architecture="arm64")
    with pytest.raises(RolloutError, match=r"must support amd64/linux"):
        fetch(docker, "x:1")


@pytest.mark.parametrize(
    ("only", "asked"),
    [(None, ["linux/arm64"]), ("linux/arm64", ["linux/arm64"]), ("linux/amd64", ["linux/arm64", "linux/amd64"])],
)
def test_an_arm_machine_pulls_its_own_platform_or_else_cloud_runs(only, asked):
    docker = FakeDocker(remote=[FakeImage(digests=[f"{OWN}@{DIGEST}"])], architecture="arm64", only=only)
    fetch(docker, f"{OWN}@{DIGEST}")
    assert [pull[-1] for pull in docker.pulls] == asked


def test_an_arm_machine_reports_an_image_without_either_platform():
    docker = FakeDocker(architecture="arm64", only="linux/s390x")
    with pytest.raises(RolloutError, match=r"no matching manifest for linux/amd64"):
        fetch(docker, "x:1")


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (refusal(404, "manifest for x not found: manifest unknown"), r"^Image 'OWN:v1' not found\."),
        (refusal(500, "no matching manifest for linux/amd64 in the manifest list entries"), "must support amd64/linux"),
        (refusal(403, "denied"), "Service Agent agent@g must have permission to read the image"),
        (refusal(500, "unauthorized: x"), "roles/artifactregistry.reader"),
        (refusal(500, "dial tcp: connection refused"), r"could not be fetched: dial tcp: connection refused\."),
    ],
)
def test_a_failed_pull_is_reported_with_cause_and_next_step(failure, words):
    with pytest.raises(RolloutError, match=words.replace("OWN", OWN)):
        fetch(FakeDocker(refusal=failure), f"{OWN}:v1")


def test_a_failure_during_a_pull_is_reported():
    docker = FakeDocker(steps=[{"status": "Pulling"}, {"error": "no space left on device"}])
    with pytest.raises(RolloutError, match="no space left on device"):
        fetch(docker, f"{OWN}:v1")


def forget(docker, image, in_use=()):
    images = Images(docker, registry=lambda: REGISTRY, access_token=lambda: "t", service_agent="a")
    asyncio.run(images.remove(image, lambda: set(in_use)))
    return docker.removed


def test_only_images_of_the_local_registry_are_removed():
    image = FakeImage(tags=[f"{OWN}:v1", "kept:1"], digests=[f"{OWN}@{DIGEST}", f"other.test/x@{DIGEST}"])
    assert forget(FakeDocker(image), f"{OWN}@{DIGEST}") == [f"{OWN}:v1", f"{OWN}@{DIGEST}"]


def test_images_in_use_and_foreign_images_are_not_removed():
    image = FakeImage(tags=["base:1"], digests=[f"{OWN}@{DIGEST}", f"base@{DIGEST}"])
    assert forget(FakeDocker(image), f"{OWN}@{DIGEST}", in_use=[f"{OWN}@{DIGEST}"]) == []
    assert forget(FakeDocker(image), f"base@{DIGEST}") == []
