"""A change that depends on what its caller has read is refused where that was changed meanwhile."""

from typing import Any

import pytest

BUCKET = "/storage/v1/b/kept"
OBJECT = f"{BUCKET}/o/a.txt"


@pytest.fixture
def stored(running: Any) -> Any:
    """A cloud with an object in a bucket, and a secret with a version."""
    running.enable("storage", "secretmanager")
    running.call("POST", f"/storage/v1/b?project={running.project}", {"name": "kept"})
    upload = "/upload/storage/v1/b/kept/o?uploadType=media&name=a.txt"
    response = running.client.post(upload, content=b"x", headers=running.headers())
    assert response.status_code == 200, response.text
    return running


@pytest.mark.parametrize(
    "query",
    ["ifGenerationMatch=1", "if_generation_match=0", "ifMetagenerationMatch=9", "ifMetagenerationNotMatch=1"],
)
@pytest.mark.parametrize(("method", "body"), [("DELETE", None), ("PATCH", {"metadata": {"a": "b"}})])
def test_an_object_with_another_generation_is_not_changed(stored: Any, query: str, method: str, body: Any) -> None:
    original = stored.call("GET", OBJECT).json()

    answer = stored.call(method, f"{OBJECT}?{query}", body)

    assert answer.status_code == 412, answer.text
    assert stored.call("GET", OBJECT).json() == original


def test_an_unchanged_object_is_304(stored: Any) -> None:
    generation = stored.call("GET", OBJECT).json()["generation"]

    assert stored.call("GET", f"{OBJECT}?alt=media&ifGenerationNotMatch={generation}").status_code == 304
    assert stored.call("GET", f"{OBJECT}?alt=media&ifGenerationMatch={generation}").content == b"x"
    assert stored.call("GET", f"{OBJECT}?alt=media&ifGenerationMatch=7").status_code == 412


def test_an_object_with_the_expected_generation_is_deleted(stored: Any) -> None:
    generation = stored.call("GET", OBJECT).json()["generation"]

    assert stored.call("DELETE", f"{OBJECT}?ifGenerationMatch={generation}&ifMetagenerationMatch=1").status_code == 204


@pytest.mark.parametrize("query", ["ifMetagenerationMatch=2", "ifMetagenerationNotMatch=1"])
@pytest.mark.parametrize(("method", "body"), [("DELETE", None), ("PATCH", {"labels": {"a": "b"}})])
def test_a_bucket_that_was_changed_meanwhile_is_not_modified(stored: Any, query: str, method: str, body: Any) -> None:
    stored.call("DELETE", OBJECT)
    original = stored.call("GET", BUCKET).json()

    assert stored.call(method, f"{BUCKET}?{query}", body).status_code == 412
    assert stored.call("GET", BUCKET).json() == original


def test_an_upload_checks_every_precondition(stored: Any) -> None:
    upload = "/upload/storage/v1/b/kept/o?uploadType=media&name=a.txt"
    for query in ("ifGenerationMatch=0", "ifMetagenerationMatch=4"):
        answer = stored.client.post(f"{upload}&{query}", content=b"y", headers=stored.headers())
        assert answer.status_code == 412


def test_a_revision_that_was_changed_meanwhile_is_not_deleted(running: Any) -> None:
    running.enable("run")
    services = f"/run/v2/projects/{running.project}/locations/europe-west1/services"
    body = {"template": {"containers": [{"image": "docker.io/acme/hello:1"}]}}
    response = running.call("POST", f"{services}?serviceId=s", body).json()
    assert running.call("POST", f"/run/v2/{response['name']}:wait", {}).json()["done"]
    revision = running.call("GET", f"{services}/s/revisions").json()["revisions"][0]

    stale = running.call("DELETE", f"/run/v2/{revision['name']}?etag=%22old%22")
    current = running.call("DELETE", f"/run/v2/{revision['name']}", params={"etag": revision["etag"]})

    assert (stale.status_code, stale.json()["error"]["status"]) == (409, "ABORTED")
    assert "actively serving" in current.json()["error"]["message"]


@pytest.mark.parametrize("verb", ["enable", "disable", "destroy"])
def test_a_secret_version_that_was_changed_meanwhile_keeps_its_state(stored: Any, verb: str) -> None:
    secret = f"/secretmanager/v1/projects/{stored.project}/secrets"
    stored.call("POST", f"{secret}?secretId=s", {"replication": {"automatic": {}}})
    stored.call("POST", f"{secret}/s:addVersion", {"payload": {"data": "YQ=="}})
    old = stored.call("GET", f"{secret}/s/versions/1").json()["etag"]
    stored.call("POST", f"{secret}/s/versions/1:disable", {})
    current = stored.call("GET", f"{secret}/s/versions/1").json()

    refused = stored.call("POST", f"{secret}/s/versions/1:{verb}", {"etag": old})

    assert (refused.status_code, refused.json()["error"]["status"]) == (409, "ABORTED")
    assert stored.call("GET", f"{secret}/s/versions/1").json() == current
    assert stored.call("POST", f"{secret}/s/versions/1:{verb}", {"etag": current["etag"]}).is_success
