"""The stack's state file, the ids of interrupted resources, and how they are taken up."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pulumi import automation

from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.phases import SetupError
from mcpfleet_local_cloud.commands.pulumi_engine import PulumiStack, UpdateResult, recover_pending
from mcpfleet_local_cloud.commands.stack_state import provider_id, read_stack_state, state_file

REPOSITORY = "gcp:artifactregistry/repository:Repository"
ACCOUNT = "gcp:serviceaccount/account:Account"
SERVICE = "gcp:cloudrunv2/service:Service"
INPUTS = {
    REPOSITORY: {"project": "p1", "location": "europe-west1", "repositoryId": "mcpfleet"},
    ACCOUNT: {"project": "p1", "accountId": "mcp-echo"},
    SERVICE: {"project": "p1", "location": "europe-west1", "name": "mcp-echo"},
}
# The import formats of the provider's documentation.
SHAPES = {
    REPOSITORY: r"projects/([^/]+)/locations/([^/]+)/repositories/([^/]+)",
    ACCOUNT: r"projects/([^/]+)/serviceAccounts/([^/@]+)@([^/]+)\.iam\.gserviceaccount\.com",
    SERVICE: r"projects/([^/]+)/locations/([^/]+)/services/([^/]+)",
}
names = st.from_regex(r"[a-z][a-z0-9-]{0,28}[a-z0-9]", fullmatch=True)


def urn(kind, name="echo"):
    return f"urn:pulumi:local::mcpfleet::{kind}::{name}"


@pytest.fixture
def folder(tmp_path):
    return CloudFolder(root=tmp_path, state=tmp_path / "my state")


@pytest.fixture
def write(folder):
    def write(content):
        file = state_file(folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return file

    return write


def checkpoint(*resources):
    return {"version": 3, "checkpoint": {"stack": "organization/mcpfleet/local", "latest": {"resources": [*resources]}}}


STACK = {"type": "pulumi:pulumi:Stack", "urn": urn("pulumi:pulumi:Stack", "mcpfleet-local")}


def test_the_state_has_the_resources_and_outputs_of_the_stack(folder, write):
    servers = {"echo": {"mcp_url": "http://127.0.0.1:9/mcp"}}
    service = {"type": SERVICE, "urn": urn(SERVICE), "id": "x", "outputs": {"uri": "http://127.0.0.1:9"}}
    write(checkpoint({**STACK, "outputs": {"servers": servers}}, service))
    found = read_stack_state(folder)
    assert found.resources == [service]
    assert found.servers == servers


@pytest.mark.parametrize(
    "content",
    [
        None,
        {"version": 3, "checkpoint": {}},
        {"checkpoint": {"latest": None}},
        {"checkpoint": {"latest": {}}},
        checkpoint(STACK),
    ],
    ids=["no file", "new", "latest is null", "nothing in it", "only the stack"],
)
def test_a_stack_without_a_deployment_is_empty(folder, write, content):
    if content is not None:
        write(content)
    assert (read_stack_state(folder).resources, read_stack_state(folder).servers) == ([], {})


CORRUPT = {
    "cut off": b'{"version":3,"checkpoi',
    "empty": b"",
    "binary": b"\xff\xfe\x00",
    "a list": [],
    "no checkpoint": {},
    "a checkpoint that is a word": {"checkpoint": "x"},
    "resources that are no list": {"checkpoint": {"latest": {"resources": {}}}},
    "a resource that is a word": checkpoint("x"),
    "a resource without a type": checkpoint({"urn": urn(SERVICE)}),
    "a resource without a URN": checkpoint({"type": SERVICE}),
    "outputs that are a list": checkpoint({**STACK, "outputs": [1]}),
    "encrypted servers": checkpoint({**STACK, "outputs": {"servers": {"4dabf18193072939515e22adb298388d": "1b47"}}}),
}


@pytest.mark.parametrize("content", CORRUPT.values(), ids=CORRUPT.keys())
def test_an_invalid_state_is_an_error_with_the_next_step(folder, write, content):
    file = write(content)
    with pytest.raises(SetupError) as failure:
        read_stack_state(folder)
    assert str(file) in failure.value.message
    assert "./dev down --force" in failure.value.next_step
    assert ".bak" not in failure.value.next_step, "there is no backup"


def test_an_invalid_states_backup_is_named_in_a_valid_shell_command(folder, write):
    file = write(b"")
    file.with_name("local.json.bak").write_text("{}")
    with pytest.raises(SetupError) as failure:
        read_stack_state(folder)
    assert f"(cp '{file}.bak' '{file}')" in failure.value.next_step


def test_a_state_file_that_is_a_folder_is_an_error(folder):
    state_file(folder).mkdir(parents=True)
    with pytest.raises(SetupError, match="Is a directory"):
        read_stack_state(folder)


@given(st.sampled_from(sorted(SHAPES)), names, names, names)
def test_an_id_has_the_providers_import_format(kind, project, location, name):
    inputs = {"project": project, "location": location, "repositoryId": name, "accountId": name, "name": name}
    found = re.fullmatch(SHAPES[kind], provider_id({"type": kind, "inputs": inputs}))
    assert found.groups() == ((project, name, project) if kind == ACCOUNT else (project, location, name))


@pytest.mark.parametrize(
    "kind",
    [
        "gcp:projects/service:Service",
        "gcp:cloudrunv2/serviceIamMember:ServiceIamMember",
        "gcp:serviceaccount/iAMMember:IAMMember",
        "docker-build:index:Image",
        "pulumi:providers:gcp",
        "mcpfleet:index:McpServer",
    ],
)
def test_a_resource_that_can_be_created_again_has_no_id(kind):
    everything = {"project": "p", "location": "l", "name": "n", "repositoryId": "r", "accountId": "a"}
    assert provider_id({"type": kind, "inputs": everything}) is None


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("value", [None, "", {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270"}])
def test_inputs_without_a_name_have_no_id(kind, value):
    assert provider_id({"type": kind, "inputs": INPUTS[kind]}) is not None
    for key in INPUTS[kind]:
        assert provider_id({"type": kind, "inputs": {**INPUTS[kind], key: value}}) is None
    assert provider_id({"type": kind}) is None


def test_every_named_resource_of_a_fleet_has_an_id():
    inputs = {"project": "p", "location": "l", "region": "r", "name": "n", "serviceId": "s", "secretId": "x"}
    found = {
        kind: provider_id({"type": kind, "inputs": inputs})
        for kind in (
            "gcp:compute/globalAddress:GlobalAddress",
            "gcp:compute/regionNetworkEndpointGroup:RegionNetworkEndpointGroup",
            "gcp:agentregistry/service:Service",
            "gcp:secretmanager/secret:Secret",
            "gcp:storage/bucket:Bucket",
        )
    }
    assert list(found.values()) == [
        "projects/p/global/addresses/n",
        "projects/p/regions/r/networkEndpointGroups/n",
        "projects/p/locations/l/services/s",
        "projects/p/secrets/x",
        "n",
    ]


class FakeStack:
    def __init__(self, **deployment):
        self.state = automation.Deployment(version=3, deployment=deployment)
        self.imported = []

    def export_stack(self):
        return self.state

    def import_stack(self, state):
        self.imported.append(state)


def resource(kind, name="echo", **more):
    return {"urn": urn(kind, name), "type": kind, "inputs": INPUTS.get(kind, {}), "parent": urn("p"), **more}


def test_a_state_with_nothing_pending_is_left_alone(step):
    for deployment in ({}, {"resources": [resource(SERVICE)]}, {"resources": [], "pending_operations": None}):
        stack = FakeStack(**deployment)
        assert not recover_pending(stack, step)
        assert stack.imported == []


def test_a_resource_whose_create_was_interrupted_is_imported_by_its_id(step):
    begun = resource(SERVICE)
    kept = resource(ACCOUNT, id="kept")
    stack = FakeStack(
        manifest={"version": "v3.256.0"}, resources=[kept], pending_operations=[{"type": "creating", "resource": begun}]
    )
    assert recover_pending(stack, step)
    (state,) = stack.imported
    assert state.version == 3
    assert state.deployment == {
        "manifest": {"version": "v3.256.0"},
        "pending_operations": [],
        "resources": [
            kept,
            {**begun, "id": "projects/p1/locations/europe-west1/services/mcp-echo", "outputs": INPUTS[SERVICE]},
        ],
    }


@pytest.mark.parametrize(
    "operation",
    [
        {"type": "creating", "resource": resource("docker-build:index:Image")},
        {"type": "updating", "resource": resource(SERVICE, id="x")},
        {"type": "deleting", "resource": resource(SERVICE, id="x")},
        {"type": "creating", "resource": resource(SERVICE, "known")},
    ],
    ids=["one that is created again", "an update", "a deletion", "a replacement"],
)
def test_any_other_pending_operation_is_dropped_and_refreshed(step, operation):
    there = [resource(SERVICE, id="x"), resource(SERVICE, "known", id="y")]
    stack = FakeStack(resources=there, pending_operations=[operation])
    assert recover_pending(stack, step), "a refresh has to tell what became of it"
    (state,) = stack.imported
    assert (state.deployment["resources"], state.deployment["pending_operations"]) == (there, [])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"same": 17, "create": 0}, "no changes"),
        ({"same": 15, "update": 2}, "2 updated"),
        ({"create": 3, "delete": 1, "replace": 2}, "3 created, 1 deleted, 2 replaced"),
    ],
)
def test_a_result_lists_the_changes(changes, words):
    assert str(UpdateResult(changes, [])) == words


class RefusedRefresh:
    """A stack whose refresh fails, as with the provider's setting of a failed run, and whose update works."""

    def refresh(self, **_):
        raise automation.CommandError("the old setting is wrong")

    def up(self, **_):
        return SimpleNamespace(outputs={})


def test_a_run_with_an_invalid_provider_setting_does_not_affect_the_next(monkeypatch, folder, write, step):
    write(checkpoint(STACK))
    unfinished = folder.state / "pulumi" / "unfinished"
    unfinished.touch()
    engine = PulumiStack(folder, Path("pulumi"), {})
    monkeypatch.setattr(engine, "_select_stack", RefusedRefresh)
    assert engine.up(step).outputs == {}
    assert not unfinished.exists(), "the run succeeded, so that nothing is doubtful any more"


@pytest.mark.parametrize("operations", [[], [{"type": "creating", "resource": resource(SERVICE)}]])
def test_the_state_shows_whether_a_run_was_interrupted(folder, write, operations):
    content = checkpoint(STACK)
    content["checkpoint"]["latest"]["pending_operations"] = operations
    write(content)
    assert read_stack_state(folder).pending == bool(operations)
