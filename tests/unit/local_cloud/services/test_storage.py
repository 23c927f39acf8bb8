"""Cloud Storage: buckets and objects through the JSON API and the emulated provider; an object is a file."""

import base64
import hashlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet_local_cloud.rest.errors import GoogleError
from mcpfleet_local_cloud.services.storage.objects import Objects
from mcpfleet_local_cloud.services.storage.uploads import split_multipart
from mcpfleet_local_cloud.state.store import Store

BUCKETS = "/storage/v1/b"
BUCKET = "gcp:storage/bucket:Bucket"
OBJECT = "gcp:storage/bucketObject:BucketObject"
MEMBER = "gcp:storage/bucketIAMMember:BucketIAMMember"
ADA = "ada@mcpfleet.test"
MULTIPART = b'--b\r\n\r\n{"name": "new"}\r\n--b\r\nContent-Type: text/plain\r\n\r\nhello\r\n--b--'


@pytest.fixture
def api(running):
    running.enable("storage")
    return running


@pytest.fixture
def bucket(api):
    answer = api.call("POST", f"{BUCKETS}?project={api.project}", {"name": "data", "location": "europe-west1"})
    assert answer.status_code == 200, answer.text
    return answer.json()


def upload(api, name, content=b"hello", **extra):
    path = f"/upload{BUCKETS}/data/o?uploadType=media&name={name}"
    headers = {**api.headers(extra.pop("as_", None)), "content-type": "text/plain", **extra.pop("headers", {})}
    return api.client.post(path, content=content, headers=headers, **extra)


def names(api, query=""):
    return [item["name"] for item in api.call("GET", f"{BUCKETS}/data/o{query}").json().get("items", [])]


def test_a_bucket_is_created_as_requested_and_its_name_is_unique(api, bucket):
    assert (bucket["name"], bucket["location"], bucket["projectNumber"]) == ("data", "EUROPE-WEST1", "481516234200")
    assert api.call("GET", f"{BUCKETS}/data").json()["name"] == "data"
    assert api.call("POST", f"{BUCKETS}?project={api.project}", {"name": "data"}).status_code == 409
    assert api.call("POST", f"{BUCKETS}?project={api.project}", {"name": "A"}).status_code == 400
    assert api.call("GET", f"{BUCKETS}/none").status_code == 404
    assert [item["name"] for item in api.call("GET", f"{BUCKETS}?project={api.project}").json()["items"]] == ["data"]


@pytest.mark.parametrize(
    "field",
    [
        {"versioning": {"enabled": True}},
        {"website": {"mainPageSuffix": "x"}},
        {"encryption": {"defaultKmsKeyName": "x"}},
    ],
)
def test_unsupported_fields_are_refused_by_name(api, field):
    answer = api.call("POST", f"{BUCKETS}?project={api.project}", {"name": "other", **field})
    assert answer.status_code == 501
    assert next(iter(field)) in answer.json()["error"]["message"]


def test_an_object_is_uploaded_read_listed_and_deleted(api, bucket):
    document = upload(api, "a/b.txt").json()
    assert document["md5Hash"] == base64.b64encode(hashlib.md5(b"hello", usedforsecurity=False).digest()).decode()
    assert base64.b64decode(document["crc32c"]).hex() == "9a71bb4c"
    assert (document["size"], document["contentType"]) == ("5", "text/plain")
    assert (api.cloud.storage.folder("data") / "a" / "b.txt").read_bytes() == b"hello"
    for path in (f"{BUCKETS}/data/o/a%2Fb.txt?alt=media", f"/download{BUCKETS}/data/o/a%2Fb.txt"):
        assert api.call("GET", path).content == b"hello"
    assert api.call("GET", f"{BUCKETS}/data/o/a%2Fb.txt").json()["generation"] == document["generation"]
    assert names(api) == ["a/b.txt"]
    assert api.call("DELETE", f"{BUCKETS}/data/o/a%2Fb.txt?generation=1").status_code == 404
    assert api.call("DELETE", f"{BUCKETS}/data/o/a%2Fb.txt").status_code == 204
    assert names(api) == []
    assert not (api.cloud.storage.folder("data") / "a").exists()


def test_a_list_has_pages_prefixes_and_folders(api, bucket):
    for name in ("a/1", "a/2", "b"):
        upload(api, name)
    assert names(api, "?prefix=a/") == ["a/1", "a/2"]
    page = api.call("GET", f"{BUCKETS}/data/o?delimiter=/").json()
    assert (page["prefixes"], [item["name"] for item in page["items"]]) == (["a/"], ["b"])
    first = api.call("GET", f"{BUCKETS}/data/o?maxResults=1").json()
    assert names(api, f"?pageToken={first['nextPageToken']}") == ["a/2", "b"]


def test_a_resumable_upload_becomes_one_object(api, bucket):
    response = api.client.post(
        f"/upload{BUCKETS}/data/o?uploadType=resumable", json={"name": "big"}, headers=api.headers()
    )
    url = response.headers["location"]
    first = api.client.put(url, content=b"one", headers={**api.headers(), "content-range": "bytes 0-2/*"})
    assert (first.status_code, first.headers["range"]) == (308, "bytes=0-2")
    last = api.client.put(url, content=b"two", headers={**api.headers(), "content-range": "bytes 3-5/6"})
    assert last.json()["size"] == "6"
    assert api.call("GET", f"{BUCKETS}/data/o/big?alt=media").content == b"onetwo"
    assert api.client.put(url, content=b"x", headers=api.headers()).status_code == 404


@pytest.mark.parametrize(("condition", "status"), [("ifGenerationMatch=0", 412), ("ifGenerationNotMatch=0", 200)])
def test_a_resumable_upload_checks_its_precondition_at_the_end(api, bucket, condition, status):
    if status == 200:
        upload(api, "big")
    path = f"/upload{BUCKETS}/data/o?uploadType=resumable&{condition}"
    response = api.client.post(path, json={"name": "big"}, headers=api.headers())
    assert response.status_code == 200
    other_object = upload(api, "big", b"somebody else's").json()
    url = response.headers["location"].replace(condition, "").rstrip("&")
    last = api.client.put(url, content=b"ours", headers={**api.headers(), "content-range": "bytes 0-3/4"})

    assert last.status_code == status
    current = api.call("GET", f"{BUCKETS}/data/o/big").json()
    assert (current["generation"] == other_object["generation"]) == (status == 412)
    assert left_over(api) == []


def test_files_written_by_a_container_are_objects_with_new_generations(api, bucket):
    original = upload(api, "x").json()
    folder = api.cloud.storage.folder("data")
    (folder / "made").write_text("inside")
    (folder / "x").write_text("changed by the container")
    assert names(api) == ["made", "x"]
    after = api.call("GET", f"{BUCKETS}/data/o/x").json()
    assert after["size"] == "24"
    assert after["generation"] != original["generation"]


def test_a_link_created_by_a_container_is_not_followed(api, bucket, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("of this machine")
    folder = api.cloud.storage.folder("data")
    (folder / "file").symlink_to(secret)
    (folder / "folder").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    assert names(api) == []
    for name in ("file", "folder%2Fsecret", "pipe"):
        assert api.call("GET", f"{BUCKETS}/data/o/{name}?alt=media").status_code == 404
    assert upload(api, "folder/new").status_code in (404, 501)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a//b", "a/", "."])
def test_a_name_that_is_no_valid_file_name_is_refused(api, bucket, name):
    assert upload(api, name).status_code == 501


def test_an_object_and_a_folder_of_the_same_name_cannot_coexist(api, bucket):
    upload(api, "a")
    assert upload(api, "a/b").status_code == 501
    upload(api, "c/d")
    assert upload(api, "c").status_code == 501


def test_objects_are_deleted_by_the_buckets_age_rule(api, bucket):
    rule = {"rule": [{"action": {"type": "Delete"}, "condition": {"age": 2}}]}
    assert api.call("PATCH", f"{BUCKETS}/data", {"lifecycle": rule}).status_code == 200
    upload(api, "old")
    api.clock.pass_by(86400)
    upload(api, "new")
    api.clock.pass_by(86400)
    assert names(api) == ["new"]
    bad = {"rule": [{"action": {"type": "SetStorageClass"}, "condition": {"age": 2}}]}
    assert api.call("PATCH", f"{BUCKETS}/data", {"lifecycle": bad}).status_code == 501


def test_only_an_empty_bucket_can_be_deleted_and_leaves_nothing(api, bucket):
    upload(api, "x")
    assert api.call("DELETE", f"{BUCKETS}/data").status_code == 409
    api.call("DELETE", f"{BUCKETS}/data/o/x")
    assert api.call("DELETE", f"{BUCKETS}/data").status_code == 204
    assert not (api.cloud.settings.state / "storage" / "data").exists()


RIGHTS = {
    "roles/storage.objectViewer": {"read"},
    "roles/storage.objectCreator": {"write"},
    "roles/storage.objectUser": {"read", "write", "delete"},
    "roles/storage.admin": {"read", "write", "delete", "bucket"},
}


@pytest.mark.parametrize("role", RIGHTS)
def test_a_role_on_a_bucket_has_exactly_googles_permissions(api, bucket, role):
    upload(api, "x")
    policy = {"bindings": [{"role": role, "members": [f"user:{ADA}"]}]}
    assert api.call("PUT", f"{BUCKETS}/data/iam", policy).status_code == 200
    statuses = {
        "bucket": api.call("GET", f"{BUCKETS}/data", as_=ADA).status_code,
        "read": api.call("GET", f"{BUCKETS}/data/o/x", as_=ADA).status_code,
        "write": upload(api, "y", as_=ADA).status_code,
        "delete": api.call("DELETE", f"{BUCKETS}/data/o/x", as_=ADA).status_code,
    }
    assert {verb for verb, status in statuses.items() if status < 300} == RIGHTS[role]
    assert set(statuses.values()) <= {200, 204, 403}


def test_the_api_must_be_enabled(running):
    assert running.call("GET", f"{BUCKETS}?project={running.project}").status_code == 403


# --- the emulated provider ---------------------------------------------------------------------------------


def test_a_program_creates_and_removes_a_bucket_an_object_and_a_grant(api, program):
    inputs = {
        "name": "code",
        "location": "EU",
        "uniformBucketLevelAccess": True,
        "lifecycleRules": [{"action": {"type": "Delete"}, "condition": {"age": 7}}],
        "labels": {"a": "b"},
    }
    bucket = program.create(BUCKET, inputs)
    assert (bucket.resource_id, bucket.properties["url"]) == ("code", "gs://code")
    assert program.diff(BUCKET, program.read(BUCKET, bucket), inputs) == {}
    content = {"bucket": "code", "name": "src/a.txt", "content": "hello", "contentType": "text/plain"}
    thing = program.create(OBJECT, content)
    assert api.call("GET", f"{BUCKETS}/code/o/src%2Fa.txt?alt=media").text == "hello"
    assert program.diff(OBJECT, program.read(OBJECT, thing), content) == {}
    grant = {"bucket": bucket.resource_id, "role": "roles/storage.objectViewer", "member": f"user:{ADA}"}
    member = program.create(MEMBER, grant)
    assert member.resource_id == f"b/code/roles/storage.objectViewer/user:{ADA}"
    assert api.call("GET", f"{BUCKETS}/code/o/src%2Fa.txt", as_=ADA).status_code == 200
    assert program.read(MEMBER, member) is not None
    assert api.cloud.inventory()["records"] == ["bucket code"]
    program.delete(MEMBER, member)
    assert api.call("GET", f"{BUCKETS}/code/o/src%2Fa.txt", as_=ADA).status_code == 403
    with pytest.raises(Exception, match="without `force_destroy` set to true"):
        program.delete(BUCKET, bucket)
    program.delete(OBJECT, thing)
    assert program.read(OBJECT, thing) is None
    program.delete(BUCKET, bucket)
    assert api.cloud.inventory()["records"] == []


def test_an_object_is_uploaded_from_a_file_and_updated_in_place(api, program, tmp_path):
    program.create(BUCKET, {"name": "code", "location": "EU"})
    path = tmp_path / "source.tar.gz"
    path.write_bytes(b"\x1f\x8b\r\n--mcpfleet-part\r\nbinary")
    thing = program.create(OBJECT, {"bucket": "code", "name": "s", "source": {"path": str(path)}})
    assert api.call("GET", f"{BUCKETS}/code/o/s?alt=media").content == path.read_bytes()
    changed = program.update(OBJECT, thing, {"bucket": "code", "name": "s", "content": "new"})
    assert api.call("GET", f"{BUCKETS}/code/o/s?alt=media").text == "new"
    assert program.replaced(OBJECT, changed, {"bucket": "code", "name": "t", "content": "new"}) == ["name"]


def test_a_bucket_is_updated_in_place_except_for_name_and_location(api, program):
    bucket = program.create(BUCKET, {"name": "code", "location": "EU", "labels": {"a": "b"}})
    changed = program.update(BUCKET, bucket, {"name": "code", "location": "EU", "labels": {"c": "d"}})
    assert changed.properties["effectiveLabels"] == {"goog-pulumi-provisioned": "true", "c": "d"}
    assert program.replaced(BUCKET, bucket, {"name": "code", "location": "US"}) == ["location"]
    assert program.diff(BUCKET, bucket, {"name": "code", "location": "eu", "labels": {"a": "b"}}) == {}


def test_force_destroy_deletes_the_objects(api, program):
    bucket = program.create(BUCKET, {"name": "data", "location": "EU", "forceDestroy": True})
    upload(api, "a/b")
    program.delete(BUCKET, bucket)
    assert program.read(BUCKET, bucket) is None


# --- the wire --------------------------------------------------------------------------------------------


@given(content=st.binary(max_size=300))
def test_any_upload_with_metadata_is_read_unchanged(content):
    body = b'--x\r\nContent-Type: application/json\r\n\r\n{"name":"a"}\r\n--x\r\nContent-Type: t/p\r\n\r\n' + content
    if b"\r\n--x" in content:
        return
    about, media = split_multipart("multipart/related; boundary=x", body + b"\r\n--x--")
    assert (about, media) == ({"name": "a", "contentType": "t/p"}, content)


@given(body=st.binary(max_size=200), kind=st.sampled_from(["multipart/related; boundary=x", "text/plain", ""]))
def test_a_malformed_body_is_only_a_refusal(body, kind):
    with pytest.raises(GoogleError):
        split_multipart(kind, body)


@given(name=st.text(max_size=40))
def test_no_name_reaches_outside_the_bucket(tmp_path_factory, name):
    root = tmp_path_factory.getbasetemp() / "objects"
    objects = Objects(Store(), root, lambda: 1.0)
    try:
        entry = objects.find("b", name)
    except (GoogleError, UnicodeEncodeError):
        return
    assert entry is None
    assert (objects.folder("b") / name).resolve().is_relative_to(objects.folder("b").resolve())


def test_disabled_soft_deletion_stays_disabled(api, program):
    inputs = {"name": "code", "location": "EU", "softDeletePolicy": {"retentionDurationSeconds": 0}}
    bucket = program.create(BUCKET, inputs)
    assert api.call("GET", f"{BUCKETS}/code").json()["softDeletePolicy"]["retentionDurationSeconds"] == "0"
    assert program.diff(BUCKET, program.read(BUCKET, bucket), inputs) == {}


def left_over(api):
    """Files of uploads that are under way, or were."""
    return [path.name for path in api.cloud.settings.state.rglob(".upload-*")]


@pytest.mark.parametrize(
    ("query", "body", "kind"),
    [
        ("uploadType=media&name=../x", b"hello", "text/plain"),
        ("uploadType=media&name=taken/x", b"hello", "text/plain"),
        ("uploadType=media&name=new&ifGenerationMatch=7", b"hello", "text/plain"),
        ("uploadType=multipart", MULTIPART.replace(b'"name"', b'"nome"'), "multipart/related; boundary=b"),
        ("uploadType=multipart&ifGenerationMatch=7", MULTIPART, "multipart/related; boundary=b"),
        ("uploadType=multipart&name=..", MULTIPART, "multipart/related; boundary=b"),
    ],
)
def test_a_refused_upload_leaves_no_file(api, bucket, query, body, kind):
    upload(api, "taken")
    headers = {**api.headers(), "content-type": kind}
    answer = api.client.post(f"/upload{BUCKETS}/data/o?{query}", content=body, headers=headers)
    assert answer.status_code >= 400
    assert left_over(api) == []
    assert names(api) == ["taken"]


def test_an_aborted_upload_leaves_no_file(api, bucket):
    def broken():
        yield b"one"
        raise ConnectionError

    headers = {**api.headers(), "content-type": "text/plain"}
    answer = api.client.post(f"/upload{BUCKETS}/data/o?uploadType=media&name=a", content=broken(), headers=headers)
    assert answer.status_code >= 500
    assert left_over(api) == []


def test_an_unfinished_resumable_upload_is_removed_after_a_week(api, bucket):
    def begin():
        path = f"/upload{BUCKETS}/data/o?uploadType=resumable"
        return api.client.post(path, json={"name": "big"}, headers=api.headers()).headers["location"]

    first = begin()
    begin()
    assert len(left_over(api)) == 2
    api.clock.pass_by(7 * 86400 + 1)
    begin()
    assert len(left_over(api)) == 1
    assert api.client.put(first, content=b"x", headers=api.headers()).status_code == 404


def test_a_resumable_upload_continues_only_in_its_bucket(api, bucket):
    api.call("POST", f"{BUCKETS}?project={api.project}", {"name": "other", "location": "europe-west1"})
    path = f"/upload{BUCKETS}/data/o?uploadType=resumable"
    url = api.client.post(path, json={"name": "big"}, headers=api.headers()).headers["location"]
    other_url = url.replace("/b/data/", "/b/other/")
    assert api.client.put(other_url, content=b"x", headers=api.headers()).status_code == 404
    assert api.client.put(url, content=b"x", headers=api.headers()).json()["size"] == "1"


def test_uploads_interrupted_by_a_kill_are_removed_at_the_next_start(tmp_path):
    first = Objects(Store(), tmp_path, lambda: 0.0)
    handle, path = first.create_temporary_file()
    os.close(handle)
    Objects(Store(), tmp_path, lambda: 0.0)
    assert not path.exists()
