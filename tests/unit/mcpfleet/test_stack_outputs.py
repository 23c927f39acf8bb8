"""Reads a stack from a file of outputs, a state, a checkout's local cloud, or the Pulumi CLI."""

import json
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet import options, stack
from mcpfleet.errors import McpfleetError, UsageError
from mcpfleet.token_sources import Impersonation, TokenFile
from pulumi_mcpfleet.provider import translate

ECHO = {"mcp_url": "https://mcp-echo-1.europe-west1.run.app/mcp", "audience": "https://echo.acme.dev", "invokers": []}
OUTPUTS = {"servers": {"echo": ECHO, "time": {**ECHO, "invokers": ["user:ada@acme.dev"]}}}


def state(outputs):
    resources = [{"type": "x", "urn": "x"}, {"type": "pulumi:pulumi:Stack", "urn": "s", "outputs": outputs}]
    return {"version": 3, "checkpoint": {"stack": "s", "latest": {"resources": resources}}}


@pytest.fixture
def outputs(tmp_path):
    file = tmp_path / "outputs.json"
    file.write_text(json.dumps(OUTPUTS))
    return file


def never(command, folder):
    raise AssertionError(f"ran {command}")


def test_servers_are_read_from_a_file_of_outputs(outputs):
    deployed = stack.read_stack(outputs, run=never)
    assert list(deployed.servers) == ["echo", "time"]
    echo = deployed.servers["echo"]
    assert echo.target.mcp_url == ECHO["mcp_url"]
    assert echo.audience == "https://echo.acme.dev"
    assert deployed.servers["time"].invokers == ("user:ada@acme.dev",)
    assert deployed.credentials is None


def test_servers_are_read_from_a_state_file(tmp_path):
    file = tmp_path / "dev.json"
    file.write_text(json.dumps(state(OUTPUTS)))
    assert list(stack.read_stack(file, run=never).servers) == ["echo", "time"]


def in_camel_case(outputs):
    """The outputs as a program in YAML, TypeScript or Go has them."""
    return {
        kind: {
            name: translate.to_outputs("Fleet", {kind: {name: entry}})[kind][name] for name, entry in entries.items()
        }
        for kind, entries in outputs.items()
    }


def test_the_outputs_of_programs_in_other_languages_are_read_like_those_of_python(tmp_path):
    echo = {**ECHO, "program_audience": "1-x.apps.example.com", "health_path": "/health", "proxy_port": 3000}
    config = {"mcpServers": {"echo": {"type": "http", "url": "http://127.0.0.1:3000/mcp"}}}
    client = {
        "url": "https://caller-1.europe-west1.run.app",
        "calls": ["echo"],
        "program_audience": "1-x.apps.example.com",
    }
    outputs = {"servers": {"echo": {**echo, "client_config": config}}, "clients": {"caller": client}}
    other = in_camel_case(outputs)
    assert "mcpUrl" in other["servers"]["echo"]
    file = tmp_path / "outputs.json"
    stacks = []
    for content in (outputs, other):
        file.write_text(json.dumps(content))
        stacks.append(stack.read_stack(file, run=never))
    assert stacks[0] == stacks[1]


def test_an_output_in_both_cases_is_read_in_the_case_of_python(tmp_path):
    file = tmp_path / "outputs.json"
    file.write_text(json.dumps({"servers": {"echo": {"mcpUrl": "https://evil.example.com/mcp", **ECHO}}}))
    assert stack.read_stack(file, run=never).servers["echo"].target.mcp_url == ECHO["mcp_url"]


def test_a_wrong_value_under_a_name_in_camel_case_is_a_mistake(tmp_path):
    file = tmp_path / "outputs.json"
    file.write_text(json.dumps({"servers": {"echo": {**ECHO, "healthPath": "-x"}}}))
    with pytest.raises(McpfleetError, match=r"servers\.echo\.health_path: '-x' is not a path of a URL"):
        stack.read_stack(file, run=never)


def test_the_local_cloud_of_a_project_with_another_name_is_found(tmp_path):
    file = tmp_path / ".mcpfleet" / "pulumi" / ".pulumi" / "stacks" / "acme-mcp" / "local.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(state(OUTPUTS)))
    assert list(stack.read_stack(folder=tmp_path, run=never).servers) == ["echo", "time"]


def test_a_local_cloud_is_found_from_any_folder_of_its_checkout(tmp_path):
    file = tmp_path / ".mcpfleet" / "pulumi" / ".pulumi" / "stacks" / "mcpfleet" / "local.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(state(OUTPUTS)))
    subfolder = tmp_path / "docs" / "adr"
    subfolder.mkdir(parents=True)
    deployed = stack.read_stack(folder=subfolder, run=never)
    assert list(deployed.servers) == ["echo", "time"]
    assert deployed.credentials == tmp_path / ".mcpfleet" / "credentials" / "ada.json"
    file.rename(file.with_name("showcase.json"))
    assert "the stack showcase of" in stack.read_stack(folder=subfolder, run=never).origin
    file = file.with_name("showcase.json")
    commands = []
    stack.read_stack(
        stack="dev", folder=subfolder, run=lambda command, folder: commands.append(command) or (0, file.read_text(), "")
    )
    assert commands == [["pulumi", "stack", "output", "--json", "--non-interactive", "--stack", "dev"]]


def test_other_stacks_are_read_by_the_pulumi_cli(tmp_path):
    commands = []

    def run(command, folder):
        commands.append(folder)
        return 0, json.dumps(OUTPUTS), ""

    assert list(stack.read_stack(folder=tmp_path, run=run).servers) == ["echo", "time"]
    assert commands == [tmp_path]


def missing(command, folder):
    raise FileNotFoundError(command[0])


def hangs(command, folder):
    raise subprocess.TimeoutExpired(command, 60)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (missing, "not installed"),
        (hangs, "did not end"),
        (lambda command, folder: (255, "", "error: no stack selected\n"), "no stack selected. Choose a stack"),
        (lambda command, folder: (0, "{}", ""), "nothing is deployed"),
        (lambda command, folder: (0, "nonsense", ""), "not a JSON object"),
        (
            lambda command, folder: (0, '{"servers": {"echo": {"x": "x"}}}', ""),
            "echo has no mcp_url and audience",
        ),
    ],
)
def test_an_unreadable_stack_is_one_message_with_the_next_step(tmp_path, run, message):
    with pytest.raises(McpfleetError, match=message) as raised:
        stack.read_stack(folder=tmp_path, run=run)
    assert any(word in str(raised.value) for word in ("--outputs", "pulumi up", "not a JSON object"))


@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_any_invalid_file_is_one_message(tmp_path_factory, deployed):
    file = tmp_path_factory.mktemp("any") / "outputs.json"
    for content in (
        deployed,
        {"servers": deployed},
        {"servers": {"a": deployed}},
        {"checkpoint": deployed},
        state(deployed),
    ):
        file.write_text(json.dumps(content))
        with pytest.raises(McpfleetError):
            stack.read_stack(file, run=never)


def after_a_failed_up(outputs):
    """A state with the server `echo`, and with `sqlite` and `late`, whose deployment failed."""
    deployed = state(outputs)
    service = "gcp:cloudrunv2/service:Service"
    urns = {
        name: f"urn:pulumi:local::mcpfleet::mcpfleet:index:McpServer::{name}" for name in ("echo", "sqlite", "late")
    }
    reason = "Error waiting to create Service: no such file: server.py\n  at the \x1b[31mend."
    deployed["checkpoint"]["latest"]["resources"] += [
        *({"type": "mcpfleet:index:McpServer", "urn": urn} for urn in urns.values()),
        {"type": service, "urn": "e", "parent": urns["echo"]},
        {"type": service, "urn": "s", "parent": urns["sqlite"], "initErrors": [reason]},
    ]
    return deployed


def test_a_server_whose_deployment_failed_is_reported_with_the_reason(tmp_path):
    file = tmp_path / "dev.json"
    file.write_text(json.dumps(after_a_failed_up({"servers": {"echo": ECHO}})))
    deployed = stack.read_stack(file, run=never)
    assert list(deployed.servers) == ["echo"]
    for choose in (deployed.select_servers, deployed.select_services):
        with pytest.raises(UsageError) as raised:
            choose(["sqlite"])
        message = str(raised.value)
        assert message.startswith(f"sqlite is not in the outputs of {file}: its deployment failed: Error waiting to")
        assert "no such file: server.py" in message
        assert message.endswith("Fix what failed, then deploy again.")
        assert "\n" not in message
        assert "\x1b" not in message
        with pytest.raises(UsageError, match=r"late .*: its deployment ended before its service was created"):
            choose(["late"])
        with pytest.raises(UsageError, match="There is no server"):
            choose(["nosuch"])


def test_a_failed_first_deployment_is_reported_with_the_existing_services(tmp_path):
    file = tmp_path / "dev.json"
    file.write_text(json.dumps(after_a_failed_up({})))
    with pytest.raises(McpfleetError) as raised:
        stack.read_stack(file, run=never)
    assert "has no servers, because its last deployment failed. echo: it is deployed, but" in str(raised.value)
    assert "; sqlite: its deployment failed: Error" in str(raised.value)


RESOURCE = st.dictionaries(
    st.sampled_from(["type", "urn", "parent", "initErrors", "outputs"]),
    st.none()
    | st.sampled_from(["mcpfleet:index:McpServer", "gcp:cloudrunv2/service:Service", "a::b::echo", "a::b::x y", "echo"])
    | st.lists(st.none() | st.text(max_size=5), max_size=2),
)


@given(st.lists(RESOURCE | st.none(), max_size=5))
def test_any_invalid_resource_of_a_state_is_one_message(tmp_path_factory, resources):
    file = tmp_path_factory.mktemp("any") / "dev.json"
    for outputs in ({}, OUTPUTS):
        deployed = state(outputs)
        deployed["checkpoint"]["latest"]["resources"] += resources
        file.write_text(json.dumps(deployed))
        try:
            assert "echo" not in stack.read_stack(file, run=never).missing_outputs
        except McpfleetError:
            assert not outputs


def test_an_unknown_server_is_an_error_with_the_known_ones(outputs):
    with pytest.raises(UsageError, match="there are: echo, time"):
        stack.read_stack(outputs).select_servers(["ecco"])
    with pytest.raises(UsageError, match=r"Name a server: .* has echo, time"):
        options.select_server(stack.read_stack(outputs), None, None, None)


def test_a_url_is_accepted_as_a_server():
    deployed = options.find_stack("https://mcp-echo-1.europe-west1.run.app/mcp", "https://a.dev", None, None, None)
    server = options.select_server(deployed, None, "https://…", None)
    assert (server.name, server.audience) == ("mcp-echo", "https://a.dev")


def test_the_options_choose_exactly_one_identity(tmp_path):
    nobody = stack.Stack("here", {})
    assert isinstance(options.find_source(nobody, token_file=tmp_path / "t"), TokenFile)
    assert isinstance(options.find_source(nobody, impersonate="a@b.iam.gserviceaccount.com"), Impersonation)
    with pytest.raises(UsageError, match="Use only one"):
        options.find_source(nobody, credentials=tmp_path, token_file=tmp_path)
