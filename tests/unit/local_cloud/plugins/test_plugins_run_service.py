"""gcp:cloudrunv2/service:Service on the wire (docs/google-apis.md 1.1), and what its changes mean."""

import json
from string import ascii_lowercase

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcpfleet_local_cloud.plugins.gcp.run_service_fields import SERVICE
from mcpfleet_local_cloud.plugins.values import UNKNOWN, has_unknown

KIND = "gcp:cloudrunv2/service:Service"
PARENT = "/run/v2/projects/acme/locations/r1/services"
NAME = "projects/acme/locations/r1/services/hello"
PATH = f"/run/v2/{NAME}"
INPUTS = {
    "name": "hello",
    "location": "r1",
    "deletionProtection": False,
    "customAudiences": ["mcp://hello"],
    "ingress": "INGRESS_TRAFFIC_ALL",
    "labels": {"a": "b"},
    "template": {
        "serviceAccount": "sa@acme.iam.gserviceaccount.com",
        "scaling": {"minInstanceCount": 0, "maxInstanceCount": 3},
        "containers": [
            {
                "image": "reg/hello",
                "envs": [
                    {"name": "A", "value": "b"},
                    {"name": "S", "valueSource": {"secretKeyRef": {"secret": "tok", "version": "latest"}}},
                ],
                "resources": {"cpuIdle": True, "limits": {"cpu": "1", "memory": "512Mi"}},
                "startupProbe": {"httpGet": {"path": "/health"}},
            }
        ],
    },
}
COMPUTED = {
    "launchStage": "GA",
    "traffic": [{"type": "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST", "percent": 100}],
    "uri": "http://127.0.0.1:5000",
    "generation": "1",
    "terminalCondition": {"type": "Ready", "state": "CONDITION_SUCCEEDED"},
}


class Server:
    """Stores what it is sent and answers with it, as the API does: nulls are not kept, defaults are filled in."""

    def __init__(self, wire, *, ports=True):
        self.body = None
        self.ports = ports
        wire.answers |= {
            f"POST {PARENT}": self.write,
            f"PATCH {PATH}": self.write,
            f"GET {PATH}": lambda _request: {**self.body, "name": NAME},
            f"DELETE {PATH}": {"name": f"{NAME}/operations/o", "done": True},
        }

    def write(self, request):
        self.body = COMPUTED | _removed_outputs(json.loads(request.content))
        template = self.body.setdefault("template", {})
        template.setdefault("timeout", "300s")
        template.setdefault("maxInstanceRequestConcurrency", 80)
        for container in template.get("containers", []):
            if self.ports:
                container.setdefault("ports", [{"name": "http1", "containerPort": 8080}])
        return {"name": "projects/acme/locations/r1/operations/o", "done": True}


def _removed_outputs(value):
    if isinstance(value, dict):
        return {key: _removed_outputs(item) for key, item in value.items() if item is not None}
    return [_removed_outputs(item) for item in value] if isinstance(value, list) else value


@pytest.fixture
def server(wire):
    return Server(wire)


@pytest.fixture
def deployed(engine, server):
    """The service, created; its id and state."""
    return engine.create(KIND, engine.checked(KIND, INPUTS))


def test_create_sends_the_real_providers_request_and_reads_the_service(engine, server, wire):
    identity, state = engine.create(KIND, engine.checked(KIND, INPUTS))
    assert wire.bodies("POST") == [
        {
            "customAudiences": ["mcp://hello"],
            "ingress": "INGRESS_TRAFFIC_ALL",
            "labels": {"a": "b", "goog-pulumi-provisioned": "true"},
            "template": {
                "serviceAccount": "sa@acme.iam.gserviceaccount.com",
                "scaling": {"maxInstanceCount": 3},
                "containers": [
                    {
                        "image": "reg/hello",
                        "env": [
                            {"name": "A", "value": "b"},
                            {
                                "name": "S",
                                "valueSource": {"secretKeyRef": {"secret": "tok", "version": "latest"}},
                            },
                        ],
                        "resources": {"cpuIdle": True, "limits": {"cpu": "1", "memory": "512Mi"}},
                        "startupProbe": {
                            "failureThreshold": 3,
                            "periodSeconds": 10,
                            "timeoutSeconds": 1,
                            "httpGet": {"path": "/health"},
                            "grpc": None,
                            "tcpSocket": None,
                        },
                    }
                ],
            },
        }
    ]
    assert wire.calls == [f"POST {PARENT}?serviceId=hello", f"GET {PATH}"]
    assert identity == NAME
    assert state["uri"] == "http://127.0.0.1:5000"
    assert state["labels"] == {"a": "b"}
    assert state["effectiveLabels"] == state["pulumiLabels"] == {"a": "b", "goog-pulumi-provisioned": "true"}
    assert state["terminalConditions"] == [{"type": "Ready", "state": "CONDITION_SUCCEEDED"}]


def test_an_update_sends_the_whole_service_with_server_defaults(engine, server, wire, deployed):
    identity, state = deployed
    news = engine.checked(KIND, {**INPUTS, "ingress": "INGRESS_TRAFFIC_INTERNAL_ONLY"})
    assert engine.changed(KIND, state, news) == ["ingress"]
    wire.requests.clear()
    engine.update(KIND, identity, state, news)
    body = wire.bodies("PATCH")[0]
    assert wire.calls == [f"PATCH {PATH}", f"GET {PATH}"]
    assert body["launchStage"] == "GA"
    assert body["traffic"] == COMPUTED["traffic"]
    assert body["template"]["timeout"] == "300s"
    assert body["template"]["containers"][0]["ports"] == [{"name": "http1", "containerPort": 8080}]
    assert not {"name", "etag", "uri", "generation", "terminalCondition"} & set(body)


def test_removing_a_flag_omits_its_key(engine, server, wire):
    inputs = engine.checked(KIND, {**INPUTS, "invokerIamDisabled": True})
    identity, state = engine.create(KIND, inputs)
    news = engine.checked(KIND, {**INPUTS, "invokerIamDisabled": False})
    assert engine.changed(KIND, state, news) == ["invokerIamDisabled"]
    engine.update(KIND, identity, state, news)
    assert "invokerIamDisabled" not in wire.bodies("PATCH")[0]


@pytest.mark.parametrize(
    ("change", "path", "replaced"),
    [
        ({"location": "r2"}, "location", True),
        ({"name": "other"}, "name", True),
        ({"project": "beta"}, "project", True),
        ({"tags": {"tagKeys/1": "tagValues/2"}}, "tags", True),
        ({"description": "new"}, "description", False),
        ({"labels": {}}, "labels.a", False),
        ({"deletionProtection": True}, "deletionProtection", False),
    ],
)
def test_only_changes_of_identity_and_tags_replace_a_service(engine, deployed, change, path, replaced):
    answer = engine.diff(KIND, deployed[1], engine.checked(KIND, {**INPUTS, **change}))
    assert [field for field in answer.detailedDiff if field.startswith(path)]
    assert bool(answer.replaces) is replaced


@pytest.mark.parametrize("change", [{"location": "r2"}, {"name": "other"}])
def test_a_replacement_with_a_given_name_deletes_first(engine, deployed, change):
    assert engine.diff(KIND, deployed[1], engine.checked(KIND, {**INPUTS, **change})).deleteBeforeReplace


def test_a_replacement_with_a_generated_name_creates_first(engine):
    inputs = engine.checked(KIND, {key: value for key, value in INPUTS.items() if key != "name"})
    answer = engine.diff(KIND, {**inputs, "project": "acme"}, {**inputs, "location": "r2"})
    assert (list(answer.replaces), answer.deleteBeforeReplace) == (["location"], False)


def test_an_empty_string_does_not_reset_a_server_default(engine, deployed):
    state = {**deployed[1], "launchStage": "BETA"}
    inputs = engine.checked(KIND, INPUTS)
    assert engine.changed(KIND, state, {**inputs, "launchStage": ""}) == engine.changed(KIND, state, inputs)
    assert engine.changed(KIND, state, {**inputs, "launchStage": "GA"}) == ["launchStage"]


def test_the_order_of_environment_variables_is_no_change(engine, deployed):
    turned = json.loads(json.dumps(INPUTS))
    turned["template"]["containers"][0]["envs"].reverse()
    assert engine.changed(KIND, deployed[1], engine.checked(KIND, turned)) == []


def test_ignored_changes_are_no_changes(engine, deployed):
    news = engine.checked(KIND, {**INPUTS, "template": {**INPUTS["template"], "timeout": "9s"}})
    assert engine.diff(KIND, deployed[1], news, ignoreChanges=["template"]).changes == 1
    assert engine.diff(KIND, deployed[1], news).changes == 2


def test_a_preview_uses_the_inputs_and_calls_no_api(engine, server, wire):
    _, planned = engine.create(KIND, engine.checked(KIND, {**INPUTS, "description": UNKNOWN}), preview=True)
    assert wire.calls == []
    assert planned["uri"] is UNKNOWN
    assert planned["description"] is UNKNOWN
    assert planned["project"] == "acme"
    assert planned["template"]["containers"][0]["image"] == "reg/hello"


def test_a_preview_of_an_update_keeps_the_address(engine, server, deployed):
    news = engine.checked(KIND, {**INPUTS, "description": "new"})
    planned = engine.update(KIND, NAME, deployed[1], news, preview=True)
    assert planned["uri"] == "http://127.0.0.1:5000"
    assert not has_unknown(planned)


def test_a_failed_rollout_keeps_the_id(engine, server, wire, refused):
    failed = {"name": "o", "done": True, "error": {"code": 9, "message": "Revision 'x' is not ready."}}

    def write(request):
        server.write(request)
        return failed

    wire.answers[f"POST {PARENT}"] = write
    with pytest.raises(refused) as error:
        engine.create(KIND, engine.checked(KIND, INPUTS))
    message = (
        "Error waiting to create Service: Error waiting for Creating Service: Error code 9, message: Revision 'x' is "
        "not ready."
    )
    assert str(error.value) == message
    assert error.value.detail.id == NAME
    assert list(error.value.detail.reasons) == [message]


def test_a_refused_create_leaves_nothing(engine, wire, refused):
    error = {"code": 409, "message": "Resource 'hello' already exists.", "status": "ALREADY_EXISTS"}
    wire.answers[f"POST {PARENT}"] = (409, {"error": error})
    with pytest.raises(refused) as refusal:
        engine.create(KIND, engine.checked(KIND, INPUTS))
    assert str(refusal.value) == "Error creating Service: googleapi: Error 409: Resource 'hello' already exists."
    assert refusal.value.detail is None


def test_an_operation_is_polled_through_a_restart_of_the_cloud(engine, server, wire):
    operation = "projects/acme/locations/r1/operations/o"

    def write(request):
        return {**server.write(request), "done": False}

    wire.answers[f"POST {PARENT}"] = write
    wire.answers[f"GET /run/v2/{operation}"] = [
        {"name": operation, "done": False},
        httpx2.ConnectError("refused"),
        (503, {}),
        (404, {"error": {"code": 404, "message": "no such operation"}}),
        {"name": operation, "done": True},
    ]
    identity, _ = engine.create(KIND, engine.checked(KIND, INPUTS))
    assert identity == NAME
    assert wire.calls == [f"POST {PARENT}?serviceId=hello", *[f"GET /run/v2/{operation}"] * 5, f"GET {PATH}"]


def test_a_create_whose_response_was_lost_is_adopted(engine, server, wire):
    def lost(request):
        server.write(request)
        raise httpx2.ReadError("reset")

    exists = (409, {"error": {"code": 409, "message": "Resource 'hello' already exists."}})
    wire.answers[f"POST {PARENT}"] = [lost, exists]
    identity, state = engine.create(KIND, engine.checked(KIND, INPUTS))
    assert (identity, state["uri"]) == (NAME, "http://127.0.0.1:5000")


def test_a_protected_service_is_not_deleted(engine, server, wire, deployed, refused):
    identity, state = deployed
    wire.requests.clear()
    with pytest.raises(refused, match="cannot destroy service without setting deletion_protection=false"):
        engine.delete(KIND, identity, {**state, "deletionProtection": True})
    assert wire.calls == []
    engine.delete(KIND, identity, state)
    assert wire.calls == [f"DELETE {PATH}"]


def test_a_missing_service_can_be_deleted_and_reads_as_missing(engine, wire, deployed):
    identity, state = deployed
    wire.answers.clear()
    engine.delete(KIND, identity, state)
    assert engine.read(KIND, identity, state)[0] == ""


@pytest.mark.parametrize("identity", [NAME, "acme/r1/hello", "r1/hello"])
def test_an_import_accepts_every_format_of_the_id(engine, server, deployed, identity):
    imported, _, inputs = engine.read(KIND, identity)
    assert imported == NAME
    assert (inputs["name"], inputs["location"], inputs["project"]) == ("hello", "r1", "acme")
    assert inputs["deletionProtection"] is True


def test_drift_is_shown_as_a_change(engine, server, deployed):
    identity, state = deployed
    server.body["description"] = "by hand"
    _, now, _ = engine.read(KIND, identity, state, INPUTS)
    assert engine.changed(KIND, now, engine.checked(KIND, INPUTS)) == ["description"]


@pytest.mark.parametrize(
    ("news", "reason"),
    [
        ({"template": {"timout": "3s"}}, "Invalid or unknown key. Examine values at 'res.template.timout'."),
        ({"ingress": "ALL", "template": {}}, "expected ingress to be one of ["),
        ({"template": {"maxInstanceRequestConcurrency": "many"}}, "expected number type, got 'many' of type string."),
        ({"template": {"containers": [{}]}}, "Missing required property 'template.containers[0].image'"),
        ({"location": None, "template": {}}, "Missing required property 'location'"),
        (
            {"template": {"vpcAccess": {"connector": "c", "networkInterfaces": [{"network": "n"}]}}},
            'Conflicting configuration arguments. "connector": conflicts with networkInterfaces.',
        ),
    ],
)
def test_an_invalid_input_is_named_with_its_path(engine, news, reason):
    _, failures = engine.check(KIND, {"name": "hello", "location": "r1", **news})
    assert [path for _, path in failures if reason in path], failures


def test_a_service_without_a_name_gets_one_and_keeps_it(engine):
    unnamed = {key: value for key, value in INPUTS.items() if key != "name"}
    first = engine.check(KIND, unnamed, randomSeed=b"seed")[0]
    second = engine.check(KIND, unnamed, olds=first, randomSeed=b"other")[0]
    assert first["name"].startswith("res-")
    assert first["name"] == second["name"]
    assert first["__defaults"] == ["name"]


WORDS = st.text(ascii_lowercase, min_size=1, max_size=5)


def _values(field):
    if field.choices:
        return st.sampled_from(field.choices)
    if field.kind == "block":
        return _blocks(field.children)
    if field.children:
        return st.lists(_blocks(field.children), max_size=2)
    return {
        "string": WORDS,
        "int": st.integers(1 if field.computed else 0, 9),  # 0 where the server has a default asks for a change
        "float": st.sampled_from([0, 0.25, 0.5]),
        "bool": st.booleans(),
        "map": st.dictionaries(WORDS, WORDS, max_size=2),
        "list": st.lists(WORDS, max_size=2),
        "set": st.lists(WORDS, max_size=2, unique=True),
    }[field.kind]


def _blocks(fields):
    clashing = {name for field in fields for name in field.conflicts}
    inputs = [field for field in fields if field.is_input and field.name not in clashing]
    required = {field.name: _values(field) for field in inputs if field.required}
    return st.fixed_dictionaries(
        required, optional={field.name: _values(field) for field in inputs if not field.required}
    )


FIXED = {"name": "hello", "location": "r1", "deletionProtection": False}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_blocks([field for field in SERVICE if field.name not in {*FIXED, "project", "deletionPolicy"}]))
def test_a_deployed_service_needs_no_update(engine, wire, drawn):
    Server(wire, ports=False)  # a port 0 stands for none on the wire, and would come back as 8080
    wire.requests.clear()
    inputs = engine.checked(KIND, {**drawn, **FIXED})
    identity, state = engine.create(KIND, inputs)
    assert engine.changed(KIND, state, inputs) == []
    _, refreshed, fresh = engine.read(KIND, identity, state, inputs)
    assert engine.changed(KIND, refreshed, inputs) == []
    assert engine.changed(KIND, refreshed, engine.checked(KIND, fresh)) == []
