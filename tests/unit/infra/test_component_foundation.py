"""What a stack's servers share. Decided here without a cloud; that it deploys is tests/integration's."""

import pulumi
import pytest

from pulumi_mcpfleet.components.foundation import Foundation, FoundationInFleet

API = "gcp:projects/service:Service"
REPOSITORY = "gcp:artifactregistry/repository:Repository"


@pytest.fixture(name="plan")
def _plan(deploy):
    return deploy(
        lambda: Foundation.in_fleet(
            "fleet", FoundationInFleet(project="p", region="europe-west1", labels={"team": "x"})
        )
    )


def test_every_api_that_the_stack_calls_is_enabled(plan):
    assert {api.inputs["service"] for api in plan.of(API)} == {
        "artifactregistry.googleapis.com",
        "cloudresourcemanager.googleapis.com",
        "iam.googleapis.com",
        "iamcredentials.googleapis.com",
        "run.googleapis.com",
    }


def test_destroying_the_stack_leaves_the_projects_apis_on(plan):
    assert [api.inputs["disableOnDestroy"] for api in plan.of(API)] == [False] * 5


def test_resource_manager_is_enabled_before_the_others_because_the_provider_asks_it(plan):
    first = (API, "fleet-cloudresourcemanager")
    for api in plan.of(API):
        assert (first in api.dependencies) == (api.name != first[1])


def test_the_repository_waits_for_the_apis(plan):
    assert plan.one(REPOSITORY).dependencies == {(API, name) for name in plan.names(API)}


def test_the_repository_holds_docker_images_in_the_stacks_region_and_project(plan):
    inputs = plan.one(REPOSITORY).inputs
    assert (inputs["repositoryId"], inputs["format"]) == ("mcpfleet", "DOCKER")
    assert (inputs["project"], inputs["location"], inputs["labels"]) == ("p", "europe-west1", {"team": "x"})


def test_a_change_of_region_that_failed_half_way_can_be_taken_back(plan):
    # Created first, the old repository would still be there, to be deleted at the end, when the way back creates it.
    assert plan.one(REPOSITORY).delete_before_replace


def test_untagged_versions_are_deleted_but_the_ten_newest(plan):
    delete, keep = plan.one(REPOSITORY).inputs["cleanupPolicies"]
    assert (delete["action"], delete["condition"]) == ("DELETE", {"tagState": "UNTAGGED"})
    assert (keep["action"], keep["mostRecentVersions"]) == ("KEEP", {"keepCount": 10})
    assert delete["id"] != keep["id"]


def test_registry_login_is_the_deployers_own_short_lived_token_and_a_secret(deploy):
    values = {}

    def program():
        login = Foundation.in_fleet("fleet", FoundationInFleet(project="p", region="r-x1")).registry_login
        values["username"] = login.username
        login.host.apply(lambda host: values.update(host=host))
        login.password.apply(lambda password: values.update(password=password))
        pulumi.Output.from_input(login.password.is_secret()).apply(lambda secret: values.update(secret=secret))

    deploy(program)
    assert values == {
        "username": "oauth2accesstoken",
        "host": "r-x1-docker.pkg.dev",
        "password": "ya29.short-lived",
        "secret": True,
    }


def test_every_child_hangs_off_the_component_wherever_that_hangs(deploy):
    def program():
        outer = pulumi.ComponentResource("test:index:Outer", "outer")
        Foundation.in_fleet(
            "fleet", FoundationInFleet(project="p", region="r-x1"), pulumi.ResourceOptions(parent=outer)
        )

    plan = deploy(program)
    children = [*plan.of(API), *plan.of(REPOSITORY)]
    assert {child.parent for child in children} == {("mcpfleet:index:Foundation", "fleet")}


def test_the_component_registers_its_outputs(plan):
    assert plan.component_outputs[("mcpfleet:index:Foundation", "fleet")] == {
        "registry_uri": "europe-west1-docker.pkg.dev/p/mcpfleet"
    }
