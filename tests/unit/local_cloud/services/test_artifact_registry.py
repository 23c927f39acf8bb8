"""Artifact Registry v1, driven through its routes in memory."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.testclient import TestClient

from mcpfleet_local_cloud.registry import BlobStore, Catalog, ImageName
from mcpfleet_local_cloud.rest.errors import GoogleError
from mcpfleet_local_cloud.rest.operations import Operations
from mcpfleet_local_cloud.rest.parameters import bind_routes
from mcpfleet_local_cloud.services.artifactregistry import ArtifactRegistry, routes
from mcpfleet_local_cloud.services.artifactregistry.cleanup import Version, find_deletable
from mcpfleet_local_cloud.services.auth import Caller
from mcpfleet_local_cloud.state.store import Store

LOCATION = "/artifactregistry/v1/projects/acme/locations/europe-west1"
REPOSITORY = f"{LOCATION}/repositories/mcpfleet"
FULL_NAME = "projects/acme/locations/europe-west1/repositories/mcpfleet"
IMAGE = ImageName("europe-west1", "acme", "mcpfleet", "reference")
# What pulumi-gcp sends (seen on the wire).
BODY = {
    "cleanupPolicies": {"keep": {"action": "KEEP", "mostRecentVersions": {"keepCount": 5}}},
    "format": "DOCKER",
    "labels": {"goog-pulumi-provisioned": "true"},
    "mode": "STANDARD_REPOSITORY",
}


class OpenAuthorizer:
    """An authorizer with one caller, who has every permission except those in `denied`."""

    def __init__(self):
        self.denied = set()

    def authenticate(self, request):
        return Caller("deployer@acme.iam.gserviceaccount.com")

    def authenticate_token(self, token):
        if token != "good":
            raise GoogleError("UNAUTHENTICATED", "Request had invalid authentication credentials.")
        return Caller("deployer@acme.iam.gserviceaccount.com")

    def require(self, caller, permission, resource):
        if permission in self.denied:
            raise GoogleError("PERMISSION_DENIED", f"Permission '{permission}' denied on resource '{resource}'")

    def find_project(self, id_or_number):
        if id_or_number not in {"acme", "42"}:
            raise GoogleError("PERMISSION_DENIED", f"Permission denied on resource project {id_or_number}.")
        return {"projectId": "acme"}

    def require_api(self, project, api):
        assert api == "artifactregistry.googleapis.com"


class Clock:
    now = 1_000_000.0

    def __call__(self):
        return self.now


class NoPolicies:
    def delete(self, resource):
        self.deleted = resource


@pytest.fixture
def authorizer():
    return OpenAuthorizer()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def catalog(tmp_path, clock):
    return Catalog(Store(), BlobStore(tmp_path), clock)


@pytest.fixture
def model(catalog, authorizer, clock):
    return ArtifactRegistry(Store(), catalog, authorizer, lambda: "127.0.0.1:9999", clock, publisher_token="operator")


@pytest.fixture
def client(model, authorizer):
    def render(_, error):
        return JSONResponse(error.body(), status_code=error.http_code)

    app = Starlette(
        routes=bind_routes(routes(model, Operations(Store()), authorizer, NoPolicies())),
        exception_handlers={GoogleError: render},
    )
    with TestClient(app) as client:
        yield client


def create(client, body=BODY, name="mcpfleet"):
    return client.post(f"{LOCATION}/repositories", params={"repository_id": name}, json=body)


def push(catalog, content, tag, image=IMAGE):
    layer = catalog.blobs.put(content)
    catalog.link_blob(image, layer)
    manifest = json.dumps({"config": {"digest": layer}, "layers": [{"digest": layer, "size": len(content)}]}).encode()
    return catalog.put_manifest(image, tag, manifest, "application/vnd.oci.image.manifest.v1+json")


def test_a_repository_is_returned_as_sent_with_its_registry_url(client):
    operation = create(client).json()
    assert operation["done"]
    assert client.get(f"/artifactregistry/v1/{operation['name']}").json() == operation
    read = client.get(REPOSITORY).json()
    assert {key: read[key] for key in BODY} == BODY
    assert (read["name"], read["registryUri"]) == (FULL_NAME, "127.0.0.1:9999/europe-west1/acme/mcpfleet")
    assert client.get(f"{LOCATION}/repositories").json()["repositories"] == [read]


def test_a_second_repository_of_that_name_is_refused(client):
    create(client)
    refused = create(client)
    assert (refused.status_code, refused.json()["error"]["status"]) == (409, "ALREADY_EXISTS")


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        ({**BODY, "colour": "red"}, 400, 'Unknown name "colour"'),
        ({"mode": "STANDARD_REPOSITORY"}, 400, "repository.format"),
        ({**BODY, "format": "NPM"}, 501, "repository.format"),
        ({**BODY, "mode": "VIRTUAL_REPOSITORY"}, 501, "repository.mode"),
        ({**BODY, "kmsKeyName": "k"}, 501, "repository.kmsKeyName"),
        ({**BODY, "dockerConfig": {"immutableTags": True}}, 501, "immutableTags"),
        ({**BODY, "cleanupPolicies": {"x": {"action": "BURN"}}}, 400, "cleanup_policies[0].value.action"),
        (
            {**BODY, "cleanupPolicies": {"x": {"action": "DELETE", "mostRecentVersions": {"keepCount": 1}}}},
            400,
            "needs the action KEEP",
        ),
        (
            {**BODY, "cleanupPolicies": {"x": {"action": "DELETE", "condition": {"olderThan": "30d"}}}},
            400,
            "cleanup_policies[0].value.condition.older_than",
        ),
    ],
)
def test_unsupported_fields_are_refused_by_name(client, body, code, text):
    refused = create(client, body)
    assert refused.status_code == code
    assert text in refused.json()["error"]["message"]
    assert client.get(REPOSITORY).status_code == 404, "nothing half-made is left"


@pytest.mark.parametrize("name", ["", "Upper", "1st", "a" * 64, "a_b", "-x", "x-"])
def test_a_repository_id_that_google_refuses_is_refused(client, name):
    assert create(client, name=name).status_code == 400


@pytest.mark.parametrize("location", ["europe-west99", "us-central-1", "europe-west1-b", "-", "mars"])
def test_a_location_that_google_does_not_have_is_refused(client, location):
    refused = client.post(
        f"/artifactregistry/v1/projects/acme/locations/{location}/repositories",
        params={"repository_id": "mcpfleet"},
        json=BODY,
    )
    assert (refused.status_code, refused.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize("location", ["europe-west1", "us-central1", "us", "europe", "asia"])
def test_regions_and_multi_regions_have_repositories(client, location):
    created = client.post(
        f"/artifactregistry/v1/projects/acme/locations/{location}/repositories",
        params={"repository_id": "mcpfleet"},
        json=BODY,
    )
    assert created.status_code == 200


def test_an_update_changes_only_the_fields_of_its_mask(client):
    create(client)
    body = {"labels": {"a": "b"}, "description": "not in the mask"}
    changed = client.patch(REPOSITORY, params={"updateMask": "labels"}, json=body).json()
    assert (changed["labels"], changed.get("description")) == ({"a": "b"}, None)
    cleared = client.patch(REPOSITORY, params={"updateMask": "labels,cleanupPolicies"}, json={}).json()
    assert not {"labels", "cleanupPolicies"} & set(cleared)
    refused = client.patch(REPOSITORY, params={"updateMask": "format"}, json={"format": "DOCKER"})
    assert (refused.status_code, "format cannot be changed" in refused.text) == (400, True)


def test_deleting_a_repository_deletes_its_images(client, catalog, tmp_path):
    create(client)
    push(catalog, b"layer", "latest")
    images = client.get(f"{REPOSITORY}/dockerImages").json()["dockerImages"]
    assert [(image["tags"], image["imageSizeBytes"]) for image in images] == [(["latest"], "5")]
    assert client.delete(REPOSITORY).json()["done"]
    assert client.get(REPOSITORY).status_code == 404
    assert catalog.list_manifests(FULL_NAME) == []


def test_a_project_number_is_accepted_and_the_project_must_exist(client):
    create(client)
    assert client.get(REPOSITORY.replace("acme", "42")).json()["name"] == FULL_NAME
    assert client.get(REPOSITORY.replace("acme", "other")).status_code == 403


def test_every_method_requires_its_permission(client, authorizer):
    create(client)
    for verb, method in (("get", "GET"), ("delete", "DELETE"), ("update", "PATCH")):
        authorizer.denied = {f"artifactregistry.repositories.{verb}"}
        assert client.request(method, REPOSITORY).status_code == 403
    authorizer.denied = set()
    assert client.get(REPOSITORY).status_code == 200


def test_the_registry_checks_permissions_and_names_missing_ones(model, client, authorizer):
    permission = "artifactregistry.repositories.uploadArtifacts"
    with pytest.raises(GoogleError, match="Unauthenticated request") as anonymous:
        model.check(None, permission, IMAGE)
    with pytest.raises(GoogleError, match='Repository "mcpfleet" not found') as missing:
        model.check("good", permission, IMAGE)
    create(client)
    model.check("good", permission, IMAGE)
    authorizer.denied = {permission}
    with pytest.raises(GoogleError, match=permission) as denied:
        model.check("good", permission, IMAGE)
    assert [error.value.http_code for error in (anonymous, missing, denied)] == [401, 404, 403]


def test_public_images_are_pulled_without_a_token_and_pushed_only_by_the_operator(model):
    public = ImageName("us", "mcpfleet-public", "images", "base")
    pull, push = (f"artifactregistry.repositories.{verb}Artifacts" for verb in ("download", "upload"))
    model.check(None, pull, public)
    model.check("operator", push, public)
    for token in (None, "good", ""):
        with pytest.raises(GoogleError, match="uploadArtifacts") as refused:
            model.check(token, push, public)
        assert refused.value.http_code == 403


def test_cleanup_keeps_the_newest_and_deletes_the_rest_after_a_push(client, model, catalog, clock):
    keep = {"action": "KEEP", "mostRecentVersions": {"keepCount": 2}}
    drop = {"action": "DELETE", "condition": {"tagState": "ANY"}}
    create(client, {**BODY, "cleanupPolicies": {"keep": keep, "drop": drop}})
    digests = []
    for number in range(4):
        clock.now += 1
        digests.append(push(catalog, b"layer %d" % number, f"v{number}"))
        model.pushed(IMAGE)
    assert {digest for _, digest, _ in catalog.list_manifests(FULL_NAME)} == set(digests[2:])


def test_a_dry_run_deletes_nothing(client, model, catalog):
    drop = {"action": "DELETE", "condition": {"tagState": "ANY"}}
    create(client, {**BODY, "cleanupPolicies": {"drop": drop}, "cleanupPolicyDryRun": True})
    digest = push(catalog, b"layer", "v1")
    assert [version.digest for version in model.clean(FULL_NAME)] == [digest]
    assert catalog.list_manifests(FULL_NAME)


VERSIONS = st.lists(
    st.builds(
        Version,
        st.sampled_from(["one", "two"]),
        st.uuids().map(str),
        st.lists(st.sampled_from(["latest", "v1", "dev-3"]), max_size=2).map(tuple),
        st.floats(0, 100),
    ),
    max_size=12,
    unique_by=lambda version: version.digest,
)


@given(VERSIONS, st.integers(0, 5), st.integers(0, 100))
def test_cleanup_never_deletes_the_newest_versions_of_a_keep_policy(versions, count, age):
    policies = {
        "keep": {"action": "KEEP", "mostRecentVersions": {"keepCount": count}},
        "drop": {"action": "DELETE", "condition": {"olderThan": f"{age}s"}},
    }
    deleted = find_deletable(versions, policies, now=100)
    for package in ("one", "two"):
        group = sorted((v for v in versions if v.package == package), key=lambda v: -v.uploaded)
        assert not set(group[:count]) & set(deleted)
        assert set(deleted) >= {v for v in group[count:] if 100 - v.uploaded > age}


@given(VERSIONS)
def test_without_a_delete_policy_nothing_is_deleted(versions):
    assert find_deletable(versions, {"keep": {"action": "KEEP", "mostRecentVersions": {"keepCount": 1}}}, now=100) == []
