"""IAM policies: who may be in them, how they change, what they allow."""

import json

import pytest

from mcpfleet_local_cloud.identity.policy import Policies, read_policy_body
from mcpfleet_local_cloud.identity.roles import ROLES, has_permission
from mcpfleet_local_cloud.rest.errors import GoogleError
from mcpfleet_local_cloud.rest.message_parser import parse_body
from mcpfleet_local_cloud.rest.schemas import load_api
from mcpfleet_local_cloud.state.store import Store

PROJECT = "projects/p"
SERVICE = "projects/p/locations/europe-west1/services/s"
REPOSITORY = "projects/p/locations/europe-west1/repositories/r"
ACCOUNT = "projects/p/serviceAccounts/runner@p.iam.gserviceaccount.com"
RUNNER = "runner@p.iam.gserviceaccount.com"
INVOKE = "run.routes.invoke"


@pytest.fixture
def accounts():
    return {RUNNER}


@pytest.fixture
def policies(accounts):
    return Policies(Store(), lambda email: email in accounts)


def single_binding(role, *members):
    return {"bindings": [{"role": role, "members": list(members)}]}


def refusal(call, *arguments):
    with pytest.raises(GoogleError) as caught:
        call(*arguments)
    return caught.value.http_code, caught.value.status, caught.value.message


def test_a_new_policy_has_googles_empty_etag_and_no_bindings(policies):
    assert policies.get(SERVICE) == {"version": 1, "etag": "ACAB"}


def test_a_policy_is_read_back_as_it_was_written(policies):
    stored = policies.set(SERVICE, single_binding("roles/run.invoker", "user:ada@mcpfleet.test"))
    assert stored == policies.get(SERVICE)
    assert stored["bindings"] == [{"role": "roles/run.invoker", "members": ["user:ada@mcpfleet.test"]}]


def test_bindings_of_one_role_are_merged_sorted_and_unique(policies):
    stored = policies.set(
        SERVICE,
        {
            "version": 3,
            "bindings": [
                {"role": "roles/run.viewer", "members": ["user:b@x.test"]},
                {"role": "roles/run.invoker", "members": ["user:b@x.test", "user:B@X.test"]},
                {"role": "roles/run.invoker", "members": ["allUsers", "user:a@x.test"]},
                {"role": "roles/run.admin", "members": []},
            ],
        },
    )
    assert stored["version"] == 1
    assert stored["bindings"] == [
        {"role": "roles/run.invoker", "members": ["allUsers", "user:a@x.test", "user:b@x.test"]},
        {"role": "roles/run.viewer", "members": ["user:b@x.test"]},
    ]


def test_removing_the_last_binding_leaves_an_empty_policy_with_a_new_etag(policies):
    old = policies.set(SERVICE, single_binding("roles/run.invoker", "allUsers"))
    after = policies.set(SERVICE, {"etag": old["etag"], "bindings": []})
    assert set(after) == {"version", "etag"}
    assert after["etag"] not in {old["etag"], "ACAB"}
    assert not policies.allows(None, INVOKE, SERVICE)


def test_an_outdated_etag_is_a_conflict_and_changes_nothing(policies):
    first = policies.set(SERVICE, single_binding("roles/run.invoker", "user:a@x.test"))
    second = policies.set(SERVICE, {**single_binding("roles/run.invoker", "user:b@x.test"), "etag": first["etag"]})
    code, status, message = refusal(
        policies.set, SERVICE, {**single_binding("roles/run.invoker"), "etag": first["etag"]}
    )
    assert (code, status) == (409, "ABORTED")
    assert message == (
        f"There were concurrent policy changes on {SERVICE}. Please retry the whole read-modify-write with "
        "exponential backoff."
    )
    assert policies.get(SERVICE) == second


def test_the_empty_etag_is_outdated_after_a_write(policies):
    policies.set(SERVICE, {**single_binding("roles/run.invoker", "allUsers"), "etag": "ACAB"})
    assert refusal(policies.set, SERVICE, {"etag": "ACAB"})[0] == 409


def test_without_an_etag_the_last_writer_wins(policies):
    policies.set(SERVICE, single_binding("roles/run.invoker", "user:a@x.test"))
    policies.set(SERVICE, single_binding("roles/run.invoker", "user:b@x.test"))
    assert policies.get(SERVICE)["bindings"][0]["members"] == ["user:b@x.test"]


def test_every_etag_is_unique(policies):
    etags = {policies.set(SERVICE, single_binding("roles/run.invoker", "allUsers"))["etag"] for _ in range(20)}
    assert len(etags) == 20


@pytest.mark.parametrize(
    "member",
    [
        "allUsers",
        "allAuthenticatedUsers",
        "user:ada@mcpfleet.test",
        "group:mcp-users@acme.dev",
        "domain:acme.dev",
        f"serviceAccount:{RUNNER}",
        "serviceAccount:service-12@gcp-sa-iap.iam.gserviceaccount.com",
        "serviceAccount:12@cloudservices.gserviceaccount.com",
    ],
)
def test_members_that_google_accepts_are_accepted(policies, member):
    assert policies.set(SERVICE, single_binding("roles/run.invoker", member))["bindings"][0]["members"] == [member]


UNKNOWN_TYPE = "The member {} is of an unknown type. Please set a valid type prefix for the member."


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (
            "serviceAccount:ghost@p.iam.gserviceaccount.com",
            "Service account ghost@p.iam.gserviceaccount.com does not exist.",
        ),
        ("ada@mcpfleet.test", UNKNOWN_TYPE.format("ada@mcpfleet.test")),
        ("User:ada@mcpfleet.test", UNKNOWN_TYPE.format("User:ada@mcpfleet.test")),
        ("robot:ada@mcpfleet.test", UNKNOWN_TYPE.format("robot:ada@mcpfleet.test")),
        ("user:", UNKNOWN_TYPE.format("user:")),
        ("", UNKNOWN_TYPE.format("")),
        ("allusers", UNKNOWN_TYPE.format("allusers")),
        ("user:ada", "The member user:ada is not valid: 'ada' is not an e-mail address."),
        ("group:a b@x.test", "The member group:a b@x.test is not valid: 'a b@x.test' is not an e-mail address."),
        ("domain:a@x.test", "The member domain:a@x.test is not valid: 'a@x.test' is not a domain."),
        (
            f"deleted:serviceAccount:{RUNNER}?uid=1",
            (
                f"The member deleted:serviceAccount:{RUNNER}?uid=1 was deleted; only a policy that has it already "
                "may keep it."
            ),
        ),
    ],
)
def test_a_member_that_google_refuses_is_refused_with_the_reason(policies, member, message):
    code, status, said = refusal(policies.set, SERVICE, single_binding("roles/run.invoker", "allUsers", member))
    assert (code, status, said) == (400, "INVALID_ARGUMENT", message)
    assert policies.get(SERVICE)["etag"] == "ACAB"


@pytest.mark.parametrize(
    ("resource", "role"),
    [
        (SERVICE, "roles/run.invokr"),
        (SERVICE, "roles/artifactregistry.reader"),
        (SERVICE, "roles/iam.serviceAccountUser"),
        (REPOSITORY, "roles/run.invoker"),
        (ACCOUNT, "roles/run.invoker"),
        (PROJECT, "roles/x"),
        (PROJECT, "projects/p/roles/mine"),
    ],
)
def test_a_role_that_does_not_fit_the_resource_is_refused(policies, resource, role):
    assert refusal(policies.set, resource, single_binding(role, "allUsers")) == (
        400,
        "INVALID_ARGUMENT",
        f"Role {role} is not supported for this resource.",
    )


@pytest.mark.parametrize(
    ("resource", "role"),
    [
        (SERVICE, "roles/run.invoker"),
        (SERVICE, "roles/run.admin"),
        (REPOSITORY, "roles/artifactregistry.reader"),
        (ACCOUNT, "roles/iam.serviceAccountUser"),
        (ACCOUNT, "roles/iam.serviceAccountTokenCreator"),
        *((PROJECT, role) for role in ROLES),
    ],
)
def test_a_role_that_fits_the_resource_is_granted(policies, resource, role):
    assert policies.set(resource, single_binding(role, "user:a@x.test"))["bindings"][0]["role"] == role


def read_body_of(body):
    """The policy in a body, as it is read."""
    method = load_api("secretmanager.v1").methods[
        "POST /secretmanager/v1/projects/{project}/secrets/{secret}:setIamPolicy"
    ]
    return read_policy_body(parse_body(json.dumps(body).encode(), method))


def written(policies, policy):
    return policies.set(SERVICE, read_body_of({"policy": policy}))


@pytest.mark.parametrize(
    ("policy", "code", "message"),
    [
        (
            {"bindings": [{"role": "roles/run.invoker", "members": ["allUsers"], "condition": {"expression": "true"}}]},
            501,
            (
                "policy.bindings[0].condition: the local cloud does not support this field yet: grant the role "
                "without a condition."
            ),
        ),
        (
            {"auditConfigs": [{"service": "allServices"}]},
            501,
            "policy.auditConfigs: the local cloud does not support this field yet: there are no audit logs here.",
        ),
        (
            single_binding("roles/run.invoker", "principal://nonsense"),
            400,
            "The member principal://nonsense is not valid: it is no identity of a workload or workforce pool.",
        ),
        ({"version": 2}, 400, "Invalid policy version 2: 0, 1 and 3 are valid."),
        ({"bindings": {}, "version": 1, "x": 1}, 400, None),
        (
            {"bindings": "all"},
            400,
            "Invalid value at 'policy.bindings' (type.googleapis.com/google.iam.v1.Binding), \"all\"",
        ),
        ({"bindings": [{"members": ["allUsers"]}]}, 400, "policy.bindings[0].role: must be set."),
        (
            {"bindings": ["roles/run.invoker"]},
            400,
            "Invalid value at 'policy.bindings[0]' (type.googleapis.com/google.iam.v1.Binding), \"roles/run.invoker\"",
        ),
        (
            {"bindings": [{"role": "roles/run.invoker", "members": "allUsers"}]},
            400,
            "Invalid value at 'policy.bindings[0].members' (TYPE_STRING), \"allUsers\"",
        ),
        (
            {"bindings": [{"role": "roles/run.invoker", "memebrs": ["allUsers"]}]},
            400,
            "Invalid JSON payload received. Unknown name \"memebrs\" at 'policy.bindings[0]': Cannot find field.",
        ),
        (
            {"bindngs": []},
            400,
            "Invalid JSON payload received. Unknown name \"bindngs\" at 'policy': Cannot find field.",
        ),
    ],
)
def test_a_policy_of_the_wrong_shape_is_refused_and_nothing_is_written(policies, policy, code, message):
    got, _, said = refusal(written, policies, policy)
    assert got == code
    assert message in {None, said}
    assert policies.get(SERVICE)["etag"] == "ACAB"


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({}, 400, "policy: must be set."),
        (
            {"policy": []},
            400,
            'Invalid JSON payload received. Unknown name "policy": Proto field is not repeating, cannot start list.',
        ),
        ({"policy": {}, "mask": "x"}, 400, 'Invalid JSON payload received. Unknown name "mask": Cannot find field.'),
        ({"policy": {}, "updateMask": "bindings,owner"}, 400, "updateMask: the policy has no field 'owner'."),
        (
            {"policy": {}, "updateMask": "auditConfigs"},
            501,
            (
                "updateMask: the local cloud does not support this field yet: a policy is changed with its bindings, "
                "or not at all."
            ),
        ),
    ],
)
def test_a_set_request_of_the_wrong_shape_is_refused(body, code, message):
    got, _, said = refusal(read_body_of, body)
    assert (got, said) == (code, message)


def test_the_providers_update_mask_is_accepted():
    assert read_policy_body({"policy": {"etag": "x"}, "updateMask": "bindings,etag,auditConfigs"}) == {"etag": "x"}


def test_only_the_member_with_the_role_is_allowed(policies):
    policies.set(SERVICE, single_binding("roles/run.invoker", "user:Ada@MCPfleet.test", f"serviceAccount:{RUNNER}"))
    assert policies.allows("ada@mcpfleet.test", INVOKE, SERVICE)
    assert policies.allows("ADA@mcpfleet.test", INVOKE, SERVICE)
    assert policies.allows(RUNNER, INVOKE, SERVICE)
    assert not policies.allows("ada@mcpfleet.test", "run.services.update", SERVICE)
    assert not policies.allows("bob@mcpfleet.test", INVOKE, SERVICE)
    assert not policies.allows("", INVOKE, SERVICE)
    assert not policies.allows(None, INVOKE, SERVICE)


def test_all_users_includes_anonymous_callers_and_authenticated_users_does_not(policies):
    policies.set(SERVICE, single_binding("roles/run.invoker", "allAuthenticatedUsers"))
    assert policies.allows("bob@mcpfleet.test", INVOKE, SERVICE)
    assert policies.allows("", INVOKE, SERVICE)
    assert not policies.allows(None, INVOKE, SERVICE)
    policies.set(SERVICE, single_binding("roles/run.invoker", "allUsers"))
    assert policies.allows(None, INVOKE, SERVICE)
    assert policies.allows("bob@mcpfleet.test", INVOKE, SERVICE)


def test_a_domain_includes_its_users_and_not_those_of_subdomains(policies):
    policies.set(SERVICE, single_binding("roles/run.invoker", "domain:acme.dev"))
    assert policies.allows("eve@acme.dev", INVOKE, SERVICE)
    assert not policies.allows("eve@evil.acme.dev", INVOKE, SERVICE)
    assert not policies.allows("eve@notacme.dev", INVOKE, SERVICE)


def test_a_group_does_not_match_its_own_email_address(policies):
    policies.set(SERVICE, single_binding("roles/run.invoker", "group:mcp-users@acme.dev"))
    assert not policies.allows("mcp-users@acme.dev", INVOKE, SERVICE)


def test_a_grant_applies_to_child_resources_and_no_others(policies):
    policies.set(PROJECT, single_binding("roles/run.invoker", "user:a@x.test"))
    policies.set(SERVICE, single_binding("roles/run.invoker", "user:b@x.test"))
    assert policies.allows("a@x.test", INVOKE, SERVICE)
    assert not policies.allows("b@x.test", INVOKE, PROJECT)
    assert not policies.allows("b@x.test", INVOKE, SERVICE + "2")
    assert not policies.allows("a@x.test", INVOKE, "projects/p2/locations/europe-west1/services/s")


def test_a_permission_is_the_same_in_either_spelling(policies):
    policies.set(PROJECT, single_binding("roles/iam.serviceAccountUser", "user:a@x.test"))
    assert policies.allows("a@x.test", "iam.serviceaccounts.actAs", ACCOUNT)
    assert policies.allows("a@x.test", "iam.serviceAccounts.actAs", ACCOUNT)


def test_a_deleted_account_leaves_a_tombstone_that_a_new_one_does_not_inherit(policies, accounts):
    policies.set(SERVICE, single_binding("roles/run.invoker", f"serviceAccount:{RUNNER}", "user:a@x.test"))
    untouched = policies.set(PROJECT, single_binding("roles/viewer", "user:a@x.test"))
    policies.mark_deleted(RUNNER, "123")
    tombstone = f"deleted:serviceAccount:{RUNNER}?uid=123"
    assert policies.get(SERVICE)["bindings"][0]["members"] == [tombstone, "user:a@x.test"]
    assert not policies.allows(RUNNER, INVOKE, SERVICE)
    assert policies.get(PROJECT) == untouched
    # The next read-modify-write may bring it back, or drop it.
    stored = policies.get(SERVICE)
    stored["bindings"][0]["members"].append("user:b@x.test")
    assert tombstone in policies.set(SERVICE, stored)["bindings"][0]["members"]
    policies.set(SERVICE, single_binding("roles/run.invoker", "user:b@x.test"))
    assert refusal(policies.set, SERVICE, single_binding("roles/run.invoker", tombstone))[0] == 400


def test_a_policy_is_deleted_with_its_resource(policies):
    policies.set(SERVICE, single_binding("roles/run.invoker", "allUsers"))
    policies.delete(SERVICE)
    assert policies.get(SERVICE)["etag"] == "ACAB"
    assert not policies.allows(None, INVOKE, SERVICE)


@pytest.mark.parametrize(
    ("role", "permission", "not_held"),
    [
        ("roles/run.invoker", INVOKE, "run.services.get"),
        ("roles/run.admin", "run.services.setIamPolicy", "iam.serviceAccounts.actAs"),
        ("roles/run.developer", "run.services.create", "run.services.setIamPolicy"),
        ("roles/run.viewer", "run.services.list", "run.services.update"),
        ("roles/editor", "run.services.create", "run.services.setIamPolicy"),
        ("roles/editor", "iam.serviceAccounts.actAs", "iam.serviceAccounts.getOpenIdToken"),
        ("roles/viewer", "run.services.get", "run.routes.invoke"),
        ("roles/owner", "run.services.setIamPolicy", "iam.serviceAccounts.getOpenIdToken"),
        ("roles/iam.serviceAccountAdmin", "iam.serviceAccounts.create", "iam.serviceAccountKeys.create"),
        (
            "roles/artifactregistry.writer",
            "artifactregistry.repositories.uploadArtifacts",
            "artifactregistry.repositories.deleteArtifacts",
        ),
        (
            "roles/artifactregistry.reader",
            "artifactregistry.repositories.downloadArtifacts",
            "artifactregistry.repositories.uploadArtifacts",
        ),
        (
            "roles/artifactregistry.repoAdmin",
            "artifactregistry.repositories.deleteArtifacts",
            "artifactregistry.repositories.create",
        ),
        ("roles/serviceusage.serviceUsageConsumer", "serviceusage.services.use", "serviceusage.services.enable"),
    ],
)
def test_a_role_has_exactly_googles_permissions(role, permission, not_held):
    assert has_permission(role, permission)
    assert not has_permission(role, not_held)
