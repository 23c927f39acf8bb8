"""The OCI registry, driven through its routes in memory."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.testclient import TestClient

from mcpfleet_local_cloud.registry import BlobStore, Catalog, ImageName, RegistryError, routes
from mcpfleet_local_cloud.registry.blobs import digest_of
from mcpfleet_local_cloud.rest.errors import GoogleError
from mcpfleet_local_cloud.state.store import Store

NAME = "europe-west1/acme/mcpfleet/reference"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Doorkeeper:
    """Lets `good` in everywhere but into the repository `other`, and remembers what was pushed."""

    def __init__(self):
        self.pushes = []

    def authenticate(self, token):
        if token != "good":
            raise GoogleError("UNAUTHENTICATED", "Request had invalid authentication credentials.")

    def check(self, token, permission, image):
        if token is None:
            raise GoogleError("UNAUTHENTICATED", "Unauthenticated request.")
        if token != "good" or image.repository == "other":
            raise GoogleError("PERMISSION_DENIED", f'Permission "{permission}" denied on resource "{image.resource}"')
        if image.repository == "missing":
            raise GoogleError("NOT_FOUND", 'Repository "missing" not found')

    def pushed(self, image):
        self.pushes.append(str(image))


class Clock:
    now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def catalog(tmp_path, clock):
    return Catalog(Store(), BlobStore(tmp_path), clock)


@pytest.fixture
def doorkeeper():
    return Doorkeeper()


@pytest.fixture
def client(catalog, doorkeeper):
    with TestClient(Starlette(routes=routes(catalog, doorkeeper))) as client:
        client.auth = ("oauth2accesstoken", "good")
        yield client


def upload(client, content, name=NAME):
    digest = digest_of(content)
    location = client.post(f"/v2/{name}/blobs/uploads/").headers["location"]
    assert client.put(location, params={"digest": digest}, content=content).status_code == 201
    return digest


def push(client, layers=(b"layer",), tag="latest", name=NAME, media_type=DOCKER_MANIFEST, **extra):
    config = upload(client, b'{"architecture":"amd64"}', name)
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {"digest": config, "mediaType": "application/vnd.docker.container.image.v1+json"},
        "layers": [{"digest": upload(client, layer, name), "size": len(layer)} for layer in layers],
        **extra,
    }
    content = json.dumps(manifest).encode()
    answer = client.put(f"/v2/{name}/manifests/{tag}", content=content, headers={"content-type": media_type})
    assert answer.status_code == 201, answer.text
    return digest_of(content), content


def refusal(answer):
    return answer.status_code, answer.json()["errors"][0]["code"]


def test_a_pushed_image_is_pulled_unchanged_by_tag_and_by_digest(client, doorkeeper):
    digest, manifest = push(client, layers=(b"one", b"two" * 100_000))
    for reference in ("latest", digest):
        answer = client.get(f"/v2/{NAME}/manifests/{reference}")
        assert (answer.content, answer.headers["docker-content-digest"]) == (manifest, digest)
        assert answer.headers["content-type"] == DOCKER_MANIFEST
    for layer in json.loads(manifest)["layers"]:
        assert digest_of(client.get(f"/v2/{NAME}/blobs/{layer['digest']}").content) == layer["digest"]
    head = client.head(f"/v2/{NAME}/manifests/latest")
    assert (head.headers["content-length"], head.content) == (str(len(manifest)), b"")
    assert doorkeeper.pushes == [NAME], "cleanup policies are applied after each push"


def test_a_blob_may_be_uploaded_in_chunks_with_a_status(client):
    location = client.post(f"/v2/{NAME}/blobs/uploads/").headers["location"]
    assert client.patch(location, content=b"abc", headers={"content-range": "0-2"}).headers["range"] == "0-2"
    out_of_order = client.patch(location, content=b"zz", headers={"content-range": "7-8"})
    assert (out_of_order.status_code, out_of_order.headers["range"]) == (416, "0-2")
    assert client.get(location).headers["range"] == "0-2"
    client.patch(location, content=b"def")
    digest = digest_of(b"abcdefghi")
    assert client.put(location, params={"digest": digest}, content=b"ghi").status_code == 201
    assert client.get(f"/v2/{NAME}/blobs/{digest}").content == b"abcdefghi"


def test_an_upload_continues_after_a_restart(client, catalog, tmp_path):
    location = client.post(f"/v2/{NAME}/blobs/uploads/").headers["location"]
    client.patch(location, content=b"before ")
    catalog.blobs = BlobStore(tmp_path)
    digest = digest_of(b"before after")
    assert client.put(location, params={"digest": digest}, content=b"after").status_code == 201


def test_content_with_a_wrong_digest_is_refused_and_removed(client, tmp_path):
    location = client.post(f"/v2/{NAME}/blobs/uploads/").headers["location"]
    answer = client.put(location, params={"digest": digest_of(b"honest")}, content=b"forged")
    assert refusal(answer) == (400, "DIGEST_INVALID")
    assert refusal(client.get(location)) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert list(tmp_path.glob("*/*")) == []


@pytest.mark.parametrize("digest", ["", "sha512:" + "0" * 128, "sha256:xyz", "sha256:../../etc/passwd"])
def test_an_invalid_digest_is_refused(client, digest):
    location = client.post(f"/v2/{NAME}/blobs/uploads/").headers["location"]
    assert refusal(client.put(location, params={"digest": digest}, content=b"x")) == (400, "DIGEST_INVALID")


def test_a_manifest_requires_all_its_blobs(client):
    absent = digest_of(b"never uploaded")
    manifest = {"schemaVersion": 2, "config": {"digest": absent}, "layers": []}
    answer = client.put(
        f"/v2/{NAME}/manifests/latest", content=json.dumps(manifest), headers={"content-type": OCI_MANIFEST}
    )
    assert refusal(answer) == (404, "MANIFEST_BLOB_UNKNOWN")
    assert absent in answer.json()["errors"][0]["message"]
    assert refusal(client.get(f"/v2/{NAME}/manifests/latest")) == (404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize("content", [b"", b"[]", b"no json", b'{"layers": [1]}', b'{"layers": [{"digest": "x"}]}'])
def test_a_malformed_manifest_is_refused(client, content):
    answer = client.put(f"/v2/{NAME}/manifests/latest", content=content, headers={"content-type": OCI_MANIFEST})
    assert refusal(answer) == (400, "MANIFEST_INVALID")


def test_an_index_requires_all_its_manifests(client):
    digest, _ = push(client)
    kind = "application/vnd.oci.image.index.v1+json"
    valid_manifest = json.dumps({"schemaVersion": 2, "manifests": [{"digest": digest}]})
    bad = json.dumps({"schemaVersion": 2, "manifests": [{"digest": digest_of(b"no")}]})
    assert (
        client.put(f"/v2/{NAME}/manifests/all", content=valid_manifest, headers={"content-type": kind}).status_code
        == 201
    )
    answer = client.put(f"/v2/{NAME}/manifests/all", content=bad, headers={"content-type": kind})
    assert refusal(answer) == (404, "MANIFEST_BLOB_UNKNOWN")


def test_a_blob_is_mounted_only_from_an_image_that_the_caller_can_pull(client):
    digest = upload(client, b"base layer")
    target = "europe-west1/acme/mcpfleet/another"
    mounted = client.post(f"/v2/{target}/blobs/uploads/", params={"mount": digest, "from": NAME})
    assert mounted.status_code == 201
    assert client.get(f"/v2/{target}/blobs/{digest}").content == b"base layer"
    for source in ("europe-west1/acme/other/secret", "europe-west1/acme/mcpfleet/empty", "nonsense"):
        refused = client.post(f"/v2/{target}/blobs/uploads/", params={"mount": digest, "from": source})
        assert refused.status_code == 202, f"{source}: the client is told to send the blob itself"


def test_a_blob_of_another_image_cannot_be_read_by_its_digest(client):
    digest = upload(client, b"private")
    assert refusal(client.get(f"/v2/europe-west1/acme/mcpfleet/another/blobs/{digest}")) == (404, "BLOB_UNKNOWN")


def test_tags_are_listed_in_pages(client):
    for tag in ("c", "a", "b"):
        push(client, tag=tag)
    assert client.get(f"/v2/{NAME}/tags/list").json() == {"name": NAME, "tags": ["a", "b", "c"]}
    page = client.get(f"/v2/{NAME}/tags/list", params={"n": 2})
    assert page.json()["tags"] == ["a", "b"]
    assert client.get(page.headers["link"].partition(">")[0][1:]).json()["tags"] == ["c"]


def test_a_manifest_with_a_subject_is_listed_as_its_referrer(client):
    subject, _ = push(client)
    referrer, _ = push(client, tag="sbom", media_type=OCI_MANIFEST, subject={"digest": subject}, artifactType="a/b")
    referrers = client.get(f"/v2/{NAME}/referrers/{subject}").json()["manifests"]
    assert [(entry["digest"], entry["artifactType"]) for entry in referrers] == [(referrer, "a/b")]
    assert client.get(f"/v2/{NAME}/referrers/{subject}", params={"artifactType": "c/d"}).json()["manifests"] == []


def test_deleting_a_tag_keeps_the_manifest_and_deleting_the_manifest_frees_its_blobs(client, catalog, clock, tmp_path):
    digest, _ = push(client, tag="one")
    assert client.delete(f"/v2/{NAME}/manifests/one").status_code == 202
    assert client.get(f"/v2/{NAME}/manifests/{digest}").status_code == 200
    clock.now += 3601
    assert client.delete(f"/v2/{NAME}/manifests/{digest}").status_code == 202
    assert list((tmp_path / "blobs").iterdir()) == []


def test_blobs_of_a_running_push_survive_garbage_collection(client, catalog):
    digest = upload(client, b"its manifest comes in a second")
    catalog.collect_garbage()
    assert catalog.blobs.exists(digest)


def test_removing_a_repository_keeps_blobs_that_others_use(client, catalog, tmp_path, clock):
    push(client, layers=(b"shared", b"own"))
    keeper = "europe-west1/acme/keeper/image"
    digest, _ = push(client, layers=(b"shared",), name=keeper)
    catalog.delete_repository("projects/acme/locations/europe-west1/repositories/mcpfleet")
    assert refusal(client.get(f"/v2/{NAME}/manifests/latest")) == (404, "MANIFEST_UNKNOWN")
    assert not catalog.blobs.exists(digest_of(b"own"))
    for blob in (digest, digest_of(b"shared")):
        assert catalog.blobs.exists(blob)


def test_push_and_pull_require_a_token(client):
    client.auth = None
    for method, path in (("GET", "/v2/"), ("POST", f"/v2/{NAME}/blobs/uploads/"), ("GET", f"/v2/{NAME}/tags/list")):
        answer = client.request(method, path)
        assert refusal(answer) == (401, "UNAUTHORIZED")
        assert answer.headers["www-authenticate"].startswith("Basic"), "docker sends its token only when asked so"


@pytest.mark.parametrize(
    "header",
    ["Basic !!!", "Basic " + base64.b64encode(b"ada:good").decode(), "Digest good", "Basic /w=="],
)
def test_credentials_of_another_kind_are_refused(client, header):
    client.auth = None
    answer = client.post(f"/v2/{NAME}/blobs/uploads/", headers={"authorization": header})
    assert refusal(answer) == (401, "UNAUTHORIZED")


def test_a_missing_or_refusing_repository_is_named(client):
    denied = client.post("/v2/europe-west1/acme/other/x/blobs/uploads/")
    assert refusal(denied) == (403, "DENIED")
    assert "uploadArtifacts" in denied.text
    assert refusal(client.post("/v2/europe-west1/acme/missing/x/blobs/uploads/")) == (404, "NAME_UNKNOWN")


@given(st.text(max_size=60))
def test_only_valid_names_of_four_parts_are_accepted(name):
    try:
        image = ImageName.parse(name)
    except RegistryError:
        return
    assert str(image) == name
    assert not {"", ".", ".."} & set(name.split("/"))
    assert name.lower() == name


@given(st.from_regex(r"[a-z]{1,9}(-[a-z0-9]{1,9}){0,2}(/[a-z0-9]{1,9}([._-][a-z0-9]{1,9}){0,2}){3,5}", fullmatch=True))
def test_a_name_in_artifact_registrys_format_is_parsed(name):
    assert str(ImageName.parse(name)) == name


@given(st.lists(st.binary(max_size=50), max_size=8))
def test_a_blob_is_the_same_in_any_chunks(tmp_path_factory, chunks):
    content = b"".join(chunks)
    catalog = Catalog(Store(), BlobStore(tmp_path_factory.mktemp("blobs")))
    with TestClient(Starlette(routes=routes(catalog, Doorkeeper()))) as client:
        client.auth = ("oauth2accesstoken", "good")
        location = client.post(f"/v2/{NAME}/blobs/uploads/").headers["location"]
        for chunk in chunks:
            client.patch(location, content=chunk)
        client.put(location, params={"digest": digest_of(content)})
        assert client.get(f"/v2/{NAME}/blobs/{digest_of(content)}").content == content
