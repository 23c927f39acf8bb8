"""Groups in policies: who is in one, and who may say so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet_local_cloud.identity.groups import Groups
from mcpfleet_local_cloud.state.store import Store

SRE, ALL = "sre@acme.dev", "all@acme.dev"
ADA, BOB = "ada@mcpfleet.test", "bob@mcpfleet.test"


@pytest.fixture
def admin(running):
    def call(method, group="", body=None):
        headers = {"Authorization": f"Bearer {running.cloud.state.admin_token}"}
        path = f"/_local/groups/{group}" if group else "/_local/groups"
        return running.client.request(method, path, json=body, headers=headers)

    return call


def reads(running, address):
    return running.call("GET", "/crm/v1/projects/mcpfleet-local", as_=address).status_code


def test_a_member_has_its_groups_grants_until_it_leaves(running, admin):
    running.grant("roles/viewer", f"group:{SRE}")
    assert reads(running, ADA) == 403
    assert admin("PUT", SRE, {"members": ["Ada@mcpfleet.test"]}).json() == {"members": [ADA]}
    assert (reads(running, ADA), reads(running, BOB)) == (200, 403)
    assert admin("GET").json() == {"groups": {SRE: [ADA]}}
    assert admin("DELETE", SRE).json() == {}
    assert reads(running, ADA) == 403
    assert admin("DELETE", SRE).status_code == 404


def test_groups_may_be_nested_and_a_cycle_ends(running, admin):
    running.grant("roles/viewer", f"group:{ALL}")
    admin("PUT", ALL, {"members": [SRE]})
    admin("PUT", SRE, {"members": [ADA, ALL]})
    assert (reads(running, ADA), reads(running, BOB)) == (200, 403)


def test_a_member_of_an_invoker_group_can_call_a_service(running, admin):
    service = "projects/mcpfleet-local/locations/europe-west1/services/echo"
    running.grant("roles/run.invoker", f"group:{SRE}", service)
    admin("PUT", SRE, {"members": [BOB]})
    assert running.cloud.policies.allows(BOB, "run.routes.invoke", service)
    assert not running.cloud.policies.allows(None, "run.routes.invoke", service)
    assert not running.cloud.policies.allows("", "run.routes.invoke", service)


@pytest.mark.parametrize(
    ("group", "body"),
    [
        ("sre", {"members": [ADA]}),
        (SRE, {"members": ["ada"]}),
        (SRE, {"members": [f"user:{ADA}"]}),
        (SRE, {"members": ADA}),
        (SRE, {"members": ["x" * 255 + "@a.dev"]}),
        (SRE, {"members": [f"p{number}@a.dev" for number in range(1001)]}),
        (SRE, {"nonsense": []}),
    ],
)
def test_an_invalid_group_is_refused(admin, group, body):
    assert admin("PUT", group, body).status_code == 400


def test_groups_survive_a_restart_and_are_removed_by_a_reset(start):
    with start() as first:
        first.cloud.groups.put(SRE, [ADA])
    with start() as second:
        assert second.cloud.groups.all() == {SRE: [ADA]}
        admin = {"Authorization": f"Bearer {second.cloud.state.admin_token}"}
        second.client.post("/_local/reset", headers=admin)
        assert second.cloud.groups.all() == {}


NAMES = [f"{letter}@a.dev" for letter in "abcdef"]


@given(st.dictionaries(st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES))), st.sampled_from(NAMES))
def test_membership_is_the_transitive_closure(links, address):
    groups = Groups(Store())
    for group, members in links.items():
        groups.put(group, members)
    reached: set[str] = set()
    while others := {group for group, members in links.items() if {address, *reached} & set(members)} - reached:
        reached |= others
    assert groups.groups_of(address) == reached
