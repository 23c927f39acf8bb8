"""Roles of a fleet's accounts: a lesser one by its name, one that reaches further with its reason, two never."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulumi_mcpfleet.fleet import FleetError, parse_fleet
from pulumi_mcpfleet.fleet.roles import describe_power, role_names

SOURCE = {"build": "./x"}
WHY = "makes a topic for each tenant"

POWERFUL = [
    "roles/viewer",
    "roles/iam.serviceAccountTokenCreator",
    "roles/iam.serviceAccountOpenIdTokenCreator",
    "roles/iam.serviceAccountUser",
    "roles/iam.serviceAccountKeyAdmin",
    "roles/iam.serviceAccountAdmin",
    "roles/iam.workloadIdentityUser",
    "roles/iam.workloadIdentityPoolAdmin",
    "roles/iam.securityAdmin",
    "roles/iam.roleAdmin",
    "roles/iam.organizationRoleAdmin",
    "roles/resourcemanager.projectIamAdmin",
    "roles/resourcemanager.organizationAdmin",
    "roles/run.admin",
    "roles/run.developer",
    "roles/run.sourceDeveloper",
    "roles/cloudbuild.builds.editor",
    "roles/cloudbuild.builds.builder",
    "roles/cloudfunctions.admin",
    "roles/cloudfunctions.developer",
    "roles/compute.admin",
    "roles/compute.instanceAdmin",
    "roles/compute.instanceAdmin.v1",
    "roles/compute.osAdminLogin",
    "roles/deploymentmanager.editor",
    "roles/deploymentmanager.typeEditor",
    "roles/secretmanager.secretAccessor",
    "roles/secretmanager.admin",
    "roles/cloudkms.cryptoKeyEncrypterDecrypter",
    "roles/cloudkms.signerVerifier",
    "roles/storage.admin",
    "roles/storage.objectAdmin",
    "roles/storage.legacyBucketOwner",
    "roles/artifactregistry.writer",
    "roles/artifactregistry.repoAdmin",
    "roles/run.serviceAgent",
    "roles/bigquery.dataOwner",
    "projects/acme/roles/own",
    "organizations/4711/roles/own",
]
LESSER = [
    "roles/bigquery.user",
    "roles/bigquery.dataViewer",
    "roles/bigquery.jobUser",
    "roles/aiplatform.user",
    "roles/iam.serviceAccountViewer",
    "roles/cloudkms.publicKeyViewer",
    "roles/storage.objectViewer",
    "roles/storage.objectUser",
    "roles/run.invoker",
    "roles/artifactregistry.reader",
    "roles/logging.logWriter",
    "roles/pubsub.publisher",
    "roles/trafficdirector.client",
    "roles/cloudtrace.agent",
]


def fleet_with(*roles, kind="servers"):
    servers = {"one": {"source": SOURCE, **({"roles": list(roles)} if kind == "servers" else {})}}
    clients = {"two": {"source": SOURCE, "roles": list(roles)}} if kind == "clients" else {}
    return parse_fleet({"region": "europe-west1", "servers": servers, **({"clients": clients} if clients else {})})


def refusal(*roles, kind="servers"):
    with pytest.raises(FleetError) as refused:
        fleet_with(*roles, kind=kind)
    return str(refused.value)


@pytest.mark.parametrize("role", POWERFUL)
def test_a_role_that_reaches_further_needs_its_reason(role):
    message = refusal(role)
    assert "servers.one.roles[0]: " in message
    assert f'{{role: {role}, reason: "…"}}' in message
    fleet = fleet_with({"role": role, "reason": WHY})
    assert role_names(fleet.servers["one"].roles) == (role,)


def test_a_client_needs_it_too():
    assert "clients.two.roles[0]: roles/run.admin" in refusal("roles/run.admin", kind="clients")


@pytest.mark.parametrize("role", LESSER)
def test_a_lesser_role_is_written_by_its_name(role):
    assert role_names(fleet_with(role).servers["one"].roles) == (role,)


@pytest.mark.parametrize("role", ["roles/owner", "roles/editor"])
def test_no_reason_is_good_enough_for_the_whole_project(role):
    assert "the whole project" in refusal(role)
    assert "the whole project" in refusal({"role": role, "reason": WHY})


@pytest.mark.parametrize(
    "reason", ["", "because", " " * 20, "a\nb" * 10, "x" * 257, "makes a topic\ufe0f", "makes a\u202etopic"]
)
def test_a_reason_says_something(reason):
    assert "roles[0].reason: must explain," in refusal({"role": "roles/run.admin", "reason": reason})


def test_a_role_without_its_reason_and_an_unknown_key_are_named():
    assert "roles[0].reason" in refusal({"role": "roles/run.admin"})
    assert "raison" in refusal({"role": "roles/run.admin", "raison": WHY})


def test_a_secret_is_granted_by_its_own_key():
    assert "a secret of its own goes into secrets instead" in refusal("roles/secretmanager.secretAccessor")


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.from_regex(r"roles/([a-z]{1,9}\.){0,2}\w{0,9}([aA]dmin|[oO]wner)", fullmatch=True))
def test_whatever_administers_needs_a_reason(role):
    assert describe_power(role) is not None
