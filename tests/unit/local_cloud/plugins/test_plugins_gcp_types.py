"""The other gcp types on the wire (docs/google-apis.md 1.2 to 1.5 and 1.7)."""

import importlib
import inspect
import json

import pytest

from mcpfleet_local_cloud.plugins.gcp import certificates, compute, mesh
from mcpfleet_local_cloud.plugins.gcp.iam_member import RunServiceIamMember
from mcpfleet_local_cloud.plugins.gcp.iap import Settings
from mcpfleet_local_cloud.plugins.gcp.run_service import RunService
from mcpfleet_local_cloud.plugins.gcp.storage import Bucket, BucketObject
from mcpfleet_local_cloud.plugins.values import UNKNOWN

REPOSITORY = "gcp:artifactregistry/repository:Repository"
ACCOUNT = "gcp:serviceaccount/account:Account"
API = "gcp:projects/service:Service"
INVOKER = "gcp:cloudrunv2/serviceIamMember:ServiceIamMember"
PROJECT_MEMBER = "gcp:projects/iAMMember:IAMMember"
REPOSITORIES = "/artifactregistry/v1/projects/acme/locations/r1/repositories"
IMAGES = f"{REPOSITORIES}/images"
EMAIL = "runner@acme.iam.gserviceaccount.com"
ACCOUNTS = "/iam/v1/projects/acme/serviceAccounts"
RUNNER = f"{ACCOUNTS}/{EMAIL}"
SERVICES = "/serviceusage/v1/projects/acme/services"
LIST = f"{SERVICES}?fields=services%2Fname%2CnextPageToken&filter=state%3AENABLED&pageSize=200"
POLICY = "/run/v2/projects/acme/locations/r1/services/hello"
GRANT = {"name": "hello", "location": "r1", "role": "roles/run.invoker", "member": "user:ada@x.test"}


@pytest.fixture
def repository(engine, wire):
    body = {"name": IMAGES.partition("v1/")[2], "format": "DOCKER", "registryUri": "127.0.0.1:8470/r1/acme/images"}

    def write(request):
        body.update(json.loads(request.content))
        return {"name": "projects/acme/locations/r1/operations/o", "done": True}

    def patch(request):
        body.update(json.loads(request.content))
        return body

    wire.answers |= {f"POST {REPOSITORIES}": write, f"PATCH {IMAGES}": patch, f"GET {IMAGES}": lambda _: body}
    inputs = engine.checked(
        REPOSITORY,
        {
            "repositoryId": "images",
            "format": "DOCKER",
            "cleanupPolicies": [{"id": "keep", "action": "KEEP", "mostRecentVersions": {"keepCount": 5}}],
        },
    )
    return inputs, *engine.create(REPOSITORY, inputs)


def test_a_repository_is_created_with_its_image_url(engine, wire, repository):
    inputs, identity, state = repository
    assert wire.bodies("POST") == [
        {
            "format": "DOCKER",
            "mode": "STANDARD_REPOSITORY",
            "cleanupPolicies": {"keep": {"action": "KEEP", "mostRecentVersions": {"keepCount": 5}}},
            "labels": {"goog-pulumi-provisioned": "true"},
        }
    ]
    assert wire.calls == [f"POST {REPOSITORIES}?repository_id=images", f"GET {IMAGES}"]
    assert identity == "projects/acme/locations/r1/repositories/images"
    assert (state["name"], state["registryUri"]) == ("images", "127.0.0.1:8470/r1/acme/images")
    assert engine.changed(REPOSITORY, state, inputs) == []
    assert engine.changed(REPOSITORY, state, {**inputs, "format": "docker"}) == []


def test_a_repository_is_patched_with_a_mask_of_what_changed(engine, wire, repository):
    inputs, identity, state = repository
    wire.requests.clear()
    news = {**inputs, "description": "images", "labels": {"a": "b"}}
    engine.update(REPOSITORY, identity, state, news)
    assert wire.bodies("PATCH")[0]["labels"] == {"goog-pulumi-provisioned": "true", "a": "b"}
    assert wire.calls == [f"PATCH {IMAGES}?updateMask=description%2Clabels", f"GET {IMAGES}"]
    engine.update(REPOSITORY, identity, state, inputs)
    assert wire.calls == [f"GET {IMAGES}"], "nothing changed, so nothing is patched"


@pytest.mark.parametrize("change", [{"format": "NPM"}, {"repositoryId": "b"}, {"location": "r2"}, {"kmsKeyName": "k"}])
def test_a_change_of_a_repositorys_identity_is_a_replacement(engine, repository, change):
    inputs, _, state = repository
    answer = engine.diff(REPOSITORY, state, {**inputs, **change})
    assert list(answer.replaces) == list(change)


@pytest.fixture
def account(engine, wire):
    body = {"name": RUNNER.partition("v1/")[2], "email": EMAIL, "projectId": "acme", "uniqueId": "1", "etag": "e"}
    missing = (404, {"error": {"code": 404, "message": "not yet"}})
    wire.answers |= {f"POST {ACCOUNTS}": body, f"GET {RUNNER}": [missing, body]}
    inputs = engine.checked(ACCOUNT, {"accountId": "runner", "displayName": "r"})
    return inputs, *engine.create(ACCOUNT, inputs)


def test_an_account_is_created_and_read_until_it_is_visible(engine, wire, account):
    _, identity, state = account
    assert wire.bodies("POST") == [{"accountId": "runner", "serviceAccount": {"displayName": "r"}}]
    assert wire.calls == [f"POST {ACCOUNTS}", *[f"GET {RUNNER}"] * 4]
    assert (identity, state["member"]) == (f"projects/acme/serviceAccounts/{EMAIL}", f"serviceAccount:{EMAIL}")


def test_an_account_is_patched_with_its_etag(engine, wire, account):
    inputs, identity, state = account
    wire.requests.clear()
    wire.answers[f"PATCH {RUNNER}"] = wire.answers[f"POST {RUNNER}:disable"] = {}
    engine.update(ACCOUNT, identity, state, {**inputs, "displayName": "new", "disabled": True})
    assert wire.bodies("PATCH") == [
        {"serviceAccount": {"displayName": "new", "description": "", "etag": "e"}, "updateMask": "display_name"}
    ]
    assert wire.calls == [f"GET {RUNNER}", f"POST {RUNNER}:disable", f"PATCH {RUNNER}", f"GET {RUNNER}"]


def test_an_account_id_has_six_to_thirty_characters(engine):
    _, failures = engine.check(ACCOUNT, {"accountId": "short"})
    assert "must be between 6 and 30 characters" in failures[0][1]


def test_an_address_is_known_in_a_preview_only_in_the_default_universe(engine, unconfigured, wire, tmp_path):
    _, planned = engine.create(ACCOUNT, {"accountId": "runner"}, preview=True)
    assert planned["email"] == EMAIL
    unconfigured.configure(project="acme", accessToken="t", universeDomain="own.test")
    _, planned = unconfigured.create(ACCOUNT, {"accountId": "runner"}, preview=True)
    assert (planned["email"], planned["member"]) == (UNKNOWN, UNKNOWN)


def test_an_enabled_api_is_not_enabled_again(engine, wire):
    listed = {"services": [{"name": "projects/1/services/run.googleapis.com"}]}
    operation = {"name": "operations/acat.x", "done": False}
    wire.answers |= {
        f"GET {SERVICES}": [{}, listed],
        f"POST {SERVICES}/run.googleapis.com:enable": operation,
        "GET /serviceusage/v1beta1/operations/acat.x": {**operation, "done": True},
        "GET /crm/v1/projects/acme": {"projectId": "acme", "lifecycleState": "ACTIVE"},
    }
    identity, state = engine.create(API, {"service": "run.googleapis.com"})
    assert identity == "acme/run.googleapis.com"
    assert wire.calls == [
        f"GET {LIST}",
        f"POST {SERVICES}/run.googleapis.com:enable",
        "GET /serviceusage/v1beta1/operations/acat.x",
        f"GET {LIST}",
        "GET /crm/v1/projects/acme",
    ]
    engine.create(API, {"service": "run.googleapis.com"})
    assert wire.calls == [f"GET {LIST}", "GET /crm/v1/projects/acme"]
    engine.delete(API, identity, state)
    assert wire.calls == [], "an API stays enabled unless the program says otherwise"


class PolicyServer:
    """A resource's policy with an etag that is enforced."""

    def __init__(self, wire, path, read="GET"):
        self.policy = {"etag": "1"}
        self.stolen = 0
        wire.answers |= {
            f"{read} {path}:getIamPolicy": lambda _: self.policy,
            f"POST {path}:setIamPolicy": self.write,
        }

    def write(self, request):
        policy = json.loads(request.content)["policy"]
        if self.stolen:
            self.stolen -= 1
            self.policy["etag"] += "1"
        if policy["etag"] != self.policy["etag"]:
            return (409, {"error": {"code": 409, "message": "There were concurrent policy changes."}})
        self.policy = {**policy, "etag": policy["etag"] + "1"}
        return self.policy


def test_a_grant_keeps_other_members_and_is_confirmed_three_times(engine, wire):
    server = PolicyServer(wire, POLICY)
    server.policy["bindings"] = [{"role": "roles/run.invoker", "members": ["user:zed@x.test"]}]
    identity, state = engine.create(INVOKER, engine.checked(INVOKER, GRANT))
    assert wire.bodies("POST") == [
        {
            "policy": {
                "bindings": [{"role": "roles/run.invoker", "members": ["user:ada@x.test", "user:zed@x.test"]}],
                "etag": "1",
                "version": 3,
            }
        }
    ]
    read = f"GET {POLICY}:getIamPolicy"
    assert wire.calls == [read, f"POST {POLICY}:setIamPolicy", read, read, read, read]
    assert identity == "projects/acme/locations/r1/services/hello/roles/run.invoker/user:ada@x.test"
    engine.delete(INVOKER, identity, state)
    assert server.policy["bindings"] == [{"role": "roles/run.invoker", "members": ["user:zed@x.test"]}]


def test_removing_the_last_member_removes_the_binding(engine, wire):
    server = PolicyServer(wire, POLICY)
    identity, state = engine.create(INVOKER, GRANT)
    wire.requests.clear()
    engine.delete(INVOKER, identity, state)
    assert wire.bodies("POST") == [{"policy": {"etag": "11", "version": 3}}]
    assert engine.read(INVOKER, identity, state)[0] == ""
    assert "bindings" not in server.policy


def test_a_policy_that_was_changed_meanwhile_is_read_again(engine, wire):
    server = PolicyServer(wire, POLICY)
    server.stolen = 2
    engine.create(INVOKER, GRANT)
    assert server.policy["bindings"] == [{"role": "roles/run.invoker", "members": ["user:ada@x.test"]}]


@pytest.mark.parametrize(
    "identity",
    [
        "projects/acme/locations/r1/services/hello roles/run.invoker user:ada@x.test",
        "r1/hello roles/run.invoker user:ADA@x.test",
        "hello roles/run.invoker user:ada@x.test",
        "projects/acme/locations/r1/services/hello/roles/run.invoker/user:ada@x.test",
    ],
)
def test_a_member_is_imported_by_every_format_of_its_id(engine, wire, identity):
    PolicyServer(wire, POLICY)
    made, _ = engine.create(INVOKER, GRANT)
    imported, state, inputs = engine.read(INVOKER, identity)
    assert imported == made
    assert inputs == {**GRANT, "project": "acme", "name": "projects/acme/locations/r1/services/hello"}
    assert engine.changed(INVOKER, state, GRANT) == []


@pytest.mark.parametrize(
    ("change", "replaces"),
    [
        ({"role": "roles/run.admin"}, ["role"]),
        ({"member": "user:bob@x.test"}, ["member"]),
        ({"member": "user:ADA@x.test"}, []),
        ({"name": "projects/acme/locations/r1/services/hello"}, []),
        ({"name": "other"}, ["name"]),
    ],
)
def test_a_change_of_a_grant_is_a_replacement(engine, change, replaces):
    answer = engine.diff(INVOKER, {**GRANT, "project": "acme"}, {**GRANT, **change})
    assert list(answer.replaces) == replaces
    assert answer.deleteBeforeReplace is bool(replaces), "the program gives the name"


NAMED = [
    item
    for item in (
        *certificates.TYPES,
        *compute.TYPES,
        *mesh.TYPES,
        RunService,
        RunServiceIamMember,
        Settings,
        Bucket,
        BucketObject,
    )
    if any(field.name == "name" for field in item.fields)
]


@pytest.mark.parametrize("resource", NAMED, ids=lambda one: one.__name__)
def test_names_are_generated_for_the_same_types_as_by_the_real_provider(resource):
    """The bridge makes the property `name` optional in the SDK wherever it makes up a name."""
    _, module, kind = resource.type_name.split(":")
    arguments = getattr(importlib.import_module(f"pulumi_gcp.{module.partition('/')[0]}"), f"{kind}Args")
    optional = inspect.signature(arguments).parameters["name"].default is not inspect.Parameter.empty
    assert [bool(field.autoname) for field in resource.fields if field.name == "name"] == [optional]


def test_a_projects_policy_is_read_by_post(engine, wire):
    server = PolicyServer(wire, "/crm/v1/projects/acme", read="POST")
    grant = {"role": "roles/viewer", "member": "user:ada@x.test", "project": "acme"}
    identity, _ = engine.create(PROJECT_MEMBER, grant)
    assert wire.bodies("POST")[:2] == [
        {"options": {"requestedPolicyVersion": 3}},
        {
            "policy": {
                "bindings": [{"role": "roles/viewer", "members": ["user:ada@x.test"]}],
                "etag": "1",
                "version": 3,
            },
            "updateMask": "bindings,etag,auditConfigs",
        },
    ]
    assert identity == "acme/roles/viewer/user:ada@x.test"
    assert engine.read(PROJECT_MEMBER, "acme roles/viewer user:ada@x.test")[0] == identity
    assert server.policy["bindings"]
