"""Tests of what the commands read before they act: the project's folder, the stack and the server."""

import io
import json
from types import SimpleNamespace

import pytest
from rich.console import Console

from mcpfleet_local_cloud.commands import config_files, stack
from mcpfleet_local_cloud.commands.admin import find_new_lines
from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.paths import Paths
from mcpfleet_local_cloud.commands.phases import SetupError, SeveralErrors
from mcpfleet_local_cloud.commands.stack_state import state_file

SERVER = {
    "mcp_url": "http://127.0.0.1:19001/mcp",
    "audience": "http://127.0.0.1:19001",
    "service": "mcp-echo",
    "region": "europe-west1",
    "project": "p",
    "access": "iam",
    "reached": "proxy",
    "invokers": [],
    "client_config": {"mcpServers": {"echo": {"type": "http", "url": "http://127.0.0.1:3001/mcp"}}},
    "proxy_port": 3001,
}


SERVICES = "projects/p/locations/r/services"

CLIENT = {
    "url": "http://127.0.0.1:19002",
    "service": "mcp-asker",
    "region": "europe-west1",
    "project": "p",
    "calls": ["echo"],
    "topology": "service",
    "access": "iam",
    "invokers": ["user:ada@mcpfleet.test"],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The checkout's folder, in a checkout of the test's own."""
    checkout = Paths(root=tmp_path, cache=tmp_path / "cache")
    monkeypatch.setattr(Paths, "from_environ", classmethod(lambda _cls, _environ, _root=None: checkout))
    monkeypatch.delenv("MCPFLEET_PORT", raising=False)
    return CloudFolder(root=tmp_path, state=checkout.state)


@pytest.fixture
def cloud_at(folder):
    def cloud_at(port):
        folder.cloud_state.mkdir(parents=True, exist_ok=True)
        (folder.cloud_state / "cloud.json").write_text(json.dumps({"port": port, "pid": 2**30, "id": "c0"}))

    return cloud_at


@pytest.fixture
def deployed(folder):
    def deployed(clients=None, made=(), **servers):
        root = {
            "type": "pulumi:pulumi:Stack",
            "urn": "urn:s",
            "outputs": {"servers": servers, "clients": clients or {}},
        }
        other = {"type": "gcp:projects/service:Service", "urn": "urn:x"}
        made = [
            {"type": "gcp:cloudrunv2/service:Service", "urn": f"urn:{name}", "id": f"{SERVICES}/{name}"}
            for name in made
        ]
        file = state_file(folder)
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"checkpoint": {"latest": {"resources": [root, other, *made]}}}))

    return deployed


@pytest.fixture
def printed(plain):
    plain.out = Console(file=io.StringIO(), highlight=False, width=200)
    return plain.out.file.getvalue


def test_a_checkout_has_the_default_port_unless_configured(folder):
    assert stack.find_cloud_folder({}) == folder
    assert stack.find_cloud_folder({"MCPFLEET_PORT": ""}).port == 8470
    assert stack.find_cloud_folder({"MCPFLEET_PORT": "9000"}).port == 9000


@pytest.mark.parametrize("port", ["abc", "0", "80", "65536", "-1", "8470.0", " 8470", "²", "٨٤٧٠"])
def test_an_invalid_port_is_refused(folder, port):
    with pytest.raises(SetupError, match="not a port") as failure:
        stack.find_cloud_folder({"MCPFLEET_PORT": port})
    assert repr(port) in failure.value.message
    assert "1024 to 65535" in failure.value.next_step


def test_an_existing_cloud_keeps_its_port(cloud_at, folder):
    cloud_at(9000)
    assert stack.find_cloud_folder({}).port == 9000
    assert stack.find_cloud_folder({"MCPFLEET_PORT": "9000"}).port == 9000


def test_an_existing_cloud_cannot_change_its_port(cloud_at, folder):
    cloud_at(9000)
    with pytest.raises(
        SetupError, match="MCPFLEET_PORT is 9001, but this checkout's local cloud has port 9000"
    ) as failure:
        stack.find_cloud_folder({"MCPFLEET_PORT": "9001"})
    assert "MCPFLEET_PORT=9000 ./dev down" in failure.value.next_step


@pytest.fixture
def stacks(folder):
    for name, domain in (("local", "mcpfleet.test"), ("showcase", "mcpfleet.test"), ("dev", "googleapis.com")):
        (folder.root / f"Pulumi.{name}.yaml").write_text(f"config: {{gcp:universeDomain: {domain}}}\n")


def test_the_default_stack_is_local_or_the_deployed_one(folder, stacks):
    assert stack.select_stack(stack.find_cloud_folder({}), None).stack == "local"
    showcase = stack.select_stack(stack.find_cloud_folder({}), "showcase")
    assert showcase.stack == "showcase"
    state_file(showcase).parent.mkdir(parents=True)
    state_file(showcase).write_text("{}")
    assert stack.find_cloud_folder({}) == showcase
    assert stack.select_stack(stack.find_cloud_folder({}), "showcase") == showcase


def test_a_second_stack_is_refused_while_one_is_deployed(folder, stacks, deployed):
    deployed()
    with pytest.raises(SetupError, match="The stack local is deployed here") as failure:
        stack.select_stack(stack.find_cloud_folder({}), "showcase")
    assert failure.value.next_step == "take it down first: ./dev down."


@pytest.mark.parametrize(("name", "why"), [("dev", "is a stack of Google Cloud"), ("devv", "does not exist")])
def test_a_stack_that_is_not_local_is_an_error_with_the_local_ones(folder, stacks, name, why):
    with pytest.raises(SetupError, match=f"Pulumi.{name}.yaml {why}") as failure:
        stack.select_stack(stack.find_cloud_folder({}), name)
    assert "(local, showcase)" in failure.value.next_step


@pytest.mark.parametrize(
    "command", [lambda phases: stack.logs(phases, "echo"), lambda phases: stack.proxy(phases, "echo", None)]
)
def test_commands_before_the_first_up_say_that_nothing_is_deployed(folder, plain, command):
    with pytest.raises(SetupError, match="Nothing is deployed here") as failure:
        command(plain)
    assert "./dev up" in failure.value.next_step


@pytest.mark.parametrize(
    "command", [lambda phases: stack.logs(phases, "nosuch"), lambda phases: stack.proxy(phases, "nosuch", None)]
)
def test_an_unknown_server_is_an_error_with_the_known_ones(deployed, folder, plain, command):
    deployed(echo=SERVER, toolbox=SERVER)
    with pytest.raises(SetupError, match="no server or client 'nosuch'") as failure:
        command(plain)
    assert failure.value.next_step == "choose one of these: echo, toolbox."


@pytest.mark.parametrize(("asked", "port"), [(None, "3001"), (0, "0"), (4000, "4000")])
def test_the_proxy_uses_the_port_of_the_stacks_outputs_unless_configured(
    deployed, folder, plain, monkeypatch, asked, port
):
    deployed(echo=SERVER)
    started = []

    def run(command, env, check):
        started.append((command, env))
        return type("Done", (), {"returncode": 3})

    monkeypatch.setattr("mcpfleet_local_cloud.commands.stack.subprocess.run", run)
    with pytest.raises(SystemExit) as end:
        stack.proxy(plain, "echo", asked)
    ((command, env),) = started
    assert end.value.code == 3
    assert command[command.index("--port") + 1] == port
    assert command[command.index("--url") + 1] == SERVER["mcp_url"]
    assert env["GOOGLE_APPLICATION_CREDENTIALS"] == str(folder.credentials / "ada.json")


def test_env_and_verify_report_a_stopped_cloud(deployed, cloud_at, folder, plain):
    deployed(echo=SERVER)
    cloud_at(9000)
    for command in (stack.env, stack.verify):
        with pytest.raises(SetupError, match="The local cloud is not running") as failure:
            command(plain)
        assert "./dev up" in failure.value.next_step


def test_status_reports_that_no_server_answers_while_the_cloud_is_stopped(deployed, cloud_at, folder, plain, printed):
    deployed(echo=SERVER)
    cloud_at(9000)
    stack.status(plain)
    lines = printed().splitlines()
    assert lines[0].split() == ["Local", "cloud", "not", "running"]
    assert lines[1].endswith("1 resources; no server answers until ./dev up starts the local cloud again")
    assert "  proxy     ./dev proxy echo --port 3001" in lines


def test_status_before_the_first_up_prints_the_next_step(folder, plain, printed):
    stack.status(plain)
    assert printed().splitlines()[-1].endswith("not deployed; deploy it with ./dev up.")


def test_up_in_a_folder_without_a_project_creates_nothing_and_prints_the_next_step(folder, plain, monkeypatch):
    monkeypatch.setattr(stack, "prepare", lambda _phases: pytest.fail("it would set up a machine for nothing"))
    with pytest.raises(SetupError, match=r"no Pulumi\.yaml in .* or a folder above it") as refused:
        stack.up(plain)
    assert "folder of your Pulumi program" in refused.value.next_step
    assert list(folder.root.iterdir()) == []


BROKEN = {
    b"config:\n  mcpfleet:fleet:\n    region: r1\n   servers: {}\n": "line 4, column 4: expected <block end>",
    b"config: {a: b: c}\n": "line 1, column 14: ",
    b"config: 'open\n": "line 2, column 1: found unexpected end of stream",
    b"config:\n\tregion: r1\n": "line 2, column 1: found character '\\t' that cannot start any token",
    b"a: \xff\n": "is not UTF-8",
    b"a: \x07\n": "unacceptable character",
}


@pytest.mark.parametrize("file", ["Pulumi.yaml", "Pulumi.local.yaml"])
@pytest.mark.parametrize("content", BROKEN)
def test_up_with_invalid_yaml_names_file_and_line_and_creates_nothing(folder, plain, monkeypatch, file, content):
    monkeypatch.setattr(stack, "prepare", lambda _phases: pytest.fail("it would set up a machine for nothing"))
    (folder.root / "Pulumi.yaml").write_text("name: x\nruntime: python\n")
    (folder.root / file).write_bytes(content)
    with pytest.raises(SetupError) as refused:
        stack.up(plain)
    assert str(refused.value).startswith(file)
    assert BROKEN[content] in str(refused.value)
    assert str(refused.value).endswith("Nothing was changed.")


def test_yaml_tags_and_anchors_in_a_stack_file_are_left_to_pulumi(folder):
    (folder.root / "Pulumi.local.yaml").write_text("config:\n  a: &x !own [1]\n  b: *x\n")
    config_files.check(folder)


def test_down_before_the_first_up_installs_nothing(folder, plain, printed, monkeypatch):
    monkeypatch.setattr(
        "mcpfleet_local_cloud.commands.stack.prepare",
        lambda _phases: pytest.fail("it would install what it does not need"),
    )
    stack.down(plain)
    assert "Nothing is left of the stack" in printed()


@pytest.mark.parametrize(
    ("seen", "lines", "fresh"),
    [
        ([], ["a", "b"], ["a", "b"]),
        (["a", "b"], ["a", "b"], []),
        (["a"], ["a", "b"], ["b"]),
        (["a", "b", "c"], ["b", "c", "d"], ["d"]),
        (["a", "b"], ["x", "y"], ["x", "y"]),
        (["a", "a"], ["a", "a", "a"], ["a"]),
        (["a"], [], []),
    ],
    ids=["first", "nothing new", "grown", "the window moved on", "it moved on by more", "alike", "emptied"],
)
def test_following_a_log_prints_each_line_once(seen, lines, fresh):
    assert list(find_new_lines(seen, lines)) == fresh


@pytest.mark.parametrize(
    ("server", "words"),
    [
        (SERVER, "iam: nobody"),
        ({**SERVER, "invokers": ["user:a@b.dev", "group:c@b.dev"]}, "iam: user:a@b.dev, group:c@b.dev"),
        ({**SERVER, "reached": "network"}, "iam: nobody, from the project's networks only"),
        ({**SERVER, "access": "iap", "invokers": ["user:a@b.dev"]}, "iap: user:a@b.dev"),
        ({**SERVER, "access": "public"}, "public: anybody"),
        ({**SERVER, "access": "oauth"}, "oauth: callers with a token of its authorization server"),
    ],
)
def test_status_shows_who_can_call_each_server(deployed, folder, plain, printed, server, words):
    deployed(echo=server)
    stack.status(plain)
    assert f"access    {words}" in printed()


def test_a_server_unreachable_for_desktops_has_no_proxy_and_no_configuration(deployed, folder, plain, printed):
    deployed(echo={**SERVER, "reached": "network", "client_config": None, "proxy_port": None})
    stack.status(plain)
    text = printed()
    assert "MCP URL" in text
    assert "proxy  " not in text
    assert "client  " not in text


def test_a_client_can_be_named_in_commands_like_a_server(deployed, folder):
    deployed(echo=SERVER, clients={"asker": CLIENT})
    assert stack.find_service(folder, "asker") == CLIENT
    with pytest.raises(SetupError) as failure:
        stack.find_service(folder, "nosuch")
    assert failure.value.next_step == "choose one of these: echo, asker."


FAILED = f"{SERVICES}/mcp-sqlite"
MADE = ("mcp-echo", "mcp-sqlite", "mcp-late")


@pytest.fixture
def failed_up(monkeypatch, folder):
    """A cloud with the failed server `sqlite`, the running servers `echo` and `late`, and a service created by hand."""
    states = {
        SERVER["service"]: "CONDITION_SUCCEEDED",
        "mcp-sqlite": "CONDITION_FAILED",
        "mcp-late": "CONDITION_SUCCEEDED",
        "by-hand": "CONDITION_FAILED",
    }
    services = [
        {"name": f"{SERVICES}/{name}", "state": state, "uri": "http://127.0.0.1:19003"}
        for name, state in states.items()
    ]
    monkeypatch.setattr(stack.background, "find_running", lambda folder, what: {"pid": 1})
    monkeypatch.setattr(stack.AdminClient, "inventory", lambda self: {"services": services})
    monkeypatch.setattr(stack, "_log_lines", lambda cloud, service, follow: [f"log of {service}"])


def test_a_server_whose_deployment_failed_is_in_status_and_has_logs(deployed, failed_up, plain, printed):
    deployed(echo=SERVER)
    stack.status(plain)
    assert "sqlite: CONDITION_FAILED, and not in the stack's outputs: its deployment did not succeed." in printed()
    assert "late: it runs at http://127.0.0.1:19003, and is not in the stack's outputs" in printed()
    stack.logs(plain, "sqlite")
    assert f"log of {FAILED}" in printed()
    with pytest.raises(SetupError, match="There is no server or client 'nosuch'"):
        stack.logs(plain, "nosuch")


NEXT = "read its log with ./dev logs sqlite, correct the cause, then run ./dev up."


@pytest.mark.parametrize("wrong", [None, SetupError("echo: no token: 403", "read its log.")])
def test_after_a_failed_up_verify_checks_the_deployed_servers_and_reports_the_failed(
    deployed, failed_up, plain, monkeypatch, wrong
):
    deployed(echo=SERVER, made=MADE)
    checked = []

    def verify_servers(_phases, _folder, servers, *_more):
        checked.extend(servers)
        if wrong:
            raise wrong

    monkeypatch.setattr("mcpfleet_local_cloud.commands.verify.verify", verify_servers)
    with pytest.raises(SeveralErrors) as failure:
        stack.verify(plain)
    assert checked == ["echo"]
    said = [error.message.partition(":")[0] for error in failure.value.errors]
    assert said == [*(["echo"] if wrong else []), "sqlite", "late"]
    assert failure.value.errors[-2].next_step == NEXT


def test_after_a_failed_first_up_verify_lists_failed_and_running_servers(deployed, failed_up, plain):
    deployed(made=MADE)
    with pytest.raises(SeveralErrors) as failure:
        stack.verify(plain)
    assert [error.message.partition(":")[0] for error in failure.value.errors] == ["echo", "sqlite", "late"]


def test_a_proxy_to_a_server_whose_deployment_failed_is_an_error(deployed, failed_up, plain):
    deployed(echo=SERVER)
    with pytest.raises(SetupError, match="sqlite: CONDITION_FAILED, and not in the stack's outputs") as failure:
        stack.proxy(plain, "sqlite", None)
    assert failure.value.next_step == NEXT
    with pytest.raises(SetupError, match="There is no server or client 'nosuch'"):
        stack.proxy(plain, "nosuch", None)


def test_a_proxy_can_open_a_client_by_its_url(deployed, folder, plain, monkeypatch):
    deployed(echo=SERVER, clients={"asker": CLIENT})
    started = []
    monkeypatch.setattr(
        stack.subprocess, "run", lambda command, **_: started.append(command) or SimpleNamespace(returncode=0)
    )
    with pytest.raises(SystemExit):
        stack.proxy(plain, "asker", None)
    assert started[0][3:] == ["proxy", "--url", CLIENT["url"], f"--audience={CLIENT['url']}", "--port", "0"]


def test_clients_are_printed_after_the_servers_with_the_next_free_port(plain, printed):
    stack.print_services(plain, {"echo": SERVER}, {"asker": CLIENT, "open": {**CLIENT, "access": "public"}})
    asker = printed().split("asker, a client")[1]
    assert "./dev proxy asker --port 3002" in asker
    assert "echo (topology service)" in asker
    assert "user:ada@mcpfleet.test" in asker
    assert "proxy open" not in asker
