"""The cache of the base image's layers: what one registry was sent is put into the next one; nothing depends on it."""

import hashlib

import httpx2
import pytest

from mcpfleet_local_cloud.commands.layers import Repository

LAYER = b"a layer" * 1000
DIGEST = f"sha256:{hashlib.sha256(LAYER).hexdigest()}"
NAME = "us/mcpfleet-public/images/base"


class Registry:
    """The part of a registry that a push needs."""

    def __init__(self):
        self.blobs, self.refuses, self.garbles = {}, False, False

    def __call__(self, request):
        assert request.headers["authorization"].startswith("Basic ")
        path = request.url.path.removeprefix(f"/v2/{NAME}")
        if self.refuses:
            return httpx2.Response(503)
        if request.method == "POST":
            assert path == "/blobs/uploads/"
            return httpx2.Response(202, headers={"location": f"/v2/{NAME}/blobs/uploads/u1?state=x"})
        if request.method == "PUT":
            assert path == "/blobs/uploads/u1"
            self.blobs[request.url.params["digest"]] = request.read()
            return httpx2.Response(201)
        if path == "/manifests/latest":
            return httpx2.Response(200, json={"layers": [{"digest": digest} for digest in self.blobs]})
        content = self.blobs[path.removeprefix("/blobs/")]
        return httpx2.Response(200, content=content[:-1] if self.garbles else content)


@pytest.fixture
def registry():
    return Registry()


@pytest.fixture
def at():
    return lambda registry: Repository(
        "http://127.0.0.1:1", NAME, ("oauth2accesstoken", "t"), httpx2.MockTransport(registry)
    )


def test_saved_layers_are_uploaded_to_the_next_registry(registry, at, tmp_path):
    registry.blobs[DIGEST] = LAYER
    at(registry).save_layers("latest", tmp_path / "kept")
    following = Registry()
    at(following).upload_layers(tmp_path / "kept")
    assert following.blobs == {DIGEST: LAYER}


def test_layers_that_the_image_no_longer_has_are_removed(registry, at, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "sha256-old").write_bytes(b"old")
    registry.blobs[DIGEST] = LAYER
    at(registry).save_layers("latest", tmp_path / "kept")
    assert [file.name for file in (tmp_path / "kept").iterdir()] == [DIGEST.replace(":", "-")]


def test_a_damaged_layer_is_not_saved(registry, at, tmp_path):
    registry.blobs[DIGEST] = LAYER
    registry.garbles = True
    at(registry).save_layers("latest", tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_registry_only_disables_the_saved_layers(registry, at, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / DIGEST.replace(":", "-")).write_bytes(LAYER)
    registry.refuses = True
    at(registry).upload_layers(tmp_path / "kept")
    at(registry).upload_layers(tmp_path / "none")
    at(registry).save_layers("latest", tmp_path / "kept")
    assert [file.name for file in (tmp_path / "kept").iterdir()] == [DIGEST.replace(":", "-")]
