"""The shipped stack `showcase`, deployed by `./dev up`, called by the official client and its own clients.

A folder with a Dockerfile and one without, somebody else's image, an npm and a PyPI package that speak stdio; a client
for each way to call. Then, on the same cloud, private repositories, and folders with each kind of lock file.
"""

import asyncio
import base64
import json

import httpx2
import mcp_types
import pytest
import yaml

from tests.integration.checkout import ROOT
from tests.integration.generated_repositories import (
    HIDDEN,
    PASSWORD,
    PLAIN,
    PNPM,
    POETRY,
    TOKEN,
    YARN,
    YARN_BERRY,
    PrivateGit,
    commit,
    write,
)
from tests.integration.mcp_calls import answer, call

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]

BASE = {"BASE_IMAGE": "mcpfleet/base:python3.13"}
FILE = "Pulumi.showcase.yaml"
ACCESS = {"iam": {"invokers": ["user:ada@mcpfleet.test"]}}


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    """A git server that requires a password, and the variables with the credentials for it."""
    place = tmp_path_factory.mktemp("private")
    for name in ("private", "own"):
        write(place / "repositories" / name, PLAIN)
        commit(place / "repositories" / name)
    server = PrivateGit(place / "repositories", place)
    (place / "passwords").write_text(server.url.replace("//", f"//somebody:{PASSWORD}@") + "\n")
    (place / "config").write_text(f"[credential]\n\thelper = store --file={place}/passwords\n")
    yield server, {"GIT_CONFIG_GLOBAL": str(place / "config"), "GIT_SSL_CAINFO": str(server.authority)}
    server.close()


@pytest.fixture(scope="module")
def checkout(make_checkout):
    return make_checkout("showcase", whole=True)


@pytest.fixture(scope="module")
def shipped(checkout):
    """The output of `up` for the stack `showcase`, and the file that it was deployed from."""
    said = checkout.ok("up", "--stack", "showcase")
    return said, (checkout.place.root / FILE).read_bytes()


@pytest.fixture(scope="module")
def first(shipped, checkout, private):
    """The output of `up` after the other servers were added."""
    server, variables = private
    keep_token(checkout)
    root = checkout.place.root
    for name, files in {"pnpm": PNPM, "yarn": YARN, "berry": YARN_BERRY, "poetry": POETRY}.items():
        write(root / name, files)
    sources = {
        "private": {
            "git": {
                "url": f"{server.url}/private/.git",
                "ref": "main",
                "token": {"secret": "git-token", "version": "1"},
            }
        },
        "own": {"git": {"url": f"{server.url}/own/.git", "ref": "v1.0.0"}},
        **{name: {"folder": f"./{name}"} for name in ("pnpm", "yarn", "berry", "poetry")},
    }
    file = root / FILE
    stack = yaml.safe_load(file.read_text())
    fleet = stack["config"]["mcpfleet:fleet"]
    added = {name: {"source": {**source, "build_args": BASE}, "access": ACCESS} for name, source in sources.items()}
    fleet["servers"] |= added
    file.write_text(yaml.safe_dump(stack, sort_keys=False))
    checkout.variables |= variables
    return checkout.ok("up")


@pytest.fixture
def standing(shipped, checkout):
    """The deployed stack, with or without the other servers; returns the output of `up` for the shipped one."""
    checkout.stand("--stack", "showcase")
    return shipped[0]


@pytest.fixture
def deployed(standing, first):
    """The deployed stack with the other servers; returns the output of `up` for them."""
    return first


def keep_token(checkout):
    """Create the secret that the stack names."""
    from google.auth.transport.requests import AuthorizedSession
    from google.oauth2 import service_account

    credentials = service_account.Credentials.from_service_account_file(
        checkout.place.credentials / "deployer.json",
        scopes=["https://www.googleapis.com/auth/cloud-platform"],
        always_use_jwt_access=True,
    )
    project, secrets = "projects/mcpfleet-local", "secretmanager/v1/projects/mcpfleet-local/secrets"
    with AuthorizedSession(credentials) as session:
        for path, body in (
            (f"serviceusage/v1/{project}/services/secretmanager.googleapis.com:enable", {}),
            (f"{secrets}?secretId=git-token", {"replication": {"automatic": {}}}),
            (f"{secrets}/git-token:addVersion", {"payload": {"data": base64.b64encode(TOKEN.encode()).decode()}}),
        ):
            answer = session.post(f"{checkout.place.url}/{path}", json=body, timeout=30)
            assert answer.ok, answer.text


def test_the_shipped_stack_deploys_unchanged_and_prints_its_decisions(shipped):
    said, file = shipped
    assert file == (ROOT / FILE).read_bytes()
    assert "53 checks of 5 servers and 3 clients passed" in said
    assert "time: mcp-server-time==2026.10.19 of PyPI, behind the stdio bridge" in said
    assert "weather: python server.py: server.py is where it begins, by its name (`start`)" in said


@pytest.mark.parametrize(
    ("server", "tool", "arguments", "said"),
    [
        ("reference", "add", {"a": 2, "b": 3}, "5"),
        ("toolbox", "slugify", {"text": "Ünder way"}, "under-way"),
        ("weather", "dew_point", {"temperature": 20, "humidity": 50}, "9.3"),
        ("everything", "echo", {"message": "hello"}, "Echo: hello"),
    ],
)
@pytest.mark.parametrize("mode", ["2026-07-28", "legacy"])
def test_every_server_answers_clients_of_both_protocol_versions(
    standing, checkout, server, tool, arguments, said, mode
):
    assert said in answer(checkout, server, tool, arguments, mode)


def test_a_stdio_package_from_pypi_gets_its_arguments(standing, checkout):
    tools, said = asyncio.run(call(checkout, "time", "get_current_time", {"timezone": "Europe/Zurich"}))
    assert tools == {"get_current_time", "convert_time"}
    assert json.loads(said)["timezone"] == "Europe/Zurich"


def test_a_servers_request_reaches_its_client_through_bridge_ingress_and_identity_check(standing, checkout):
    async def sample(context, params):
        content = mcp_types.TextContent(type="text", text="a word from the client")
        return mcp_types.CreateMessageResult(role="assistant", content=content, model="m")

    arguments = {"prompt": "say", "maxTokens": 10}
    said = answer(checkout, "everything", "trigger-sampling-request", arguments, sampling_callback=sample)
    assert "a word from the client" in said


def test_every_client_reaches_only_its_configured_servers(standing, checkout):
    clients = yaml.safe_load((ROOT / FILE).read_text())["config"]["mcpfleet:fleet"]["clients"]
    for name, client in clients.items():
        target = checkout.state.outputs["clients"][name]
        auth = checkout.who("ada", target["url"])
        found = httpx2.post(f"{target['url']}/ask", json={}, auth=auth, timeout=90, trust_env=False)
        assert found.status_code == 200, found.text
        tools = {server: bool(item["tools"]) for server, item in found.json()["servers"].items()}
        assert tools == dict.fromkeys(client["calls"], True), name


@pytest.mark.parametrize("name", ["pnpm", "yarn", "berry"])
def test_a_node_folder_is_installed_with_the_tool_of_its_lock_file(deployed, checkout, name):
    assert answer(checkout, name, "milliseconds", {"text": "2h"}, "legacy") == "7200000"


def test_a_python_folder_with_a_poetry_lock_is_installed_with_poetry(deployed, checkout):
    assert answer(checkout, "poetry", "value", {"ini": "[a]\nb = by poetry"}, "legacy") == "by poetry"


def test_a_private_repository_is_fetched_with_the_token_or_the_users_credentials(deployed, checkout, private):
    server, _ = private
    for name in ("private", "own"):
        assert answer(checkout, name, "value", {"ini": f"[a]\nb = {name}"}, "legacy") == name
    assert set(server.let_in) == {"x-access-token", "somebody"}


def test_tokens_and_passwords_are_neither_stored_nor_printed(deployed, checkout, private, engine):
    server, _ = private
    hidden = [word.encode() for word in HIDDEN]
    assert server.seen_in_argv == []
    files = {file.relative_to(checkout.place.state): file for file in checkout.place.state.rglob("*") if file.is_file()}
    assert {"pulumi", "logs", "sources"} <= {file.parts[0] for file in files}, "where it could be"
    assert [str(name) for name, file in files.items() if any(word in file.read_bytes() for word in hidden)] == []
    assert not any(word.decode() in deployed for word in hidden)
    containers = {item.labels["dev.mcpfleet.service"]: item for item in checkout.containers(engine)}
    for container in (containers["mcp-private"], containers["mcp-own"]):
        said = json.dumps([container.attrs, container.image.attrs, container.image.history()]).encode()
        assert not any(word in said for word in hidden)
        code, found = container.exec_run(["grep", "-rlE", f"{TOKEN}|{PASSWORD}", "/app", "/opt", "/tmp"])  # noqa: S108
        assert (code, found) == (1, b"")


def test_a_second_up_changes_nothing_and_down_leaves_nothing(deployed, checkout):
    assert "no changes" in checkout.ok("up")
    assert "Nothing is left" in checkout.ok("down")
