"""Federated principals in policies, agents of APIs, the project's organization, and entries of Agent Registry."""

import pytest

CRM = "/crm/v1/projects/mcpfleet-local"
POOL = "principal://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/github/subject/x"
REGISTRY = "/agentregistry/v1/projects/mcpfleet-local/locations/europe-west1/services"
SERVICE = "gcp:agentregistry/service:Service"
PROJECT_MEMBER = "gcp:projects/iAMMember:IAMMember"
ENTRY = {
    "location": "europe-west1",
    "serviceId": "mcp-hello",
    "displayName": "hello",
    "interfaces": [{"protocolBinding": "JSONRPC", "url": "https://hello-1.europe-west1.run.app/mcp"}],
    "mcpServerSpec": {"type": "NO_SPEC"},
}


@pytest.mark.parametrize("member", [POOL, POOL.replace("principal:", "principalSet:").replace("subject/x", "*")])
def test_a_role_of_a_federated_principal_admits_no_local_account(running, member):
    running.grant("roles/run.invoker", member)
    assert not running.cloud.policies.allows("ada@mcpfleet.test", "run.routes.invoke", "projects/mcpfleet-local")
    assert not running.cloud.policies.allows(member, "run.routes.invoke", "projects/mcpfleet-local")


def test_a_principal_without_a_pool_is_refused(running):
    policy = {"bindings": [{"role": "roles/viewer", "members": ["principal://nonsense"]}]}
    answer = running.call("POST", f"{CRM}:setIamPolicy", {"policy": policy})
    assert answer.status_code == 400
    assert "principal://nonsense is not valid" in answer.json()["error"]["message"]


def test_a_role_on_the_project_applies_to_its_resources(running, program):
    running.enable("secretmanager", "iam")
    running.call(
        "POST", "/secretmanager/v1/projects/mcpfleet-local/secrets?secretId=db", {"replication": {"automatic": {}}}
    )
    running.call(
        "POST", "/secretmanager/v1/projects/mcpfleet-local/secrets/db:addVersion", {"payload": {"data": "eA=="}}
    )
    path = "/secretmanager/v1/projects/mcpfleet-local/secrets/db/versions/1:access"
    account = running.call("POST", "/iam/v1/projects/mcpfleet-local/serviceAccounts", {"accountId": "mcp-hello"}).json()
    assert running.call("GET", path, as_=account["email"]).status_code == 403
    inputs = {
        "project": "mcpfleet-local",
        "role": "roles/secretmanager.secretAccessor",
        "member": f"serviceAccount:{account['email']}",
    }
    created = program.create(PROJECT_MEMBER, inputs)
    assert running.call("GET", path, as_=account["email"]).status_code == 200
    program.delete(PROJECT_MEMBER, created)
    assert running.call("GET", path, as_=account["email"]).status_code == 403


def test_the_project_has_an_organization(running):
    answer = running.call("POST", f"{CRM}:getAncestry", {}).json()
    (project, organization) = (ancestor["resourceId"] for ancestor in answer["ancestor"])
    assert (project["type"], project["id"]) == ("project", "mcpfleet-local")
    assert organization["type"] == "organization"
    assert running.call("GET", CRM).json()["parent"] == organization
    third = running.call("GET", "/crm/v3/projects/481516234200").json()
    assert third["parent"] == f"organizations/{organization['id']}"
    assert running.call("POST", f"{CRM}:getAncestry", {}, as_="bob@mcpfleet.test").status_code == 403


def test_an_api_without_a_known_service_agent_is_refused(running):
    path = "/serviceusage/v1beta1/projects/mcpfleet-local/services/dns.googleapis.com:generateServiceIdentity"
    assert running.call("POST", path, {}).status_code == 501


def test_a_program_registers_updates_and_removes_a_server(running, program):
    running.enable("agentregistry")
    created = program.create(SERVICE, ENTRY)
    assert created.resource_id == "projects/mcpfleet-local/locations/europe-west1/services/mcp-hello"
    assert created.properties["registryResource"].endswith("/locations/europe-west1/mcpServers/mcp-hello")
    assert program.diff(SERVICE, program.read(SERVICE, created), ENTRY) == {}
    changed = program.update(SERVICE, created, {**ENTRY, "displayName": "other"})
    assert running.call("GET", f"{REGISTRY}/mcp-hello").json()["displayName"] == "other"
    assert program.replaced(SERVICE, changed, {**ENTRY, "serviceId": "x"}) == ["serviceId"]
    assert running.cloud.inventory()["records"] == [f"agent registry {created.resource_id}"]
    program.delete(SERVICE, created)
    assert program.read(SERVICE, created) is None


@pytest.mark.parametrize(
    ("service_id", "body"),
    [
        ("x", {}),
        ("x", {"mcpServerSpec": {}}),
        ("x", {"mcpServerSpec": {"type": "NO_SPEC"}, "agentSpec": {"type": "NO_SPEC"}}),
        ("x", {"mcpServerSpec": {"type": "NO_SPEC"}, "interfaces": [{}]}),
        ("A", {"mcpServerSpec": {"type": "NO_SPEC"}}),
    ],
)
def test_an_entry_with_missing_or_extra_fields_is_refused(running, service_id, body):
    running.enable("agentregistry")
    assert running.call("POST", f"{REGISTRY}?serviceId={service_id}", body).status_code == 400


def test_the_value_of_a_secret_can_be_read_by_a_program(running, program):
    from mcpfleet_local_cloud.plugins.call import Call
    from mcpfleet_local_cloud.plugins.gcp.invokes import get_secret_version_access
    from mcpfleet_local_cloud.plugins.values import Secret

    running.enable("secretmanager")
    running.call(
        "POST", "/secretmanager/v1/projects/mcpfleet-local/secrets?secretId=db", {"replication": {"automatic": {}}}
    )
    running.call(
        "POST", "/secretmanager/v1/projects/mcpfleet-local/secrets/db:addVersion", {"payload": {"data": "eA=="}}
    )
    result = get_secret_version_access(program.api, Call(), {"secret": "db", "version": "1"})
    assert (result["secretData"], result["version"]) == (Secret("x"), "1")
    with pytest.raises(Exception, match="not found"):
        get_secret_version_access(program.api, Call(), {"secret": "none"})
