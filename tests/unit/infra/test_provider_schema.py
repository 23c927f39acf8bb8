"""The component provider: a complete schema, and the same components for programs in any language."""

import json
import re

import pulumi
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pulumi.errors import InputPropertiesError

from pulumi_mcpfleet.fleet import Client, Fleet, Server
from pulumi_mcpfleet.provider import schema, translate
from pulumi_mcpfleet.provider.components import Components
from tests.unit.infra.conftest import GRANT, SERVICE

FLEET = "mcpfleet:index:Fleet"
SERVER = "mcpfleet:index:McpServer"
PACKAGE = schema.package()
WORDS = {key for model in (Fleet, Server, Client) for key in model.model_fields}


def constructed(deploy, kind, name, inputs, **options):
    """What the component *kind* registers, and its outputs as a program has them."""

    def program():
        result = Components().construct(name, kind, inputs)
        for key, value in result.state.items():
            pulumi.export(key, value)

    return deploy(program, **options)


def mistakes(deploy, kind, name, inputs):
    with pytest.raises(InputPropertiesError) as refusal:
        constructed(deploy, kind, name, inputs)
    return {error["property_path"]: error["reason"] for error in refusal.value.errors or []}


# --- the schema -----------------------------------------------------------------------------------------


def test_every_type_input_and_output_has_a_description():
    assert list(schema.undescribed(PACKAGE)) == []


def test_every_input_and_output_has_a_type():
    def types(spec):
        if "oneOf" in spec:
            return all(types(alternative) for alternative in spec["oneOf"])
        if "$ref" in spec:
            return spec["$ref"].removeprefix("#/types/") in PACKAGE["types"]
        inner = spec.get("items") or spec.get("additionalProperties")
        return spec["type"] in {"string", "integer", "boolean"} or (inner is not None and types(inner))

    everything = [*PACKAGE["types"].values(), *PACKAGE["resources"].values()]
    untyped = [
        spec
        for definition in everything
        for spec in (definition.get("properties", {}) | definition.get("inputProperties", {})).values()
    ]
    assert len(untyped) > 250
    assert [spec for spec in untyped if not types(spec)] == []


def test_what_is_required_is_among_the_properties():
    for definition in (*PACKAGE["types"].values(), *PACKAGE["resources"].values()):
        assert set(definition["required"]) <= set(definition["properties"])
        assert set(definition.get("requiredInputs", [])) <= set(definition.get("inputProperties", {}))


def test_the_components_have_the_keys_of_a_fleet_and_of_a_server():
    fleet, server = (PACKAGE["resources"][kind] for kind in (FLEET, SERVER))
    assert set(fleet["inputProperties"]) == {"project", *map(schema.camel, Fleet.model_fields)}
    assert set(map(schema.camel, Server.model_fields)) < set(server["inputProperties"])
    assert fleet["requiredInputs"] == ["project", "servers"]
    assert server["requiredInputs"] == ["project", "source"]


def test_property_names_are_in_camel_case_and_descriptions_name_them_so():
    text = json.dumps(PACKAGE)
    assert not re.search(r'"[a-z]+_[a-z_]+": \{', text)
    assert not [word for word in WORDS if "_" in word and re.search(rf"\b{word}\b", text)]


def test_outputs_may_be_where_the_arguments_of_python_have_them_too():
    assert "plain" not in PACKAGE["types"]["mcpfleet:index:Vpc"]["properties"]["network"]
    assert PACKAGE["resources"][SERVER]["inputProperties"]["maxInstances"]["plain"] is True


# --- translation ----------------------------------------------------------------------------------------


def test_names_of_properties_are_translated_and_names_of_the_users_are_not():
    inputs = {
        "env": {"maxInstances": "minInstances", "A_B": "x"},
        "maxInstances": 3.0,
        "access": {"iap": {"members": ["user:a@b.c"], "oauthClient": {"clientId": "x", "secret": "s", "version": "1"}}},
        "volumes": {"readOnly": {"gcs": {"bucket": "b", "readOnly": False}, "mount": "/x"}},
        "source": {"stdio": {"npm": "a@1.0.0", "installScripts": ["b"]}, "buildArgs": {"fromHere": "x"}},
    }
    assert translate.to_arguments("McpServer", inputs) == {
        "env": {"maxInstances": "minInstances", "A_B": "x"},
        "max_instances": 3,
        "access": {
            "iap": {"members": ["user:a@b.c"], "oauth_client": {"client_id": "x", "secret": "s", "version": "1"}}
        },
        "volumes": {"readOnly": {"gcs": {"bucket": "b", "read_only": False}, "mount": "/x"}},
        "source": {"stdio": {"npm": "a@1.0.0", "install_scripts": ["b"]}, "build_args": {"fromHere": "x"}},
    }


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
        lambda x: (
            st.lists(x, max_size=3) | st.dictionaries(st.sampled_from(["source", "env", "access", "iam", "a"]), x)
        ),
    )
)
def test_no_input_is_refused_by_the_translation(value):
    for component in ("Fleet", "McpServer"):
        for key in ("servers", "source", "env", "maxInstances", "registry", "nothing"):
            assert set(translate.to_arguments(component, {key: value})) <= {*WORDS, key}


@given(st.text(max_size=200))
def test_every_line_of_a_report_is_a_mistake(line):
    path, reason = translate.to_mistake("McpServer", "echo", line)
    assert isinstance(path, str)
    assert isinstance(reason, str)


# --- components -----------------------------------------------------------------------------------------

SOURCE = {"image": "docker.io/acme/echo:1"}
INPUTS = {"project": "p", "region": "europe-west1", "source": SOURCE}


def test_a_server_has_its_outputs_under_the_names_of_the_schema(deploy):
    plan = constructed(deploy, SERVER, "echo", {**INPUTS, "minInstances": 1.0})
    assert set(plan.exports) == set(PACKAGE["resources"][SERVER]["required"])
    assert plan.exports["mcpUrl"] == "https://mcp-echo-h4sh-ew.a.run.app/mcp"
    assert plan.one(SERVICE).inputs["scaling"] == {"minInstanceCount": 1}


def test_a_fleet_has_the_outputs_of_each_server(deploy):
    servers = {"echo": {"source": SOURCE}, "other": {"source": SOURCE}}
    plan = constructed(deploy, FLEET, "fleet", {"project": "p", "region": "europe-west1", "servers": servers})
    assert set(plan.exports["servers"]) == {"echo", "other"}
    properties = PACKAGE["types"]["mcpfleet:index:ServerOutput"]["properties"]
    assert set(plan.exports["servers"]["echo"]) <= set(properties)
    assert plan.exports["servers"]["echo"]["clientConfig"]["mcpServers"]["echo"]["type"] == "http"


def test_an_output_of_another_resource_reaches_the_grant(deploy):
    def program():
        member = pulumi.Output.from_input("serviceAccount:agent@p.iam.gserviceaccount.com")
        Components().construct("echo", SERVER, {**INPUTS, "access": {"iam": {"invokers": [member]}}})

    (grant,) = deploy(program).of(GRANT)
    assert grant.inputs["member"] == "serviceAccount:agent@p.iam.gserviceaccount.com"


def test_every_mistake_is_at_its_property_in_the_words_of_the_program(deploy):
    reasons = mistakes(deploy, SERVER, "echo", {**INPUTS, "sessions": "stateful", "servicAccount": "x", "cpu": "0"})
    assert {"maxInstances", "servicAccount", "cpu"} == set(reasons)
    assert "write maxInstances: 1" in reasons["maxInstances"]
    assert reasons["servicAccount"] == "unknown key; did you mean serviceAccount?"


def test_mistakes_of_a_fleet_are_at_their_properties_too(deploy):
    inputs = {"project": "p", "region": "nowhere", "servers": {"echo": {"source": SOURCE, "minInstances": -1}}}
    assert set(mistakes(deploy, FLEET, "fleet", inputs)) == {"region", "servers.echo.minInstances"}


def test_a_resource_that_the_package_has_not_is_refused(deploy):
    with pytest.raises(InputPropertiesError, match="unknown resource type 'mcpfleet:index:Nothing'; available: mcp"):
        constructed(deploy, "mcpfleet:index:Nothing", "x", {})
