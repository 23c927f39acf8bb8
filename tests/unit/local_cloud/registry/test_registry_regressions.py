"""Regression tests of an attack on the registry."""

import asyncio
import json

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from mcpfleet_local_cloud.registry import BlobStore, Catalog, routes
from mcpfleet_local_cloud.registry.blobs import digest_of
from mcpfleet_local_cloud.rest.errors import GoogleError
from mcpfleet_local_cloud.state.store import Store

ACME = "europe-west1/acme/mcpfleet/server"
OTHER = "europe-west1/acme/theirs/server"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = b"{}"


class Doorkeeper:
    """Everybody may do everything; only `good` is anybody's token."""

    def authenticate(self, token):
        if token != "good":
            raise GoogleError("UNAUTHENTICATED", "Request had invalid authentication credentials.")

    def check(self, token, permission, image):
        self.authenticate(token)

    def pushed(self, image):
        pass


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
def client(catalog):
    with TestClient(Starlette(routes=routes(catalog, Doorkeeper()))) as client:
        client.auth = ("oauth2accesstoken", "good")
        yield client


def begin(client, name=ACME):
    return client.post(f"/v2/{name}/blobs/uploads/").headers["location"]


def put_blob(client, content):
    digest = digest_of(content)
    assert client.put(begin(client), params={"digest": digest}, content=content).status_code == 201
    return digest


def put_manifest(client, fields, kind=OCI_MANIFEST):
    config = {"mediaType": "application/x", "digest": put_blob(client, CONFIG), "size": len(CONFIG)}
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [], **fields}
    content = json.dumps(manifest).encode()
    return client.put(f"/v2/{ACME}/manifests/bad", content=content, headers={"content-type": kind})


def refusal(answer):
    return answer.status_code, answer.json()["errors"][0]["code"]


def layer(**changes):
    return {"layers": [{"mediaType": "application/x", "digest": digest_of(CONFIG), "size": 2, **changes}]}


@pytest.mark.parametrize(
    "fields",
    [
        layer(size="2"),
        layer(size=[]),
        layer(size=-5),
        layer(size=True),
        layer(size=2**63),
        layer(mediaType=5),
        {"subject": 5},
        {"subject": {"digest": 5}},
        {"subject": {"digest": "a\r\nx-injected: 1"}},
        {"artifactType": 5},
        {"artifactType": "\ud800"},
        {"annotations": 5},
        {"annotations": {"a": 5}},
        {"annotations": {"a": "\ud800"}},
        {"config": "x"},
    ],
)
@pytest.mark.parametrize("kind", [OCI_MANIFEST, OCI_INDEX])
def test_a_manifest_with_a_field_of_the_wrong_type_is_refused_and_leaves_nothing(client, fields, kind):
    assert refusal(put_manifest(client, fields, kind)) == (400, "MANIFEST_INVALID")
    assert refusal(client.get(f"/v2/{ACME}/manifests/bad")) == (404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 20_000, b'{"schemaVersion": NaN}'])
def test_a_manifest_that_cannot_be_parsed_is_refused(client, content):
    answer = client.put(f"/v2/{ACME}/manifests/bad", content=content, headers={"content-type": OCI_MANIFEST})
    assert refusal(answer) == (400, "MANIFEST_INVALID")


@pytest.mark.parametrize(("method", "chunk"), [("GET", {}), ("PATCH", {"content": b"x"}), ("DELETE", {}), ("PUT", {})])
def test_an_upload_to_one_image_cannot_be_used_for_another(client, method, chunk):
    own_upload = begin(client)
    other_upload = own_upload.replace(ACME, OTHER)
    query = {"digest": digest_of(b"")} if method == "PUT" else {}
    assert refusal(client.request(method, other_upload, params=query, **chunk)) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert client.get(own_upload).headers["range"] == "0-0", "the owner's upload is as it was"


def test_an_upload_stays_bound_to_its_image_after_a_restart(client, catalog, tmp_path):
    upload_id = begin(client)
    catalog.blobs = BlobStore(tmp_path)
    assert client.get(upload_id).status_code == 204
    assert client.get(upload_id.replace(ACME, OTHER)).status_code == 404


def test_a_second_writer_of_one_upload_is_refused_and_the_first_one_finishes(catalog):
    app = Starlette(routes=routes(catalog, Doorkeeper()))
    digest = digest_of(b"first writer")

    async def scenario():
        transport, auth = httpx2.ASGITransport(app), ("oauth2accesstoken", "good")
        sending, go_on = asyncio.Event(), asyncio.Event()

        async def slowly():
            yield b"first "
            sending.set()
            await go_on.wait()
            yield b"writer"

        async with httpx2.AsyncClient(transport=transport, base_url="http://registry", auth=auth) as client:
            location = (await client.post(f"/v2/{ACME}/blobs/uploads/")).headers["location"]
            first = asyncio.create_task(client.put(location, params={"digest": digest}, content=slowly()))
            await sending.wait()
            second = await client.patch(location, content=b"second")
            go_on.set()
            return await first, second

    async def bounded():
        async with asyncio.timeout(10):
            return await scenario()

    first, second = asyncio.run(bounded())
    assert refusal(second) == (409, "BLOB_UPLOAD_INVALID")
    assert first.status_code == 201
    assert catalog.blobs.path(digest).read_bytes() == b"first writer"


def test_an_upload_can_be_finished_once_only(client, tmp_path):
    location, digest = begin(client), digest_of(b"whole")
    assert client.put(location, params={"digest": digest}, content=b"whole").status_code == 201
    second = client.put(location, params={"digest": digest}, content=b"whole")
    assert refusal(second) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert list((tmp_path / "uploads").iterdir()) == []


def test_an_abandoned_upload_is_removed_by_the_next_garbage_collection(client, catalog, clock, tmp_path):
    old = begin(client)
    clock.now = (tmp_path / "uploads" / old.rpartition("/")[2]).stat().st_mtime + 3601
    catalog.collect_garbage()
    assert refusal(client.get(old)) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert list((tmp_path / "uploads").iterdir()) == []


def test_a_running_upload_survives_garbage_collection(client, catalog, clock, tmp_path):
    fresh = begin(client)
    clock.now = (tmp_path / "uploads" / fresh.rpartition("/")[2]).stat().st_mtime + 3599
    catalog.collect_garbage()
    assert client.get(fresh).status_code == 204


@pytest.mark.parametrize("start", ["9" * 5000, "\u0663", "-1", "x", "0x0"])
def test_an_invalid_content_range_is_out_of_order(client, start):
    answer = client.patch(begin(client), content=b"abcd", headers={"content-range": f"{start}-3".encode()})
    assert answer.status_code == 416


@pytest.mark.parametrize("limit", ["9" * 5000, "\u00b2", "-1", "x"])
def test_an_invalid_page_size_is_ignored(client, limit):
    put_manifest(client, {})
    assert client.get(f"/v2/{ACME}/tags/list", params={"n": limit}).json()["tags"] == ["bad"]


@pytest.mark.parametrize("range_header", ["bytes=500-0", "bytes=", "bytes=x", "lines=1-2", "bytes=0-1,5-6"])
def test_an_invalid_range_is_ignored(client, range_header):
    digest = put_blob(client, b"0123456789")
    answer = client.get(f"/v2/{ACME}/blobs/{digest}", headers={"range": range_header})
    assert (answer.status_code, answer.content) == (200, b"0123456789")


@pytest.mark.parametrize(
    ("range_header", "part"),
    [("bytes=2-4", b"234"), ("bytes=7-", b"789"), ("bytes=-2", b"89"), ("bytes=0-99", b"0123456789")],
)
def test_a_range_request_gets_the_range(client, range_header, part):
    digest = put_blob(client, b"0123456789")
    answer = client.get(f"/v2/{ACME}/blobs/{digest}", headers={"range": range_header})
    assert (answer.status_code, answer.content) == (206, part)


def test_a_login_with_an_unknown_token_fails(client):
    assert client.get("/v2/").status_code == 200
    client.auth = ("oauth2accesstoken", "garbage")
    assert refusal(client.get("/v2/")) == (401, "UNAUTHORIZED")


def left_over(tmp_path, catalog):
    """Return running and abandoned uploads: their files and records."""
    return [path.name for path in (tmp_path / "uploads").iterdir()], catalog._store.list("registry.upload")


@pytest.mark.parametrize("digest", ["md5:1", "sha256:x", digest_of(b"other")])
def test_a_refused_single_request_upload_leaves_nothing(client, catalog, tmp_path, digest):
    answer = client.post(f"/v2/{ACME}/blobs/uploads/", params={"digest": digest}, content=b"hello")
    assert refusal(answer) == (400, "DIGEST_INVALID")
    assert left_over(tmp_path, catalog) == ([], [])


def test_an_aborted_single_request_upload_leaves_nothing(client, catalog, tmp_path):
    def broken():
        yield b"one"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        client.post(f"/v2/{ACME}/blobs/uploads/", params={"digest": digest_of(b"one")}, content=broken())
    assert left_over(tmp_path, catalog) == ([], [])


def test_a_blob_that_does_not_fit_on_the_disk_leaves_nothing(catalog, tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mcpfleet_local_cloud.registry.blobs.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        catalog.blobs.put(b"hello")
    assert left_over(tmp_path, catalog) == ([], [])
